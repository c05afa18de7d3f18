// Dialect H (kind 22456) through the whole pipeline, as 0xchat and YakiHonne speak it, with nostr-tools' NIP-04.
// The stack's apps count as closed 30 s after their last heartbeat.

import { after, test } from 'node:test'
import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import { Client, close, counting, hex, now, publish, pushedTo, pushesOf } from './client.mjs'

const TIMEOUT = 30

const never = []
after(async () => {
  for (const event of never) assert.deepEqual(await pushesOf(event), [], `event ${event.id} was pushed`)
  close()
})

const bob = new Client()
const mention = (client, content) => publish(bob.note(content, client))

/** A client with settings in force, which its filters' first push shows. */
async function configured(more = {}) {
  const client = new Client()
  const phone = hex()
  await client.say({ kinds: [1, 4, 1059], deviceId: phone, ...more }, 'configured')
  await pushedTo(await mention(client, 'the first'), phone)
  return { client, phone }
}

/** The next second, so that what comes now comes after what came before by the clock of events. */
const nextSecond = async () => {
  const second = now()
  while (now() === second) await sleep(50)
}

test('a client that heartbeats and goes silent gets its push when the timeout is over, and not before', async () => {
  const { client, phone } = await configured()
  const beat = await client.say({ online: 1 }, 'heartbeat')
  const note = await counting('deliver.waiting.app_open', () => mention(client, 'while the app looks open'))
  const [push] = await pushedTo(note, phone)
  assert.ok(push.at >= (beat.created_at + TIMEOUT) * 1000, 'not before the timeout')
})

test('a client that heartbeats on, or goes away later, had the event itself', async () => {
  const clients = await Promise.all([configured(), configured()])
  const signs = [{ online: 1 }, { online: 0 }]
  for (const { client } of clients) await client.say({ online: 1 }, 'heartbeat')
  for (const { client } of clients) never.push(await counting('deliver.waiting.app_open', () => mention(client, 'seen in the app')))
  await nextSecond()
  const signed = async () => {
    for (const [n, { client }] of clients.entries()) await publish(client.settings(signs[n]))
  }
  await counting('deliver.dropped.app_open', signed, clients.length)
  for (const { client, phone } of clients) {
    await client.say({ online: 0 }, 'offline')
    await nextSecond()
    await pushedTo(await mention(client, 'the last'), phone)
  }
})

test('going offline pushes at once, and a client that never heartbeats is always offline', async () => {
  const { client, phone } = await configured()
  await client.say({ online: 1 }, 'heartbeat')
  await nextSecond()
  await client.say({ online: 0 }, 'offline')
  await nextSecond()
  await pushedTo(await mention(client, 'at once'), phone)
  const { client: silent, phone: other } = await configured()
  await pushedTo(await mention(silent, 'never opened'), other)
})

test('a heartbeat goes to many relays and is taken once', async () => {
  const client = new Client()
  const beat = client.settings({ online: 1 })
  await counting('listener.dropped.duplicate', () => counting('control.accepted.heartbeat', () => publish(beat, { everywhere: true })))
})

test('settings replace each other whole: a muted group stops, another phone takes over, off is off', async () => {
  const group = `group-${hex().slice(0, 8)}`
  const channel = hex()
  const { client, phone } = await configured({ kinds: [1, 9, 42], '#e': [channel, group] })
  await pushedTo(await publish(bob.sign(9, [['h', group]], 'in the group')), phone)
  await pushedTo(await publish(bob.sign(42, [['e', channel, '', 'root']], 'in the channel')), phone)
  await nextSecond()
  const tablet = `fcm:${hex()}`
  await client.say({ kinds: [1], deviceId: tablet, deviceOs: 'android', '#e': [channel] }, 'configured')
  never.push(await publish(bob.sign(9, [['h', group]], 'muted')))
  await pushedTo(await mention(client, 'on the other'), tablet)
  await nextSecond()
  await client.say({ kinds: [], deviceId: tablet, deviceOs: 'android' }, 'configured')
  never.push(await mention(client, 'off'))
  await nextSecond()
  await client.say({ kinds: [1], deviceId: tablet, deviceOs: 'android' }, 'configured')
  await pushedTo(await mention(client, 'on again'), tablet)
  await nextSecond()
  await client.say({ online: 0, deviceId: '' }, 'logged_out')
  never.push(await mention(client, 'logged out'))
  // By the time that another's push has come, these would have.
  await configured()
})

test('an app tag chooses another app, and its heartbeats do not silence this one', async () => {
  const { client, phone } = await configured()
  const second = hex()
  await client.say({ online: 1, kinds: [7], deviceId: second }, 'configured', { app: 'second' })
  await pushedTo(await mention(client, 'not silenced'), phone)
})

test('what is wrong is refused by its reason', async () => {
  const client = new Client()
  const refused = {
    not_encrypted: client.sign(22456, client.settings({}).tags, ''),
    stale: client.settings({ online: 1 }, { created_at: now() - 1000 }),
    unsupported_platform: client.settings({ kinds: [1], deviceId: 'https://ntfy.sh/upAbCd?up=1' }),
    bad_token: client.settings({ kinds: [1], deviceId: 'not-hex', deviceOs: 'ios' }),
    bad_payload: client.settings({ kinds: [1] }),
    unknown_app: client.settings({ online: 1 }, { app: 'nobody' }),
  }
  for (const [reason, event] of Object.entries(refused)) await counting(`control.refused.${reason}`, () => publish(event))
})

// Dialect H (kind 22456) through the whole pipeline, as 0xchat and YakiHonne publish it, encrypted
// with the NIP-04 of nostr-tools. The apps of the stack count as closed 30 s after their last
// heartbeat.

import { test } from 'node:test'
import assert from 'node:assert/strict'
import {
  Client,
  mustNotBePushed,
  nextSecond,
  now,
  publish,
  randomHex,
  waitForCounter,
  waitForPushes,
} from './client.mjs'

/** Seconds. The presence timeout of the apps. */
const TIMEOUT = 30

const bob = new Client()
const mention = (client, content) => publish(bob.note(content, client))

/** A client whose settings are in effect: an event has already been pushed to its phone. */
async function configured(more = {}) {
  const client = new Client()
  const phone = randomHex()
  await client.sendDialectH({ kinds: [1, 4, 1059], deviceId: phone, ...more }, 'configured')
  await waitForPushes(await mention(client, 'the first'), phone)
  return { client, phone }
}

test('a silent client gets the push after the timeout', async () => {
  const { client, phone } = await configured()
  const beat = await client.sendDialectH({ online: 1 }, 'heartbeat')
  const note = await waitForCounter('deliver.waiting.app_open', () =>
    mention(client, 'while the app looks open'),
  )
  const [push] = await waitForPushes(note, phone)
  assert.ok(push.at >= (beat.created_at + TIMEOUT) * 1000, 'the push was sent before the timeout')
})

test('an event is not pushed if a heartbeat follows it', async () => {
  const clients = await Promise.all([configured(), configured()])
  const payloads = [{ online: 1 }, { online: 0 }]
  for (const { client } of clients) await client.sendDialectH({ online: 1 }, 'heartbeat')
  for (const { client } of clients)
    mustNotBePushed.push(
      await waitForCounter('deliver.waiting.app_open', () => mention(client, 'seen in the app')),
    )
  await nextSecond()
  const publishPayloads = async () => {
    for (const [n, { client }] of clients.entries())
      await publish(client.dialectHEvent(payloads[n]))
  }
  await waitForCounter('deliver.dropped.app_open', publishPayloads, clients.length)
  for (const { client, phone } of clients) {
    await client.sendDialectH({ online: 0 }, 'offline')
    await nextSecond()
    await waitForPushes(await mention(client, 'the last'), phone)
  }
})

test('an app that is offline gets every push at once', async () => {
  const { client, phone } = await configured()
  await client.sendDialectH({ online: 1 }, 'heartbeat')
  await nextSecond()
  await client.sendDialectH({ online: 0 }, 'offline')
  await nextSecond()
  await waitForPushes(await mention(client, 'at once'), phone)
  const { client: silent, phone: other } = await configured()
  await waitForPushes(await mention(silent, 'never opened'), other)
})

test('a heartbeat from several relays is processed once', async () => {
  const client = new Client()
  await client.register(randomHex())
  const beat = client.dialectHEvent({ online: 1 })
  await waitForCounter('listener.dropped.duplicate', () =>
    waitForCounter('control.accepted.heartbeat', () => publish(beat, { everywhere: true })),
  )
})

test('new settings replace earlier settings completely', async () => {
  const group = `group-${randomHex().slice(0, 8)}`
  const channel = randomHex()
  const { client, phone } = await configured({ kinds: [1, 9, 42], '#e': [channel, group] })
  await waitForPushes(await publish(bob.sign(9, [['h', group]], 'in the group')), phone)
  await waitForPushes(
    await publish(bob.sign(42, [['e', channel, '', 'root']], 'in the channel')),
    phone,
  )
  await nextSecond()
  const tablet = `fcm:${randomHex()}`
  await client.sendDialectH(
    { kinds: [1], deviceId: tablet, deviceOs: 'android', '#e': [channel] },
    'configured',
  )
  mustNotBePushed.push(await publish(bob.sign(9, [['h', group]], 'muted')))
  await waitForPushes(await mention(client, 'on the other'), tablet)
  await nextSecond()
  await client.sendDialectH({ kinds: [], deviceId: tablet, deviceOs: 'android' }, 'configured')
  mustNotBePushed.push(await mention(client, 'off'))
  await nextSecond()
  await client.sendDialectH({ kinds: [1], deviceId: tablet, deviceOs: 'android' }, 'configured')
  await waitForPushes(await mention(client, 'on again'), tablet)
  await nextSecond()
  await client.sendDialectH({ online: 0, deviceId: '' }, 'logged_out')
  mustNotBePushed.push(await mention(client, 'logged out'))
  // When this push has arrived, pushes of the events above would have arrived as well.
  await configured()
})

test('heartbeats of another app do not delay pushes of this app', async () => {
  const { client, phone } = await configured()
  const second = randomHex()
  await client.sendDialectH({ online: 1, kinds: [7], deviceId: second }, 'configured', {
    app: 'second',
  })
  await waitForPushes(await mention(client, 'not silenced'), phone)
})

test('invalid events are refused with the right reason', async () => {
  const client = new Client()
  const refused = {
    not_encrypted: client.sign(22456, client.dialectHEvent({}).tags, ''),
    stale: client.dialectHEvent({ online: 1 }, { created_at: now() - 1000 }),
    unsupported_platform: client.dialectHEvent({
      kinds: [1],
      deviceId: 'https://ntfy.sh/upAbCd?up=1',
    }),
    bad_token: client.dialectHEvent({ kinds: [1], deviceId: 'not-hex', deviceOs: 'ios' }),
    bad_payload: client.dialectHEvent({ kinds: [1] }),
    unknown_app: client.dialectHEvent({ online: 1 }, { app: 'nobody' }),
  }
  for (const [reason, event] of Object.entries(refused))
    await waitForCounter(`control.refused.${reason}`, () => publish(event))
})

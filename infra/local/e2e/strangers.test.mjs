// What strangers can do to others: each attack with a newcomer and a known user beside it. The
// attackers are new keys, some with a device, whose token is any text.

import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import assert from 'node:assert/strict'
import * as nip13 from 'nostr-tools/nip13'
import { finalizeEvent } from 'nostr-tools/pure'
import { hexToBytes } from 'nostr-tools/utils'
import {
  Client,
  counter,
  itemsOf,
  mustNotBePushed,
  now,
  ownersRelay,
  publish,
  publishTo,
  pushesOf,
  randomHex,
  relays,
  service,
  waitForCounter,
  waitForPushes,
  waitUntil,
} from './client.mjs'

const bob = new Client()
/** A relay that accepts large events. */
const ROOMY = { on: relays[0] }
const times = (length, make) => Array.from({ length }, (_, n) => make(n))

/** A new client with a registered phone and a filter for mentions. */
async function registered(filter = {}) {
  const client = new Client()
  const phone = randomHex()
  await client.register(phone)
  await client.subscribe({ kinds: [1], '#p': [client.pubkey], ...filter })
  return { client, phone }
}

const push = async ({ client, phone }, content) =>
  waitForPushes(await publish(bob.note(content, client)), phone)

const known = await registered()
await push(known, 'before the attacks')

/** The known user still gets pushes, and so does somebody who registers now. */
async function othersAreServed() {
  await push(known, 'for the known user')
  const newcomer = await registered()
  await push(newcomer, 'for the newcomer')
}

test('a flood of large settings from one key waits, and nobody waits for it', async () => {
  for (const attacker of [new Client(), (await registered()).client]) {
    const before = await counter('control.accepted.configured')
    const flood = times(40, () =>
      attacker.dialectHEvent({ deviceId: '', kinds: [1], '#e': times(900, randomHex) }),
    )
    await Promise.all(flood.map((event) => publish(event, ROOMY)))
    await othersAreServed()
    const configured = (await counter('control.accepted.configured')) - before
    assert.ok(configured < 30, `${configured} of 40 were applied before the others' events`)
  }
})

test('filters of keys without a device queue no deliveries', async () => {
  const author = new Client()
  const reader = new Client()
  const phone = randomHex()
  await reader.register(phone)
  await reader.subscribe({ authors: [author.pubkey], kinds: [1] })
  for (const stranger of times(30, () => new Client()))
    await stranger.subscribe({ authors: [author.pubkey], kinds: [1] })
  const before = await counter('matcher.accepted.matched')
  const notes = []
  for (let n = 0; n < 10; n++) notes.push(await publish(author.note(`note ${n}`)))
  for (const note of notes) await waitForPushes(note, phone)
  assert.equal((await counter('matcher.accepted.matched')) - before, 10)
})

test('a filter that comes before the device is in force once the device is registered', async () => {
  const early = new Client()
  const phone = randomHex()
  await early.subscribe({ kinds: [1], '#p': [early.pubkey] })
  await early.register(phone)
  await push({ client: early, phone }, 'after the registration')
})

test('no delivery is queued after the last device is removed', async () => {
  const leaver = await registered()
  await push(leaver, 'while registered')
  await leaver.client.sendControl(3080, { token: '' }, 'removed_all', {
    created_at: now() + 1,
    expiration: null,
  })
  const before = await counter('matcher.accepted.matched')
  mustNotBePushed.push(await publish(bob.note('after the removal', leaver.client)))
  await push(known, 'after the removal of another')
  assert.equal((await counter('matcher.accepted.matched')) - before, 1)
})

test('deletions of filters that never existed keep one row', async () => {
  const stranger = new Client()
  for (let n = 0; n < 10; n++) {
    const filters = times(50, () => ({ authors: [randomHex()] }))
    await waitForCounter('control.accepted.unsubscribed', () =>
      publish(stranger.controlEvent(3082, { filters })),
    )
  }
  const owner = `demo#${stranger.pubkey}`
  const rows = await itemsOf('subscriptions', 'owner', owner)
  const rosters = await itemsOf('devices', 'device', `owner:${owner}`)
  assert.deepEqual([rows.length, rosters.length], [0, 1])
})

test('the mute list of a stranger is not stored', async () => {
  const stranger = new Client()
  const reader = new Client()
  const phone = randomHex()
  await reader.register(phone)
  await reader.subscribe({ authors: [stranger.pubkey] })
  const list = await publish(stranger.sign(10000, [['p', randomHex()]], ''))
  await waitForPushes(list, phone)
  assert.deepEqual(await itemsOf('mute-lists', 'pubkey', stranger.pubkey), [])
})

test('an app id longer than a key of DynamoDB is refused', async () => {
  await waitForCounter('control.refused.unknown_app', () =>
    publish(new Client().controlEvent(3079, { token: randomHex() }, { app: 'x'.repeat(3_000) })),
  )
})

test('old messages do not notify', async () => {
  const reader = await registered({ kinds: [4, 1059] })
  const to = (kind, age) =>
    bob.sign(kind, [['p', reader.client.pubkey]], randomHex(), now() - age)
  // After this push, the REQ for the filter is open, and the events below are live.
  await waitForPushes(await publish(to(1059, 0)), reader.phone)
  mustNotBePushed.push(
    await publish(to(1059, 5 * 86_400), { everywhere: true }),
    await publish(to(4, 2 * 3_600), { everywhere: true }),
  )
  await waitForPushes(await publish(to(1059, 0)), reader.phone)
  await waitForPushes(await publish(to(4, 0)), reader.phone)
})

test('a relay that only a stranger named pushes to nobody else', async () => {
  const reader = await registered({ kinds: [1059] })
  const stranger = new Client()
  const phone = randomHex()
  await stranger.register(phone)
  await stranger.sendControl(
    3081,
    { filter: { kinds: [1059], '#p': [stranger.pubkey] }, relays: [ownersRelay] },
    'subscribed',
  )
  // Each has another content, so that no two have the same id.
  const wrap = ({ pubkey }) => bob.sign(1059, [['p', pubkey]], randomHex())
  const first = wrap(stranger)
  await waitUntil('the relay is watched', async () => {
    await publishTo(ownersRelay, first)
    return (await pushesOf(first)).length > 0
  })
  for (let n = 0; n < 40; n++)
    mustNotBePushed.push(await publishTo(ownersRelay, wrap(reader.client)))
  await waitForPushes(await publishTo(ownersRelay, wrap(stranger)), phone)
  await waitForPushes(await publish(wrap(reader.client)), reader.phone)
})

test('many long filters use up the budget of their owner and of nobody else', async () => {
  const attacker = new Client()
  await attacker.register(randomHex())
  const filter = (n) => ({ kinds: [1], '#t': times(1_000, (i) => `${attacker.pubkey}${n}-${i}`) })
  await waitForCounter('control.refused.over_budget', async () => {
    for (let n = 0; n < 8; n++)
      await publish(attacker.controlEvent(3081, { filter: filter(n) }), ROOMY)
  })
  await othersAreServed()
})

test('filters of others for mentions of a user do not keep the mentions from the user', async () => {
  const attackers = []
  for (let n = 0; n < 20; n++) {
    const attacker = new Client()
    await attacker.register(randomHex())
    const filters = times(20, (i) => ({ kinds: [1, 20_000 + i], '#p': [known.client.pubkey] }))
    await attacker.sendControl(3081, { filters }, 'subscribed')
    attackers.push(attacker)
  }
  const note = await publish(bob.note('read by others too', known.client))
  await waitUntil('the push to the user who is mentioned', async () =>
    (await pushesOf(note)).some(({ token }) => token === known.phone),
  )
  for (const attacker of attackers)
    await attacker.sendControl(3080, { token: '' }, 'removed_all', {
      created_at: now() + 1,
      expiration: null,
    })
  await othersAreServed()
})

test('a note of 200 KB that names a thousand people is pushed to each owner', async () => {
  const readers = [await registered(), await registered()]
  const crowd = times(1_000, () => ({ pubkey: randomHex() }))
  const note = bob.note('x'.repeat(120_000), ...crowd, ...readers.map(({ client }) => client))
  await publish(note, ROOMY)
  await waitForPushes(note, ...readers.map(({ phone }) => phone))
})

/** Sends a registration with these tags to an app, and waits until it has this result. */
const registerWith = async (client, app, result, tags = [], mine = (event) => event) => {
  const event = {
    kind: 3079,
    created_at: now(),
    content: client.encrypt({ token: randomHex() }),
    pubkey: client.pubkey,
    tags: [
      ['p', service],
      ['app', app],
      ['expiration', String(now() + 86_400)],
      ...tags,
    ],
  }
  const { kind, created_at, content, tags: all } = mine(event)
  const signed = finalizeEvent({ kind, created_at, content, tags: all }, client.secret)
  await waitForCounter(result, () => publish(signed))
}

const REFUSED = 'listener.dropped.not_admitted'
const REGISTERED = 'control.accepted.registered'

test('an app can ask for work', async () => {
  await registerWith(new Client(), 'work', REFUSED)
  await registerWith(new Client(), 'work', REGISTERED, [], (event) => nip13.minePow(event, 10))
})

test('an app can ask for a grant', async () => {
  const key = hexToBytes(process.env.NOSTR_PUSH_GRANT_SECRET)
  const expiry = now() + 3_600
  const grant = (pubkey) => {
    const tags = [
      ['app', 'granted'],
      ['p', pubkey],
    ]
    const { sig } = finalizeEvent({ kind: 23_083, created_at: expiry, tags, content: '' }, key)
    return [['grant', String(expiry), sig]]
  }
  const client = new Client()
  await registerWith(client, 'granted', REFUSED)
  await registerWith(client, 'granted', REFUSED, grant(bob.pubkey))
  await registerWith(client, 'granted', REGISTERED, grant(client.pubkey))
  // Whoever has been admitted needs no grant to send more. The listener knows within two seconds.
  await waitUntil('a filter without a grant', async () => {
    const before = await counter('control.accepted.subscribed')
    const filter = { kinds: [1], '#p': [client.pubkey] }
    await publish(client.controlEvent(3081, { filter }, { app: 'granted' }))
    await sleep(1_000)
    return (await counter('control.accepted.subscribed')) > before
  })
})

test('an app can be closed', () => registerWith(new Client(), 'closed', REFUSED))

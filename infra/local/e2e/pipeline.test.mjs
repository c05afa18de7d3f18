// The whole pipeline for dialect N, from the relay to what SNS accepts, with nostr-tools as the client.

import { after, test } from 'node:test'
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { promisify } from 'node:util'
import { Client, api, close, counting, disable, hex, now, ownersRelay, publish, publishTo, pushedTo, pushesOf, service, status } from './client.mjs'

// Events that must never be pushed: looked for once more at the very end.
const never = []
after(async () => {
  for (const event of never) assert.deepEqual(await pushesOf(event), [], `event ${event.id} was pushed`)
  close()
})

const bob = new Client()

test('the stack says who it is', async () => {
  const said = await status()
  assert.equal(said.ready, true)
  assert.equal(said.service_pubkey, service)
  assert.deepEqual(said.apps, ['demo', 'second'])
})

test('two devices of one owner each get one push, in the form of their platform', async () => {
  const alice = new Client()
  const [iphone, android] = [hex(), `fcm:${hex()}`]
  await alice.register(iphone)
  await alice.register(android)
  await alice.subscribe({ kinds: [1], '#p': [alice.pubkey] })
  const note = await publish(bob.note('Hello Alice 👋', alice))
  const [apns, fcm] = await pushedTo(note, iphone, android)
  assert.deepEqual([apns.platform, fcm.platform, apns.app], ['apns', 'fcm', 'demo'])
  const { aps, ...routing } = apns.message
  assert.deepEqual(aps.alert, { title: 'New mention', body: 'Hello Alice 👋' })
  assert.equal(aps['mutable-content'], 1)
  assert.equal(aps['content-available'], undefined)
  const { relay, event, ...ids } = routing
  assert.deepEqual(ids, { event_id: note.id, title_loc_key: 'MENTION_TITLE', kind: 1, author: bob.pubkey, recipient: alice.pubkey, app: 'demo', reasons: ['#p'] })
  assert.equal(event.sig, note.sig)
  assert.equal(apns.attributes['AWS.SNS.MOBILE.APNS.COLLAPSE_ID'], note.id)
  const { data, android: settings } = fcm.message.fcmV1Message.message
  assert.equal(settings.priority, 'high')
  assert.ok(Object.values(data).every((value) => typeof value === 'string'))
  assert.equal(JSON.parse(data.event).id, note.id)
})

test('an event that comes over two relays, matches twice and is published again is one push', async () => {
  const [alice, dave] = [new Client(), new Client()]
  const phone = hex()
  await alice.register(phone)
  await alice.subscribe({ kinds: [1], '#p': [alice.pubkey] })
  await alice.subscribe({ authors: [dave.pubkey], '#p': [alice.pubkey] })
  await alice.subscribe({ kinds: [1], authors: [dave.pubkey] })
  // When the last filter works, the listener knows them all.
  await pushedTo(await publish(dave.note('to nobody')), phone)
  const note = dave.note('everywhere', alice)
  await publish(note, { everywhere: true })
  const [push] = await pushedTo(note, phone)
  assert.deepEqual(push.message.reasons, ['#p', 'author'])
  const later = dave.note('later', alice)
  await publish(note, { everywhere: true })
  await publish(later, { everywhere: true })
  await pushedTo(later, phone)
  await pushedTo(note, phone)
})

test('who subscribes while an event is on its way gets it, though another was first', async () => {
  const [alice, carol, dave] = [new Client(), new Client(), new Client()]
  const [hers, carols] = [hex(), hex()]
  await alice.register(hers)
  await alice.subscribe({ kinds: [1], authors: [dave.pubkey] })
  await pushedTo(await publish(dave.note('the first')), hers)
  await carol.register(carols)
  await carol.subscribe({ kinds: [1], '#p': [carol.pubkey] })
  // At once: the listener learns of carol's filter up to two seconds later.
  await pushedTo(await publish(dave.note('to both', carol)), hers, carols)
})

test("an owner's own event is no push", async () => {
  const alice = new Client()
  await alice.register(hex())
  await alice.subscribe({ kinds: [1], '#p': [alice.pubkey] })
  const own = alice.note('to myself', alice)
  never.push(own)
  await counting('matcher.dropped.own_event', () => publish(own))
})

test('apps are apart', async () => {
  const alice = new Client()
  const [inDemo, inSecond] = [hex(), hex()]
  await alice.register(inDemo)
  await alice.register(inSecond, { app: 'second' })
  await alice.subscribe({ kinds: [1], '#p': [alice.pubkey] }, { app: 'second' })
  const first = await publish(bob.note('only one app asked', alice))
  const [push] = await pushedTo(first, inSecond)
  assert.equal(push.app, 'second')
  await alice.subscribe({ kinds: [1], '#p': [alice.pubkey] })
  const both = await publish(bob.note('now both did', alice))
  await pushedTo(both, inDemo, inSecond)
})

test('a token that another pubkey registers is theirs', async () => {
  const [alice, carol] = [new Client(), new Client()]
  const [shared, others] = [hex(), hex()]
  await alice.register(shared, { created_at: now() - 2 })
  await alice.register(others)
  await alice.subscribe({ kinds: [1], '#p': [alice.pubkey] })
  await carol.register(shared)
  await carol.subscribe({ kinds: [1], '#p': [carol.pubkey] })
  const note = await publish(bob.note('to both', alice, carol))
  const [forAlice, forCarol] = await pushedTo(note, others, shared)
  assert.equal(forAlice.message.recipient, alice.pubkey)
  assert.equal(forCarol.message.recipient, carol.pubkey)
})

test('a 3082 that lists the values in another order deletes the filter', async () => {
  const alice = new Client()
  const phone = hex()
  await alice.register(phone)
  const start = now() - 10
  await alice.subscribe({ kinds: [7, 1], '#p': [alice.pubkey], limit: 5 }, { created_at: start })
  const before = await publish(bob.note('before', alice))
  await pushedTo(before, phone)
  await alice.ask(3082, { filter: { '#p': [alice.pubkey], kinds: [1, 7, 1] } }, 'unsubscribed', { expiration: null })
  const after = await publish(bob.note('after', alice))
  never.push(after)
  // The old upsert, replayed, does not bring it back.
  await counting('control.accepted.superseded', () => publish(alice.control(3081, { filter: { kinds: [1, 7], '#p': [alice.pubkey] } }, { created_at: start + 1 })))
  await alice.subscribe({ kinds: [6], '#p': [alice.pubkey] })
  const repost = await publish(bob.sign(6, [['p', alice.pubkey]], ''))
  await pushedTo(repost, phone)
})

test('a device that is removed gets nothing more, one by one or all at once', async () => {
  const alice = new Client()
  const [a, b, c] = [hex(), hex(), hex()]
  const registered = now() - 10
  for (const token of [a, b, c]) await alice.register(token, { created_at: registered })
  await alice.subscribe({ kinds: [1], '#p': [alice.pubkey] })
  await alice.ask(3080, { token: a }, 'removed', { created_at: registered + 1, expiration: null })
  await pushedTo(await publish(bob.note('two are left', alice)), b, c)
  await alice.ask(3080, { token: '' }, 'removed_all', { created_at: registered + 2, expiration: null })
  const none = await counting('deliver.dropped.no_device', () => publish(bob.note('none is left', alice)))
  never.push(none)
  await alice.register(c)
  await pushedTo(await publish(bob.note('one is back', alice)), c)
})

test('a filter that has expired does not match', async () => {
  const alice = new Client()
  const phone = hex()
  await alice.register(phone)
  const end = now() + 8
  await alice.subscribe({ kinds: [1], '#p': [alice.pubkey] }, { expiration: end })
  await alice.subscribe({ kinds: [7], '#p': [alice.pubkey] })
  while (now() <= end) await new Promise((resolve) => setTimeout(resolve, 200))
  const late = await publish(bob.note('too late', alice))
  never.push(late)
  await pushedTo(await publish(bob.sign(7, [['p', alice.pubkey]], '🤙')), phone)
})

test('messages and wraps reach their addressee only, and never with content in the text', async () => {
  const [alice, carol] = [new Client(), new Client()]
  const [hers, carols] = [hex(), hex()]
  await alice.register(hers)
  await alice.subscribe({ kinds: [4, 1059] })
  const dave = new Client()
  await carol.register(carols)
  await carol.subscribe({ authors: [dave.pubkey] })
  for (const kind of [4, 1059]) {
    const message = await publish(dave.sign(kind, [['p', alice.pubkey]], 'the ciphertext'))
    const [push] = await pushedTo(message, hers)
    assert.deepEqual(push.message.aps.alert, { title: 'New message', body: 'You have a new private message' })
  }
})

test('a wrap that is backdated by two days arrives while live', async () => {
  const alice = new Client()
  const phone = hex()
  await alice.register(phone)
  await alice.subscribe({ kinds: [1, 1059], '#p': [alice.pubkey] }, { created_at: now() - 3 * 86400 })
  const wrap = await publish(new Client().sign(1059, [['p', alice.pubkey]], 'x', now() - 2 * 86400 + 600))
  await pushedTo(wrap, phone)
})

test('an app that was uninstalled is removed, and comes back by registering', async () => {
  const alice = new Client()
  const phone = hex()
  await alice.register(phone, { created_at: now() - 5 })
  await alice.subscribe({ kinds: [1], '#p': [alice.pubkey] })
  await pushedTo(await publish(bob.note('installed', alice)), phone)
  await counting('feedback.accepted.removed', async () => assert.equal((await disable(phone)).status, 200))
  never.push(await counting('deliver.dropped.no_device', () => publish(bob.note('uninstalled', alice))))
  await alice.register(phone)
  await pushedTo(await publish(bob.note('installed again', alice)), phone)
  assert.equal((await disable('nobody')).status, 404)
})

test("an owner's own relay is watched, by either dialect", async () => {
  const [alice, carol] = [new Client(), new Client()]
  const [hers, carols] = [hex(), hex()]
  await alice.register(hers)
  await alice.ask(3081, { filter: { kinds: [1], '#p': [alice.pubkey] }, relays: [ownersRelay, 'https://no.relay'] }, 'subscribed')
  await pushedTo(await publishTo(ownersRelay, bob.note('over there', alice)), hers)
  await carol.say({ kinds: [1], deviceId: carols, relays: [ownersRelay] }, 'configured')
  await pushedTo(await publishTo(ownersRelay, bob.note('here too', carol)), carols)
})

test('what is wrong is refused by its reason', async () => {
  const alice = new Client()
  const soon = String(now() + 1000)
  const tags = [['p', service], ['app', 'demo'], ['expiration', soon]]
  const refused = {
    not_encrypted: alice.sign(3079, tags, JSON.stringify({ token: hex() })),
    undecryptable: alice.sign(3079, tags, new Client().encrypt({ token: hex() })),
    missing_app: alice.sign(3079, [['p', service], ['expiration', soon]], alice.encrypt({ token: hex() })),
    unknown_app: alice.control(3079, { token: hex() }, { app: 'nobody' }),
    missing_expiration: alice.control(3081, { filter: { '#t': ['x'] } }, { expiration: null }),
    bad_payload: alice.control(3081, { filter: { '#p': ['npub1'] } }),
    too_broad: alice.control(3081, { filter: { kinds: [1] } }),
    over_quota: alice.control(3081, { filter: { '#t': Array.from({ length: 1001 }, (_, n) => `t${n}`) } }),
    unsupported_platform: alice.control(3079, { token: hex(), platform: 'apns_sandbox' }),
    from_future: alice.control(3079, { token: hex() }, { created_at: now() + 3600 }),
  }
  for (const [reason, event] of Object.entries(refused)) await counting(`control.refused.${reason}`, () => publish(event))
})

test('the clients in docs/protocol.md run as they are', async () => {
  const page = await readFile(new URL('../../../docs/protocol.md', import.meta.url), 'utf8')
  const examples = [...page.matchAll(/```js\n([^]*?)```/g)].map(([, code]) => code.replaceAll('http://127.0.0.1:8787', api))
  assert.equal(examples.length, 2)
  // Beside this file, so that it finds nostr-tools.
  const file = new URL('example.tmp.mjs', import.meta.url)
  for (const code of examples) {
    await writeFile(file, code)
    try {
      const { stdout } = await promisify(execFile)(process.execPath, [file.pathname], { timeout: 120_000 })
      assert.match(stdout, /body: 'hello'/)
    } finally {
      await rm(file)
    }
  }
})

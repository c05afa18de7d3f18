// Dialect N through the whole pipeline, from the relay to the publishes that SNS accepts, with
// nostr-tools as the client.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { promisify } from 'node:util'
import {
  Client,
  api,
  disable,
  isRough,
  mustNotBePushed,
  mustNotBePushedAtOnce,
  nextSecond,
  now,
  ownersRelay,
  publish,
  publishTo,
  randomHex,
  service,
  status,
  test,
  waitForCounter,
  waitForPushes,
} from './client.mjs'

const bob = new Client()

test('status reports the service pubkey and the apps', async () => {
  const response = await status()
  assert.equal(response.ready, true)
  assert.equal(response.service_pubkey, service)
  assert.deepEqual(response.apps, ['demo', 'second', 'work', 'granted', 'closed'])
})

test("each device gets one push in its platform's format", async () => {
  const alice = new Client()
  const [iphone, android] = [randomHex(), `fcm:${randomHex()}`]
  await alice.register(iphone)
  await alice.register(android)
  await alice.subscribe({ kinds: [1], '#p': [alice.pubkey] })
  const note = await publish(bob.note('Hello Alice 👋', alice))
  const [apns, fcm] = await waitForPushes(note, iphone, android)
  assert.deepEqual([apns.platform, fcm.platform, apns.app], ['apns', 'fcm', 'demo'])
  const { aps, ...routing } = apns.message
  assert.deepEqual(aps.alert, { title: 'New mention', body: 'Hello Alice 👋' })
  assert.equal(aps['mutable-content'], 1)
  assert.equal(aps['content-available'], undefined)
  const { relay, event, ...ids } = routing
  assert.deepEqual(ids, {
    event_id: note.id,
    title_loc_key: 'MENTION_TITLE',
    kind: 1,
    author: bob.pubkey,
    recipient: alice.pubkey,
    app: 'demo',
    reasons: ['#p'],
  })
  assert.equal(event.sig, note.sig)
  assert.equal(apns.attributes['AWS.SNS.MOBILE.APNS.COLLAPSE_ID'], note.id)
  const { data, android: settings } = fcm.message.fcmV1Message.message
  assert.equal(settings.priority, 'high')
  assert.ok(Object.values(data).every((value) => typeof value === 'string'))
  assert.equal(JSON.parse(data.event).id, note.id)
})

test('an event from two relays is pushed once', async () => {
  const [alice, dave] = [new Client(), new Client()]
  const phone = randomHex()
  await alice.register(phone)
  await alice.subscribe({ kinds: [1], '#p': [alice.pubkey] })
  await alice.subscribe({ authors: [dave.pubkey], '#p': [alice.pubkey] })
  await alice.subscribe({ kinds: [1], authors: [dave.pubkey] })
  // When the last filter takes effect, the listener knows all of them.
  await waitForPushes(await publish(dave.note('to nobody')), phone)
  const note = dave.note('everywhere', alice)
  await publish(note, { everywhere: true })
  const [push] = await waitForPushes(note, phone)
  assert.deepEqual(push.message.reasons, ['#p', 'author'])
  const later = dave.note('later', alice)
  await publish(note, { everywhere: true })
  await publish(later, { everywhere: true })
  await waitForPushes(later, phone)
  await waitForPushes(note, phone)
})

test('a new subscription gets an event that others match too', async () => {
  const [alice, carol, dave] = [new Client(), new Client(), new Client()]
  const [alicePhone, carolPhone] = [randomHex(), randomHex()]
  await alice.register(alicePhone)
  await alice.subscribe({ kinds: [1], authors: [dave.pubkey] })
  await waitForPushes(await publish(dave.note('the first')), alicePhone)
  await carol.register(carolPhone)
  await carol.subscribe({ kinds: [1], '#p': [carol.pubkey] })
  // Published at once. The listener learns of carol's filter up to two seconds later.
  await waitForPushes(await publish(dave.note('to both', carol)), alicePhone, carolPhone)
})

test("an owner's own event is not pushed", async () => {
  const alice = new Client()
  await alice.register(randomHex())
  await alice.subscribe({ kinds: [1], '#p': [alice.pubkey] })
  const own = alice.note('to myself', alice)
  mustNotBePushed.push(own)
  await waitForCounter('matcher.dropped.own_event', () => publish(own))
})

test('subscriptions of one app do not apply to another app', async () => {
  const alice = new Client()
  const [inDemo, inSecond] = [randomHex(), randomHex()]
  await alice.register(inDemo)
  await alice.register(inSecond, { app: 'second' })
  await alice.subscribe({ kinds: [1], '#p': [alice.pubkey] }, { app: 'second' })
  const first = await publish(bob.note('only one app asked', alice))
  const [push] = await waitForPushes(first, inSecond)
  assert.equal(push.app, 'second')
  await alice.subscribe({ kinds: [1], '#p': [alice.pubkey] })
  const both = await publish(bob.note('now both did', alice))
  await waitForPushes(both, inDemo, inSecond)
})

test('a token that another pubkey registers changes its owner', async () => {
  const [alice, carol] = [new Client(), new Client()]
  const [shared, others] = [randomHex(), randomHex()]
  await alice.register(shared, { created_at: now() - 2 })
  await alice.register(others)
  await alice.subscribe({ kinds: [1], '#p': [alice.pubkey] })
  await carol.register(shared)
  await carol.subscribe({ kinds: [1], '#p': [carol.pubkey] })
  const note = await publish(bob.note('to both', alice, carol))
  const [forAlice, forCarol] = await waitForPushes(note, others, shared)
  assert.equal(forAlice.message.recipient, alice.pubkey)
  assert.equal(forCarol.message.recipient, carol.pubkey)
})

test('3082 deletes a filter with reordered values', async () => {
  const alice = new Client()
  const phone = randomHex()
  await alice.register(phone)
  const start = now() - 10
  await alice.subscribe({ kinds: [7, 1], '#p': [alice.pubkey], limit: 5 }, { created_at: start })
  const before = await publish(bob.note('before', alice))
  await waitForPushes(before, phone)
  await alice.sendControl(
    3082,
    { filter: { '#p': [alice.pubkey], kinds: [1, 7, 1] } },
    'unsubscribed',
    { expiration: null },
  )
  const after = await publish(bob.note('after', alice))
  mustNotBePushed.push(after)
  // An older 3081 that is replayed does not restore the filter.
  await waitForCounter('control.accepted.superseded', () =>
    publish(
      alice.controlEvent(
        3081,
        { filter: { kinds: [1, 7], '#p': [alice.pubkey] } },
        { created_at: start + 1 },
      ),
    ),
  )
  await alice.subscribe({ kinds: [6], '#p': [alice.pubkey] })
  const repost = await publish(bob.sign(6, [['p', alice.pubkey]], ''))
  await waitForPushes(repost, phone)
})

test('removed devices get no push', async () => {
  const alice = new Client()
  const [a, b, c] = [randomHex(), randomHex(), randomHex()]
  const registered = now() - 10
  for (const token of [a, b, c]) await alice.register(token, { created_at: registered })
  await alice.subscribe({ kinds: [1], '#p': [alice.pubkey] })
  await alice.sendControl(3080, { token: a }, 'removed', {
    created_at: registered + 1,
    expiration: null,
  })
  await waitForPushes(await publish(bob.note('two are left', alice)), b, c)
  await alice.sendControl(3080, { token: '' }, 'removed_all', {
    created_at: registered + 2,
    expiration: null,
  })
  const none = await publish(bob.note('none is left', alice))
  mustNotBePushedAtOnce(none)
  await nextSecond()
  await alice.register(c)
  await waitForPushes(await publish(bob.note('one is back', alice)), c)
})

test('a filter that has expired does not match', async () => {
  const alice = new Client()
  const phone = randomHex()
  await alice.register(phone)
  const end = now() + (isRough ? 60 : 8)
  await alice.subscribe({ kinds: [1], '#p': [alice.pubkey] }, { expiration: end })
  await alice.subscribe({ kinds: [7], '#p': [alice.pubkey] })
  while (now() <= end) await new Promise((resolve) => setTimeout(resolve, 200))
  const late = await publish(bob.note('too late', alice))
  mustNotBePushed.push(late)
  await waitForPushes(await publish(bob.sign(7, [['p', alice.pubkey]], '🤙')), phone)
})

test('private events reach only their addressee', async () => {
  const [alice, carol] = [new Client(), new Client()]
  const [alicePhone, carolPhone] = [randomHex(), randomHex()]
  await alice.register(alicePhone)
  await alice.subscribe({ kinds: [4, 1059] })
  const dave = new Client()
  await carol.register(carolPhone)
  await carol.subscribe({ authors: [dave.pubkey] })
  for (const kind of [4, 1059]) {
    const message = await publish(dave.sign(kind, [['p', alice.pubkey]], 'the ciphertext'))
    const [push] = await waitForPushes(message, alicePhone)
    assert.deepEqual(push.message.aps.alert, {
      title: 'New message',
      body: 'You have a new private message',
    })
  }
})

test('a live wrap that is backdated by two days is pushed', async () => {
  const alice = new Client()
  const phone = randomHex()
  await alice.register(phone)
  await alice.subscribe(
    { kinds: [1, 1059], '#p': [alice.pubkey] },
    { created_at: now() - 3 * 86400 },
  )
  // The filter is in effect once this note is pushed.
  await waitForPushes(await publish(bob.note('first', alice)), phone)
  const wrap = await publish(
    new Client().sign(1059, [['p', alice.pubkey]], 'x', now() - 2 * 86400 + 600),
  )
  await waitForPushes(wrap, phone)
})

test("an uninstalled app's device is removed", async () => {
  const alice = new Client()
  const phone = randomHex()
  await alice.register(phone, { created_at: now() - 5 })
  await alice.subscribe({ kinds: [1], '#p': [alice.pubkey] })
  await waitForPushes(await publish(bob.note('installed', alice)), phone)
  await waitForCounter('feedback.accepted.removed', async () =>
    assert.equal((await disable(phone)).status, 200),
  )
  const missed = await publish(bob.note('uninstalled', alice))
  mustNotBePushedAtOnce(missed)
  await nextSecond()
  await alice.register(phone)
  await waitForPushes(await publish(bob.note('installed again', alice)), phone)
  assert.equal((await disable('nobody')).status, 404)
})

test('relays that an owner names are watched, in both dialects', async () => {
  const [alice, carol] = [new Client(), new Client()]
  const [alicePhone, carolPhone] = [randomHex(), randomHex()]
  await alice.register(alicePhone)
  await alice.sendControl(
    3081,
    { filter: { kinds: [1], '#p': [alice.pubkey] }, relays: [ownersRelay, 'https://no.relay'] },
    'subscribed',
  )
  await waitForPushes(await publishTo(ownersRelay, bob.note('over there', alice)), alicePhone)
  await carol.sendDialectH(
    { kinds: [1], deviceId: carolPhone, relays: [ownersRelay] },
    'configured',
  )
  await waitForPushes(await publishTo(ownersRelay, bob.note('here too', carol)), carolPhone)
})

test('invalid events are refused with the right reason', async () => {
  const alice = new Client()
  const soon = String(now() + 1000)
  const tags = [
    ['p', service],
    ['app', 'demo'],
    ['expiration', soon],
  ]
  const refused = {
    not_encrypted: alice.sign(3079, tags, JSON.stringify({ token: randomHex() })),
    undecryptable: alice.sign(3079, tags, new Client().encrypt({ token: randomHex() })),
    missing_app: alice.sign(
      3079,
      [
        ['p', service],
        ['expiration', soon],
      ],
      alice.encrypt({ token: randomHex() }),
    ),
    unknown_app: alice.controlEvent(3079, { token: randomHex() }, { app: 'nobody' }),
    missing_expiration: alice.controlEvent(3081, { filter: { '#t': ['x'] } }, { expiration: null }),
    bad_payload: alice.controlEvent(3081, { filter: { '#p': ['npub1'] } }),
    too_broad: alice.controlEvent(3081, { filter: { kinds: [1] } }),
    over_quota: alice.controlEvent(3081, {
      filter: { '#t': Array.from({ length: 1001 }, (_, n) => `t${n}`) },
    }),
    unsupported_platform: alice.controlEvent(3079, {
      token: randomHex(),
      platform: 'apns_sandbox',
    }),
    from_future: alice.controlEvent(3079, { token: randomHex() }, { created_at: now() + 3600 }),
  }
  for (const [reason, event] of Object.entries(refused))
    await waitForCounter(`control.refused.${reason}`, () => publish(event))
})

// The examples do not wait until the service has accepted their control events. On a rough endpoint
// that can take minutes, and an event that was published a minute earlier is not pushed then.
if (!isRough)
  test('the example clients in docs/protocol.md run unchanged', async () => {
    const page = await readFile(new URL('../../../docs/protocol.md', import.meta.url), 'utf8')
    const examples = [...page.matchAll(/```js\n([^]*?)```/g)].map(([, code]) =>
      code.replaceAll('http://127.0.0.1:8787', api),
    )
    assert.equal(examples.length, 2)
    // In this folder, so that the import of nostr-tools is resolved.
    const file = new URL('example.tmp.mjs', import.meta.url)
    for (const code of examples) {
      await writeFile(file, code)
      try {
        const { stdout } = await promisify(execFile)(process.execPath, [file.pathname], {
          timeout: 120_000,
        })
        assert.match(stdout, /body: 'hello'/)
      } finally {
        await rm(file)
      }
    }
  })

// The listener at a relay with low limits (`strict-relay.mjs`): filters that would make its REQs
// too large, events that are too large, and notes that were signed before they are published.

import { test } from 'node:test'
import assert from 'node:assert/strict'
import {
  Client,
  importToStrictRelay,
  mustNotBePushed,
  now,
  publish,
  randomHex,
  relays,
  strictRelay,
  violations,
  waitForCounter,
  waitForPushes,
} from './client.mjs'

/** The bytes of the largest message that the strict relay accepts. */
const MAX_MESSAGE_BYTES = 65_536

const bob = new Client()
const STRICT = { on: strictRelay }

/** A new client with a registered phone and a filter for mentions. */
async function newcomer() {
  const client = new Client()
  const phone = randomHex()
  await client.register(phone)
  await client.subscribe({ kinds: [1], '#p': [client.pubkey] })
  return { client, phone }
}

/** Publishes a note to the strict relay only, and waits until it is pushed. */
const pushFromStrictRelay = async ({ client, phone }, content) =>
  waitForPushes(await publish(bob.note(content, client), STRICT), phone)

/**
 * Runs `action`. Throws if a client violated a limit of the strict relay, or if the listener
 * connected to it again in the meantime, except to request profiles.
 */
async function withoutReconnection(action) {
  const withoutSize = async () => ({ ...(await violations()), largest_message: undefined })
  const before = await withoutSize()
  await action()
  assert.deepEqual(await withoutSize(), before)
}

/**
 * Filters with long tag values. JSON encodes each character \u0001 with six bytes. Control events
 * with these filters are smaller than a message may be, but REQs with all values are not, and a
 * value has many more bytes in JSON than a pubkey.
 */
const longFilters = (name) =>
  [
    { values: 200, length: 30 },
    { values: 100, length: 64 },
    { values: 12, length: 490 },
  ].map(({ values, length }, n) => ({
    kinds: Array.from({ length: 64 }, (_, i) => 50_000 + 100 * n + i),
    '#t': Array.from({ length: values }, (_, i) => `${name}${n}-${i}${'\u0001'.repeat(length)}`),
  }))

/** Publishes a control event for each filter, and waits until the service has accepted it. */
async function subscribeToAll(attacker, filters) {
  for (const filter of filters) {
    const event = attacker.controlEvent(3081, { filter })
    const size = Buffer.byteLength(JSON.stringify(['EVENT', event]))
    assert.ok(size < MAX_MESSAGE_BYTES, `a control event has ${size} bytes`)
    await waitForCounter('control.accepted.subscribed', () => publish(event))
  }
}

test('the strict relay has counted no violation', async () => {
  const { connections, largest_message, ...violated } = await violations()
  assert.ok(connections > 0 && largest_message > 0)
  assert.deepEqual([...new Set(Object.values(violated))], [0], JSON.stringify(violated))
})

test('long filters of a key without a device end no connection', () =>
  withoutReconnection(async () => {
    await subscribeToAll(new Client(), longFilters('a'))
    // The REQs for the second newcomer are sent after those for the long filters.
    for (const content of ['the first newcomer', 'the second newcomer'])
      await pushFromStrictRelay(await newcomer(), content)
  }))

test('long filters of a key with a device match', () =>
  withoutReconnection(async () => {
    const client = new Client()
    const phone = randomHex()
    const filters = longFilters('b')
    await client.register(phone)
    await subscribeToAll(client, filters)
    for (const { kinds, '#t': values } of filters) {
      const event = bob.sign(kinds.at(-1), [['t', values.at(-1)]], 'matches a long value')
      await waitForPushes(await publish(event, STRICT), phone)
    }
    await pushFromStrictRelay(await newcomer(), 'the third newcomer')
  }))

test('notes on each relay are pushed despite long filters', async () => {
  const { client, phone } = await newcomer()
  for (const relay of relays)
    await waitForPushes(await publish(bob.note(`on ${relay}`, client), { on: relay }), phone)
})

test('events that are too large end no connection', () =>
  withoutReconnection(async () => {
    const client = new Client()
    const phone = randomHex()
    const importLargeNote = async () =>
      mustNotBePushed.push(await importToStrictRelay(bob.note('x'.repeat(300_000), client)))
    await client.register(phone)
    // Stored before the filter, so that the REQ for the filter returns it.
    await waitForCounter('listener.dropped.too_large', async () => {
      await importLargeNote()
      await client.subscribe({ kinds: [1], '#p': [client.pubkey] })
    })
    await pushFromStrictRelay({ client, phone }, 'after a large stored note')
    await waitForCounter('listener.dropped.too_large', importLargeNote)
    await pushFromStrictRelay({ client, phone }, 'after a large live note')
  }))

test('a note signed ten minutes ago is pushed, one of an hour ago is not', async () => {
  const { client, phone } = await newcomer()
  const signedAgo = (seconds) =>
    bob.sign(1, [['p', client.pubkey]], `signed ${seconds} s ago`, now() - seconds)
  // After this push, the REQ for the filter is open, and the notes below are live events.
  await pushFromStrictRelay({ client, phone }, 'signed now')
  mustNotBePushed.push(await publish(signedAgo(3_700), STRICT))
  await waitForPushes(await publish(signedAgo(600), STRICT), phone)
  await pushFromStrictRelay({ client, phone }, 'the last')
})

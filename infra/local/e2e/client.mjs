// A client that follows the examples of the drafts, and helpers that query the local stack. The
// client shares no code with the service.

import assert from 'node:assert/strict'
import { after, test as nodeTest } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { finalizeEvent, generateSecretKey, getPublicKey } from 'nostr-tools/pure'
import { Relay } from 'nostr-tools/relay'
import * as nip04 from 'nostr-tools/nip04'
import * as nip44 from 'nostr-tools/nip44'

/** `true` if the AWS endpoint throttles, delays and repeats. */
export const isRough = process.env.NOSTR_PUSH_ROUGH === '1'
/**
 * How long a test waits for something. A working service never needs this long. On a rough endpoint
 * a message whose retry cannot be scheduled comes back after the queue's visibility timeout of three
 * minutes, and an event passes three queues. A removal that failed half way is taken over after two
 * minutes, and can fail again.
 */
const WAIT_LIMIT_MS = isRough ? 1_200_000 : 120_000

export const api = process.env.NOSTR_PUSH_URL
export const relays = process.env.NOSTR_PUSH_RELAYS.split(',')
/** A relay that is not among the operator's relays. */
export const ownersRelay = process.env.NOSTR_PUSH_OWNERS_RELAY
/** The operator's relay with low limits (`strict-relay.mjs`). */
export const strictRelay = process.env.NOSTR_PUSH_STRICT_RELAY
export const service = process.env.NOSTR_PUSH_SERVICE
export const now = () => Math.floor(Date.now() / 1000)
/** Waits for the next second, so that later events have a larger `created_at` than earlier ones. */
export const nextSecond = async () => {
  const second = now()
  while (now() === second) await sleep(50)
}
/** 64 random hex characters. */
export const randomHex = () => getPublicKey(generateSecretKey())

const connections = await Promise.all(relays.map((url) => Relay.connect(url)))

const concurrentTests = []
/**
 * Adds a test. On a rough endpoint all tests of a file run at once, because each waits for retries
 * most of the time.
 */
export const test = isRough ? (name, run) => concurrentTests.push([name, run]) : nodeTest
// By then the file has added its tests.
if (isRough)
  setImmediate(() =>
    nodeTest('on a rough endpoint', { concurrency: true }, (t) =>
      Promise.all(concurrentTests.map(([name, run]) => t.test(name, run))),
    ),
  )

/** Events that must not be pushed. They are checked after all tests of the file. */
export const mustNotBePushed = []
/**
 * The same for an event that is published before a token is registered again. On a rough endpoint
 * the event can be late and be processed after the registration. Then it is pushed.
 */
export const mustNotBePushedAtOnce = (event) => isRough || mustNotBePushed.push(event)
after(async () => {
  try {
    for (const event of mustNotBePushed)
      assert.deepEqual(await pushesOf(event), [], `event ${event.id} was pushed`)
  } finally {
    // Otherwise the process would not end.
    connections.forEach((relay) => relay.close())
  }
})

let published = 0

/** Publishes to one of the relays in turn, to all of them, or only to the one with the URL `on`. */
export async function publish(event, { everywhere = false, on } = {}) {
  const one = connections[on ? relays.indexOf(on) : published++ % connections.length]
  await Promise.all((everywhere ? connections : [one]).map((relay) => relay.publish(event)))
  return event
}

/** Publishes to a relay that is not among the operator's relays. */
export async function publishTo(url, event) {
  const relay = await Relay.connect(url)
  await relay.publish(event)
  relay.close()
  return event
}

/** Stores an event that is larger than a message may be on the strict relay. */
export async function importToStrictRelay(event) {
  const response = await fetch(`${strictRelay.replace('ws', 'http')}/events`, {
    method: 'POST',
    body: JSON.stringify(event),
  })
  if (!response.ok) throw new Error(`not stored: ${await response.text()}`)
  return event
}

/** The connections and violations that the strict relay has counted. */
export const violations = async () =>
  (await fetch(`${strictRelay.replace('ws', 'http')}/violations`)).json()

export class Client {
  constructor() {
    this.secret = generateSecretKey()
    this.pubkey = getPublicKey(this.secret)
  }

  sign(kind, tags, content, created_at = now()) {
    return finalizeEvent({ kind, tags, content, created_at }, this.secret)
  }

  encrypt(payload) {
    const text = typeof payload === 'string' ? payload : JSON.stringify(payload)
    return nip44.v2.encrypt(text, nip44.v2.utils.getConversationKey(this.secret, service))
  }

  /** A control event of dialect N. `expiration: null` omits the tag. */
  controlEvent(kind, payload, { app = 'demo', expiration = now() + 30 * 86400, created_at } = {}) {
    const tags = [
      ['p', service],
      ['app', app],
    ]
    if (expiration !== null) tags.push(['expiration', String(expiration)])
    return this.sign(kind, tags, this.encrypt(payload), created_at)
  }

  /** Publishes a control event and waits until the service has accepted it under `reason`. */
  async sendControl(kind, payload, reason, options) {
    return publishControl(this.controlEvent(kind, payload, options), reason)
  }

  /** An event of dialect H. */
  dialectHEvent(payload, { app, created_at } = {}) {
    const tags = [['p', service]]
    if (app) tags.push(['app', app])
    return this.sign(
      22456,
      tags,
      nip04.encrypt(this.secret, service, JSON.stringify(payload)),
      created_at,
    )
  }

  /** Publishes an event of dialect H and waits until the service has accepted it under `reason`. */
  async sendDialectH(payload, reason, options) {
    return publishControl(this.dialectHEvent(payload, options), reason)
  }

  register(token, options = {}) {
    const { platform, ...rest } = options
    return this.sendControl(3079, platform ? { token, platform } : { token }, 'registered', rest)
  }

  subscribe(filter, options) {
    return this.sendControl(3081, { filter }, 'subscribed', options)
  }

  note(content, ...mentioned) {
    return this.sign(
      1,
      mentioned.map((client) => ['p', client.pubkey]),
      content,
    )
  }
}

const get = async (path) => (await fetch(api + path)).json()

/** Waits until `condition` returns a true value, and returns it. Throws after `WAIT_LIMIT_MS`. */
export async function waitUntil(what, condition) {
  const end = Date.now() + WAIT_LIMIT_MS
  for (;;) {
    const value = await condition()
    if (value) return value
    if (Date.now() > end)
      throw new Error(
        `timed out after ${WAIT_LIMIT_MS} ms waiting for ${what}; counters: ${JSON.stringify(await get('/counters'))}`,
      )
    await sleep(100)
  }
}

export const counter = async (name) => (await get('/counters'))[name] ?? 0

/** A request to the AWS endpoint, past the proxy. */
async function aws(service, target, parameters) {
  const response = await fetch(process.env.NOSTR_PUSH_AWS, {
    method: 'POST',
    headers: {
      'X-Amz-Target': target,
      'X-Amz-Date': '20260101T000000Z',
      'Content-Type': 'application/x-amz-json-1.0',
      Authorization:
        `AWS4-HMAC-SHA256 Credential=local/20260101/us-east-1/${service}/aws4_request, ` +
        'SignedHeaders=host, Signature=0',
    },
    body: JSON.stringify(parameters),
  })
  if (!response.ok) throw new Error(await response.text())
  return response.json()
}

/** The items of a table of the service under a partition key. */
export async function itemsOf(table, key, value) {
  const response = await aws('dynamodb', 'DynamoDB_20120810.Query', {
    TableName: `nostr-push-${table}`,
    KeyConditionExpression: '#key = :value',
    ExpressionAttributeNames: { '#key': key },
    ExpressionAttributeValues: { ':value': { S: value } },
    ConsistentRead: true,
  })
  return response.Items
}

/** Returns `true` if control has logged that it accepted the event. */
async function isAccepted(event) {
  const { events } = await aws('logs', 'Logs_20140328.FilterLogEvents', {
    logGroupName: '/aws/lambda/nostr-push-control',
    filterPattern: `"${event.id}"`,
  })
  const lines = events.flatMap(({ message }) => message.split('\n'))
  return lines.some((line) => line.includes(event.id) && line.includes('"outcome":"accepted"'))
}

/**
 * Publishes a control event and waits until the service has accepted it under `reason`. On a rough
 * endpoint a copy of an earlier event can have the same reason, and an event whose first attempt
 * failed late is `repeated`. So the log decides there.
 */
async function publishControl(event, reason) {
  if (!isRough) return waitForCounter(`control.accepted.${reason}`, () => publish(event))
  await publish(event)
  await waitUntil(`control to accept ${event.id}`, () => isAccepted(event))
  return event
}

/** Runs `action` and waits until a counter has increased by `n`. Returns the result of `action`. */
export async function waitForCounter(name, action, n = 1) {
  const before = await counter(name)
  const result = await action()
  await waitUntil(`counter ${name}`, async () => (await counter(name)) >= before + n)
  return result
}

export const pushes = async () => (await get('/pushes?after=0')).pushes
export const disable = (token) => fetch(`${api}/devices/${token}/disable`, { method: 'POST' })
export const status = () => get('/status')

/** The fields of a push. An app with an embedded distributor gets those in `b`. */
export const fieldsOf = ({ message }) => {
  const fields = message.fcmV1Message?.message.data ?? message
  return fields.b ? JSON.parse(Buffer.from(fields.b, 'base64').toString()) : fields
}
const eventIdOf = (push) => fieldsOf(push).event_id
export const pushesOf = async (event) =>
  (await pushes()).filter((push) => eventIdOf(push) === event.id)

/**
 * The tokens of pushes, each once. On a rough endpoint a push whose completion could not be stored
 * is sent again. It must be the same, so that the phone shows it once.
 */
function withoutRepeats(pushes) {
  const first = new Map()
  for (const { token, message, attributes } of pushes) {
    const shown = [message, attributes['AWS.SNS.MOBILE.APNS.COLLAPSE_ID']]
    if (first.has(token)) assert.deepEqual(shown, first.get(token), 'a repeat differs')
    first.set(token, shown)
  }
  return [...first.keys()]
}

/** Waits until the event has been pushed to these tokens. Throws if it was pushed to others too. */
export async function waitForPushes(event, ...tokens) {
  const got = await waitUntil(`pushes of ${event.id} to ${tokens}`, async () => {
    const got = await pushesOf(event)
    return tokens.every((token) => got.some((push) => push.token === token)) && got
  })
  const tokensOf = (isRough ? withoutRepeats(got) : got.map((push) => push.token)).sort()
  if (JSON.stringify(tokensOf) !== JSON.stringify([...tokens].sort()))
    throw new Error(`pushed to ${tokensOf}, expected ${tokens}`)
  return tokens.map((token) => got.find((push) => push.token === token))
}

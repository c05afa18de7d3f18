// A client as the draft's JS sketches have it, and what the tests ask the local stack.

import { setTimeout as sleep } from 'node:timers/promises'
import { finalizeEvent, generateSecretKey, getPublicKey } from 'nostr-tools/pure'
import { Relay } from 'nostr-tools/relay'
import * as nip04 from 'nostr-tools/nip04'
import * as nip44 from 'nostr-tools/nip44'

const PATIENCE = 120_000

export const api = process.env.NOSTR_PUSH_URL
export const relays = process.env.NOSTR_PUSH_RELAYS.split(',')
/** A relay that only owners name. */
export const ownersRelay = process.env.NOSTR_PUSH_OWNERS_RELAY
export const service = process.env.NOSTR_PUSH_SERVICE
export const now = () => Math.floor(Date.now() / 1000)
export const hex = () => getPublicKey(generateSecretKey())

const connections = await Promise.all(relays.map((url) => Relay.connect(url)))

export const close = () => connections.forEach((relay) => relay.close())

let published = 0

/** Publishes to one relay after the other, or to all of them. */
export async function publish(event, { everywhere = false } = {}) {
  const one = connections[published++ % connections.length]
  await Promise.all((everywhere ? connections : [one]).map((relay) => relay.publish(event)))
  return event
}

/** Publishes to a relay that is none of the operator's. */
export async function publishTo(url, event) {
  const relay = await Relay.connect(url)
  await relay.publish(event)
  relay.close()
  return event
}

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

  /** A control event of dialect N; `expiration: null` leaves the tag out. */
  control(kind, payload, { app = 'demo', expiration = now() + 30 * 86400, created_at } = {}) {
    const tags = [['p', service], ['app', app]]
    if (expiration !== null) tags.push(['expiration', String(expiration)])
    return this.sign(kind, tags, this.encrypt(payload), created_at)
  }

  /** Publishes a control event and waits until the service has counted it under `reason`. */
  async ask(kind, payload, reason, options) {
    return counting(`control.accepted.${reason}`, () => publish(this.control(kind, payload, options)))
  }

  /** An event of dialect H. */
  settings(payload, { app, created_at } = {}) {
    const tags = [['p', service]]
    if (app) tags.push(['app', app])
    return this.sign(22456, tags, nip04.encrypt(this.secret, service, JSON.stringify(payload)), created_at)
  }

  /** Publishes an event of dialect H and waits until the service has counted it under `reason`. */
  async say(payload, reason, options) {
    return counting(`control.accepted.${reason}`, () => publish(this.settings(payload, options)))
  }

  register(token, options = {}) {
    const { platform, ...rest } = options
    return this.ask(3079, platform ? { token, platform } : { token }, 'registered', rest)
  }

  subscribe(filter, options) {
    return this.ask(3081, { filter }, 'subscribed', options)
  }

  note(content, ...mentioned) {
    return this.sign(1, mentioned.map((client) => ['p', client.pubkey]), content)
  }
}

const get = async (path) => (await fetch(api + path)).json()

/** Waits for a condition, with a limit that no working service reaches. */
export async function until(what, condition) {
  const end = Date.now() + PATIENCE
  for (;;) {
    const value = await condition()
    if (value) return value
    if (Date.now() > end) throw new Error(`not after ${PATIENCE} ms: ${what}; counters: ${JSON.stringify(await get('/counters'))}`)
    await sleep(100)
  }
}

/** Does something and waits until a counter has gone up, by one or by `n`. */
export async function counting(counter, act, n = 1) {
  const before = (await get('/counters'))[counter] ?? 0
  const result = await act()
  await until(counter, async () => ((await get('/counters'))[counter] ?? 0) >= before + n)
  return result
}

export const pushes = async () => (await get('/pushes?after=0')).pushes
export const disable = (token) => fetch(`${api}/devices/${token}/disable`, { method: 'POST' })
export const status = () => get('/status')

const idOf = (push) => (push.message.fcmV1Message?.message.data ?? push.message).event_id
export const pushesOf = async (event) => (await pushes()).filter((push) => idOf(push) === event.id)

/** Waits until the event has been pushed to exactly these tokens. */
export async function pushedTo(event, ...tokens) {
  const got = await until(`a push of ${event.id} to ${tokens}`, async () => {
    const got = await pushesOf(event)
    return tokens.every((token) => got.some((push) => push.token === token)) && got
  })
  const tokensOf = got.map((push) => push.token).sort()
  if (JSON.stringify(tokensOf) !== JSON.stringify([...tokens].sort())) throw new Error(`pushed to ${tokensOf}, not to ${tokens}`)
  return tokens.map((token) => got.find((push) => push.token === token))
}

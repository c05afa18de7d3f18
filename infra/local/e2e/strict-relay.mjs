// A relay with low limits for the tests, written with ws from NIP-01 and NIP-11. It enforces every
// limit that its information document states, and counts the violations. It keeps its events in
// memory.
//
// Usage: node strict-relay.mjs PORT. It listens at ws://127.0.0.1:PORT and responds to:
//
// - GET / with `Accept: application/nostr+json`: the information document
// - GET /violations: the connections so far (without those for profiles), the violations of clients
//   by type, and the largest message in bytes
// - POST /events: stores an event and sends it to subscribers, as `strfry import` does. The event
//   may be larger than a message of a client, because the limit of messages does not apply

import { createServer } from 'node:http'
import { verifyEvent } from 'nostr-tools/pure'
import { WebSocketServer } from 'ws'

const LIMITATION = {
  max_message_length: 65_536,
  max_subscriptions: 10,
  max_filters: 5,
  max_limit: 100,
}

/** The largest event, in bytes. */
const MAX_EVENT_BYTES = 512 * 1024

/** The largest message that is read, so that its size can be reported. */
const MAX_READ_BYTES = 64 * 1024 * 1024

/** The longest subscription id (NIP-01), in characters. */
const MAX_ID_LENGTH = 64

const counts = {
  /** The connections with a REQ, except those on which the listener requests profiles. */
  connections: 0,
  /** Messages above `max_message_length`. */
  too_large: 0,
  /** REQs above `max_subscriptions`. */
  too_many_subscriptions: 0,
  /** REQs with more filters than `max_filters`. */
  too_many_filters: 0,
  /** Filters with a `limit` above `max_limit`. */
  limit_too_high: 0,
  /** Messages that do not conform to NIP-01. */
  invalid: 0,
  /** The size of the largest message, in bytes. Not a violation. */
  largest_message: 0,
}

function countViolation(type, details) {
  counts[type] += 1
  console.log(`${new Date().toISOString()} ${type}: ${details}`)
}

/** The error of a message that does not conform to NIP-01. */
class Invalid extends Error {}

const isInteger = (value, max) => Number.isInteger(value) && value >= 0 && value <= max
const isHex = (value, length) =>
  typeof value === 'string' && value.length === length && /^[0-9a-f]*$/.test(value)
const isId = (value) => isHex(value, 64)
const isKind = (value) => isInteger(value, 65_535)
const isTime = (value) => isInteger(value, Number.MAX_SAFE_INTEGER)
const isString = (value) => typeof value === 'string'
const isObject = (value) => value !== null && typeof value === 'object' && !Array.isArray(value)

// Filters

/** The values of `event` that a field of a filter is compared with. */
function valuesOf(event, field) {
  switch (field) {
    case 'ids':
      return [event.id]
    case 'authors':
      return [event.pubkey]
    case 'kinds':
      return [event.kind]
    default:
      return event.tags.filter(([name]) => name === field[1]).map(([, value]) => value)
  }
}

/** Returns `true` if a value of this field is valid. Throws if the field is unknown. */
function isValueOf(field, value) {
  if (['ids', 'authors', '#e', '#p'].includes(field)) return isId(value)
  if (field === 'kinds') return isKind(value)
  if (/^#[a-zA-Z]$/.test(field)) return isString(value)
  throw new Invalid(`unknown field ${field}`)
}

/** A filter of a REQ, with its lists as sets. */
class Filter {
  constructor(json) {
    if (!isObject(json)) throw new Invalid('a filter is not an object')
    const { since = 0, until = Infinity, limit = LIMITATION.max_limit, ...lists } = json
    if (!isTime(since) || !(until === Infinity || isTime(until)) || !isTime(limit))
      throw new Invalid('since, until or limit is not a valid integer')
    Object.assign(this, { since, until, limit })
    this.lists = Object.entries(lists).map(([field, values]) => {
      if (!Array.isArray(values) || !values.every((value) => isValueOf(field, value)))
        throw new Invalid(`${field} is not an array of valid values`)
      return [field, new Set(values)]
    })
  }

  matches(event) {
    return (
      event.created_at >= this.since &&
      event.created_at <= this.until &&
      this.lists.every(([field, set]) => valuesOf(event, field).some((value) => set.has(value)))
    )
  }
}

// Events

/** The stored events by id, or by address if their kind is replaceable. */
const stored = new Map()

/** The newest event first. Of events of the same second, the one with the lowest id. */
const compare = (a, b) => b.created_at - a.created_at || (a.id < b.id ? -1 : 1)

const isEphemeral = ({ kind }) => kind >= 20_000 && kind < 30_000

/** The key in `stored`. Of events with the same key, only the first as sorted is kept. */
function storageKey({ id, kind, pubkey, tags }) {
  const isReplaceable = kind === 0 || kind === 3 || (kind >= 10_000 && kind < 20_000)
  if (isReplaceable) return `${kind}:${pubkey}:`
  const isAddressable = kind >= 30_000 && kind < 40_000
  if (isAddressable) return `${kind}:${pubkey}:${tags.find(([name]) => name === 'd')?.[1] ?? ''}`
  return id
}

const isTag = (tag) => Array.isArray(tag) && tag.length > 0 && tag.every(isString)

/** Returns `true` if the object has the fields of an event, and its id and signature are right. */
function isValidEvent(event) {
  return (
    [event.id, event.pubkey].every(isId) &&
    isHex(event.sig, 128) &&
    isKind(event.kind) &&
    isTime(event.created_at) &&
    isString(event.content) &&
    Array.isArray(event.tags) &&
    event.tags.every(isTag) &&
    verifyEvent(event)
  )
}

/** Stores an event and sends it to subscribers. Returns the last two elements of the OK message. */
function accept({ id, pubkey, created_at, kind, tags, content, sig }) {
  const event = { id, pubkey, created_at, kind, tags, content, sig }
  const json = JSON.stringify(event)
  if (Buffer.byteLength(json) > MAX_EVENT_BYTES) return [false, 'invalid: the event is too large']
  if (!isValidEvent(event)) return [false, 'invalid: the event is malformed or not signed']
  if (!isEphemeral(event)) {
    const key = storageKey(event)
    const earlier = stored.get(key)
    if (earlier?.id === id) return [true, 'duplicate: the event is already stored']
    if (earlier && compare(earlier, event) < 0) return [true, 'duplicate: a newer one is stored']
    stored.set(key, event)
  }
  for (const connection of connections) connection.sendLive(event, json)
  return [true, '']
}

/** The stored events for these filters. */
function query(filters) {
  const all = [...stored.values()]
  const found = filters.flatMap((filter) =>
    all
      .filter((event) => filter.matches(event))
      .sort(compare)
      .slice(0, Math.min(filter.limit, LIMITATION.max_limit)),
  )
  return [...new Set(found)].sort(compare)
}

// Connections

const connections = new Set()

class Connection {
  /** The filters of the open subscriptions, by subscription id. */
  subscriptions = new Map()

  constructor(socket) {
    this.socket = socket
    this.number = 0
    connections.add(this)
    socket.on('message', (data) => this.onMessage(data))
    socket.on('close', () => connections.delete(this))
    socket.on('error', (error) => console.log(`connection ${this.number}: ${error.message}`))
  }

  send(...message) {
    this.socket.send(JSON.stringify(message))
  }

  sendLive(event, json) {
    for (const [id, filters] of this.subscriptions)
      if (filters.some((filter) => filter.matches(event)))
        this.socket.send(`["EVENT",${JSON.stringify(id)},${json}]`)
  }

  /** Counts a violation, and returns its message. */
  violates(type, details) {
    countViolation(type, `connection ${this.number}: ${details}`)
    return details
  }

  onMessage(data) {
    // Messages that were received before the connection was ended.
    if (!connections.has(this)) return
    counts.largest_message = Math.max(counts.largest_message, data.length)
    if (data.length > LIMITATION.max_message_length) {
      this.violates('too_large', `${data.length} bytes: ${data.subarray(0, 100)}`)
      connections.delete(this)
      this.socket.terminate()
      return
    }
    try {
      this.onJson(JSON.parse(data))
    } catch (error) {
      if (!(error instanceof Invalid || error instanceof SyntaxError)) throw error
      this.send('NOTICE', `invalid: ${this.violates('invalid', error.message)}`)
    }
  }

  onJson(message) {
    const [type, ...rest] = Array.isArray(message) ? message : []
    if (type === 'EVENT' && rest.length === 1 && isObject(rest[0]) && isId(rest[0].id))
      this.send('OK', rest[0].id, ...accept(rest[0]))
    else if (type === 'REQ' && rest.length >= 2 && this.isSubscriptionId(rest[0]))
      this.onReq(...rest)
    else if (type === 'CLOSE' && rest.length === 1 && this.isSubscriptionId(rest[0]))
      this.subscriptions.delete(rest[0])
    else throw new Invalid(`not a message of a client: ${JSON.stringify(message).slice(0, 100)}`)
  }

  isSubscriptionId(id) {
    return isString(id) && id.length > 0 && id.length <= MAX_ID_LENGTH
  }

  onReq(id, ...json) {
    if (!this.number && id !== 'profiles') this.number = ++counts.connections
    // A REQ ends the subscription that it replaces, even if it is refused.
    this.subscriptions.delete(id)
    const refusal = this.refusal(json)
    if (refusal) return this.send('CLOSED', id, refusal)
    const filters = []
    try {
      filters.push(...json.map((filter) => new Filter(filter)))
    } catch (error) {
      if (!(error instanceof Invalid)) throw error
      return this.send('CLOSED', id, `invalid: ${this.violates('invalid', error.message)}`)
    }
    for (const { limit } of filters)
      if (limit > LIMITATION.max_limit) this.violates('limit_too_high', `limit ${limit}`)
    for (const event of query(filters)) this.send('EVENT', id, event)
    this.send('EOSE', id)
    this.subscriptions.set(id, filters)
  }

  /** Why a REQ with these filters is refused, if it is. */
  refusal(filters) {
    if (filters.length > LIMITATION.max_filters) {
      const details = this.violates('too_many_filters', `${filters.length} filters`)
      return `invalid: ${details}`
    }
    if (this.subscriptions.size >= LIMITATION.max_subscriptions) {
      const open = [...this.subscriptions.keys()].join(' ')
      this.violates('too_many_subscriptions', `open are ${open}`)
      return 'error: too many open subscriptions'
    }
  }
}

// HTTP

const DOCUMENT = {
  name: 'strict',
  description: 'A relay of the tests',
  supported_nips: [1, 11],
  limitation: LIMITATION,
}

async function readBody(request) {
  const chunks = []
  for await (const chunk of request) chunks.push(chunk)
  return Buffer.concat(chunks).toString()
}

async function importEvent(request) {
  try {
    const event = JSON.parse(await readBody(request))
    return isObject(event) ? accept(event) : [false, 'invalid: not an object']
  } catch (error) {
    return [false, `invalid: ${error.message}`]
  }
}

const server = createServer(async (request, response) => {
  const respond = (status, body, type = 'application/json') => {
    response.writeHead(status, { 'content-type': type, 'access-control-allow-origin': '*' })
    response.end(`${JSON.stringify(body)}\n`)
  }
  if (request.method === 'GET' && request.url === '/violations') return respond(200, counts)
  if (request.method === 'POST' && request.url === '/events') {
    const [accepted, message] = await importEvent(request)
    return respond(accepted ? 200 : 400, { accepted, message })
  }
  if (request.headers.accept === 'application/nostr+json')
    return respond(200, DOCUMENT, 'application/nostr+json')
  respond(404, { message: 'not found' })
})
new WebSocketServer({ server, maxPayload: MAX_READ_BYTES }).on(
  'connection',
  (socket) => new Connection(socket),
)
server.listen(Number(process.argv[2]), '127.0.0.1', () => console.log('listening'))

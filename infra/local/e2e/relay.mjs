// A second relay implementation for the tests: @nostr-relay/core with ws. It listens at
// ws://127.0.0.1:PORT and keeps its events in memory.

import { createServer } from 'node:http'
import { EventRepository, EventUtils } from '@nostr-relay/common'
import { NostrRelay } from '@nostr-relay/core'
import { Validator } from '@nostr-relay/validator'
import { WebSocketServer } from 'ws'

class InMemory extends EventRepository {
  events = new Map()

  isSearchSupported() {
    return false
  }

  async upsert(event) {
    const isDuplicate = this.events.has(event.id)
    this.events.set(event.id, event)
    return { isDuplicate }
  }

  async find(filter) {
    const events = [...this.events.values()].filter((event) =>
      EventUtils.isMatchingFilter(event, filter),
    )
    return events
      .sort((a, b) => b.created_at - a.created_at)
      .slice(0, Math.min(filter.limit ?? 100, 500))
  }
}

const validator = new Validator()
const relay = new NostrRelay(new InMemory())
const server = createServer((_, response) => {
  response.setHeader('content-type', 'application/nostr+json')
  response.end(
    JSON.stringify({
      name: 'e2e',
      limitation: { max_subscriptions: 12, max_filters: 10, max_limit: 500 },
    }),
  )
})
new WebSocketServer({ server }).on('connection', (socket) => {
  relay.handleConnection(socket)
  socket.on('message', async (data) => {
    try {
      await relay.handleMessage(socket, await validator.validateIncomingMessage(data))
    } catch (error) {
      socket.send(JSON.stringify(['NOTICE', error.message]))
    }
  })
  socket.on('close', () => relay.handleDisconnect(socket))
  socket.on('error', () => socket.close())
})
server.listen(Number(process.argv[2]), '127.0.0.1', () => console.log('listening'))

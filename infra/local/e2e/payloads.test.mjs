// The shapes of payloads through the whole pipeline, read as the apps themselves read them, and
// names from profiles. The parsers share no code with the service.

import { test } from 'node:test'
import assert from 'node:assert/strict'
import { generateSecretKey, getPublicKey } from 'nostr-tools/pure'
import * as nip19 from 'nostr-tools/nip19'
import * as nip44 from 'nostr-tools/nip44'
import {
  Client,
  publish,
  publishTo,
  pushes,
  randomHex,
  relays,
  waitForPushes,
  waitUntil,
} from './client.mjs'

const bob = new Client()

/** A token of the form of FCM. */
const fcmToken = () => `${randomHex().slice(0, 22)}:APA91b${randomHex()}`

/** A client with a registered phone and a filter for mentions. */
async function registered(token, options) {
  const client = new Client()
  await client.sendControl(3079, { token, ...options }, 'registered')
  await client.subscribe({ kinds: [1, 7], '#p': [client.pubkey] })
  return client
}

/** The FCM message of a push. */
const fcmMessage = (push) => push.message.fcmV1Message.message

/** The first push to a token. */
const firstPush = (token) =>
  waitUntil(`a push to ${token}`, async () =>
    (await pushes()).find((push) => push.token === token),
  )

test('an app that moves from verse finds its fields', async () => {
  const token = fcmToken()
  const client = await registered(token, { payload: 'verse', os: 'web' })
  const note = await publish(bob.note('hello', client))
  const [push] = await waitForPushes(note, token)
  const { data, apns, webpush } = fcmMessage(push)
  assert.equal(data.title, 'New mention')
  assert.equal(data.body, 'hello')
  assert.equal(data.nostrEventId, note.id)
  assert.equal(data.senderPubkey, bob.pubkey)
  assert.equal(data.receiverPubkey, client.pubkey)
  assert.equal(data.receiverNpub, nip19.npubEncode(client.pubkey))
  assert.equal(data.eventKind, '1')
  assert.equal(data.timestamp, String(note.created_at))
  assert.equal(apns, undefined, 'a browser needs no part for iOS')
  assert.equal(webpush.headers.Urgency, 'high')
})

test('apps with an embedded distributor show the push', async () => {
  const token = fcmToken()
  const client = new Client()
  await client.sendDialectH({ kinds: [1], deviceId: token, deviceOs: 'android' }, 'configured')
  const note = await publish(bob.note('hello', client))
  const { data } = fcmMessage(await firstPush(token))
  assert.deepEqual(Object.keys(data), ['b'])
  // The distributor hands the app these bytes.
  const json = JSON.parse(Buffer.from(data.b, 'base64').toString())
  // YakiHonne
  assert.equal(json['gcm.notification.title'], 'New mention')
  assert.equal(json['gcm.notification.body'], 'hello')
  assert.equal(json.event_id, note.id)
  // 0xchat
  assert.equal(json.notification.title, 'New mention')
  assert.equal(json.notification.body, 'hello')
  assert.equal(json.data.msgType, '0')
})

test('an iOS app with an FCM token gets a banner', async () => {
  const token = fcmToken()
  const client = new Client()
  await client.sendDialectH({ kinds: [1], deviceId: token, deviceOs: 'ios' }, 'configured')
  const note = await publish(bob.note('hello', client))
  const { apns, data } = fcmMessage((await waitForPushes(note, token))[0])
  assert.deepEqual(apns.payload.aps.alert, { title: 'New mention', body: 'hello' })
  assert.equal(apns.payload.aps['mutable-content'], 1)
  assert.equal(apns.headers['apns-collapse-id'], note.id)
  assert.equal(data.event_id, note.id)
})

test('nobody but the device can read an encrypted push', async () => {
  const secret = generateSecretKey()
  for (const token of [randomHex(), fcmToken()]) {
    const client = await registered(token, { encrypt_to: getPublicKey(secret) })
    const note = await publish(bob.note('meet me at noon', client))
    const push = await firstPush(token)
    const visible = JSON.stringify([push.message, push.attributes])
    for (const hidden of [note.id, bob.pubkey, client.pubkey, 'noon', 'MENTION', 'kind'])
      assert.ok(!visible.includes(hidden), `${hidden}: ${visible}`)
    const fields = push.message.fcmV1Message ? fcmMessage(push).data : push.message
    const key = nip44.v2.utils.getConversationKey(secret, fields.encrypted_by)
    const plain = JSON.parse(nip44.v2.decrypt(fields.encrypted, key))
    assert.equal(plain.event_id, note.id)
    assert.equal(plain.author, bob.pubkey)
    assert.equal(plain.recipient, client.pubkey)
    assert.equal(plain.title, 'New mention')
    assert.equal(plain.body, 'meet me at noon')
    assert.deepEqual(plain.event, JSON.parse(JSON.stringify(note)))
  }
})

test('a wake push is the same for every event', async () => {
  const token = randomHex()
  const client = await registered(token, { payload: 'wake' })
  await publish(bob.note('hello', client))
  const { message } = await firstPush(token)
  assert.deepEqual(message, {
    aps: {
      alert: { title: 'New notification', body: '' },
      'mutable-content': 1,
      sound: 'default',
    },
    wake: '1',
  })
})

test('a push names its author once the profile is known', async () => {
  const token = randomHex()
  const client = await registered(token)
  const alice = new Client()
  const picture = 'https://example.com/alice.png'
  const profile = alice.sign(0, [], JSON.stringify({ name: 'Alice \u202e in Chains', picture }))
  await publishTo(relays[0], profile)
  const mention = async (n) => {
    const note = await publish(alice.note(`hello ${n}`, client), { on: relays[0] })
    return (await waitForPushes(note, token))[0].message
  }
  let n = 0
  const named = await waitUntil('the name', async () => {
    const message = await mention(n++)
    return message.author_name && message
  })
  assert.ok(n > 1, 'the first push does not wait for the name')
  assert.equal(named.author_name, 'Alice in Chains')
  assert.equal(named.author_picture, picture)
  assert.equal(named.aps.alert.title, 'Alice in Chains mentioned you')
  assert.deepEqual(named.title_loc_args, ['Alice in Chains'])
  const like = await publish(alice.sign(7, [['p', client.pubkey]], '🤙'), { on: relays[0] })
  const { alert } = (await waitForPushes(like, token))[0].message.aps
  assert.deepEqual(alert, {
    title: 'Alice in Chains reacted to your post',
    body: '🤙 from Alice in Chains',
  })
})

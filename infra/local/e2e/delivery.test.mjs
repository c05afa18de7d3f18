// What is pushed and what is not: texts, mute lists, limits on mentions and on pushes per minute.
// The app `second` has `content: minimal`, at most 3 pushes per minute and at most 5 mentions.

import { test } from 'node:test'
import assert from 'node:assert/strict'
import {
  Client,
  disable,
  mustNotBePushed,
  now,
  publish,
  pushes,
  randomHex,
  waitForCounter,
  waitForPushes,
  waitUntil,
} from './client.mjs'

const bob = new Client()
const SECOND = { app: 'second' }

/** A client with a registered phone and a filter for mentions. */
async function registered(filter, options) {
  const client = new Client()
  const phone = randomHex()
  await client.register(phone, options)
  await client.subscribe({ '#p': [client.pubkey], ...filter }, options)
  return { client, phone }
}

test('each kind has its own text, and minimal shows no content', async () => {
  const { client, phone } = await registered({ kinds: [1, 7, 9735, 1059] })
  const p = ['p', client.pubkey]
  const request = bob.sign(9734, [p], 'well said')
  const alert = async (event) =>
    (await waitForPushes(await publish(event), phone))[0].message.aps.alert
  const zap = await alert(
    new Client().sign(
      9735,
      [p, ['bolt11', 'lnbc210n1pabc'], ['description', JSON.stringify(request)]],
      '',
    ),
  )
  assert.equal(zap.title, 'New zap')
  assert.match(zap.body, /^21 sats from npub1.{5}….{4}: well said$/)
  assert.match((await alert(bob.sign(7, [p], '🤙'))).body, /^🤙 from npub1/)
  assert.equal(
    (await alert(bob.sign(1, [p, ['e', randomHex(), '', 'root']], 'yes'))).title,
    'New reply',
  )
  assert.deepEqual(await alert(bob.sign(1059, [p], 'ciphertext')), {
    title: 'New message',
    body: 'You have a new private message',
  })
  const discreet = await registered({ kinds: [1] }, SECOND)
  const [push] = await waitForPushes(
    await publish(bob.note('do not show this', discreet.client)),
    discreet.phone,
  )
  assert.match(push.message.aps.alert.body, /^From npub1/)
})

test('old and new mute lists both apply', async () => {
  const [alice, mallory] = [new Client(), new Client()]
  const phone = randomHex()
  const list = (tags, created_at) => alice.sign(10000, tags, '', created_at)
  await publish(
    list(
      [
        ['p', mallory.pubkey],
        ['word', 'Casino'],
      ],
      now() - 86400,
    ),
    { everywhere: true },
  )
  await waitForCounter('matcher.accepted.mute_list', () => alice.register(phone))
  await alice.subscribe({ kinds: [1], '#p': [alice.pubkey] })
  await waitForPushes(await publish(bob.note('hello', alice)), phone)
  mustNotBePushed.push(
    await waitForCounter('deliver.dropped.muted', () => publish(mallory.note('hello', alice))),
  )
  mustNotBePushed.push(
    await waitForCounter('deliver.dropped.muted', () =>
      publish(bob.note('the best CASINO', alice)),
    ),
  )
  await waitForCounter('matcher.accepted.mute_list', () => publish(list([['p', randomHex()]])))
  await waitForPushes(await publish(mallory.note('forgiven', alice)), phone)
})

test('an event with too many mentions is not pushed', async () => {
  const crowd = Array.from({ length: 10 }, () => new Client())
  const { client } = await registered({ kinds: [1] }, SECOND)
  mustNotBePushed.push(
    await waitForCounter('deliver.dropped.too_many_mentions', () =>
      publish(bob.note('all of you', client, ...crowd)),
    ),
  )
  const [careful, phone] = [new Client(), randomHex()]
  await careful.sendDialectH({ kinds: [1], deviceId: phone, enableMaxMentions: true }, 'configured')
  await waitForPushes(await publish(bob.note('ten of you', careful, ...crowd.slice(1))), phone)
  mustNotBePushed.push(
    await waitForCounter('deliver.dropped.too_many_mentions', () =>
      publish(bob.note('eleven of you', careful, ...crowd)),
    ),
  )
})

test('a flood becomes a few pushes and a summary', async () => {
  const { client, phone } = await registered({ kinds: [1, 1059] }, SECOND)
  const flood = []
  for (let n = 0; n < 20; n++) flood.push(await publish(bob.note(`${n}`, client)))
  flood.push(await publish(new Client().sign(1059, [['p', client.pubkey]], 'private')))
  // Private kinds are summed up as well.
  const [events, summaries] = await waitUntil('the summary', async () => {
    const mine = (await pushes()).filter((push) => push.token === phone)
    const summaries = mine.filter((push) => push.message.summary)
    const events = mine.filter((push) => !push.message.summary)
    return (
      events.length + summaries.reduce((sum, push) => sum + push.message.summary, 0) ===
        flood.length && [events, summaries]
    )
  })
  assert.ok(summaries.length > 0 && events.length >= 3)
  const [{ message, attributes }] = summaries
  assert.equal(message.aps.alert.title, `${message.summary} more notifications`)
  assert.match(attributes['AWS.SNS.MOBILE.APNS.COLLAPSE_ID'], /^summary:\d+$/)
})

test('control events above the limit per minute are dropped', async () => {
  const flooder = new Client()
  const flood = async () => {
    for (let n = 0; n < 70; n++)
      await publish(flooder.dialectHEvent({ online: 1 }, { created_at: now() - n }))
  }
  await waitForCounter('listener.dropped.rate_limited', flood, 5)
})

test('a disabled endpoint is removed until it registers again', async () => {
  const { client, phone } = await registered({ kinds: [1] })
  await waitForPushes(await publish(bob.note('installed', client)), phone)
  await waitForCounter('feedback.accepted.removed', () => disable(phone))
  await client.register(phone, { created_at: now() + 1 })
  await waitForPushes(await publish(bob.note('installed again', client)), phone)
})

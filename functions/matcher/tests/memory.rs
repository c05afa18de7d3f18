//! The memory of the whole process while one batch of the worst events is matched. The function has
//! 256 MB, of which the runtime and the connections to AWS need some.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed test panics"
)]

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use aws_lambda_events::sqs::SqsEvent;
use matcher::{
    handler::Matcher,
    limits::{DELIVERIES_PER_SEND, MAX_LARGE_FILTERS},
};
use nostr::key::{Keys, PublicKey};
use nostr_push_aws::{
    batch::{self, Record, Retry},
    clients,
    sqs::Visibility,
    telemetry::Telemetry,
};
use nostr_push_core::{
    Millis, Seconds,
    filter::Filter,
    index_key::IndexKey,
    message::{self, ContentMessage, DeliveryMessage, MAX_EVENT_BYTES, MAX_TAGS},
    mute_list::MuteList,
    owner::Owner,
    ports::{
        Budgets, IndexPage, IndexReader, MuteLists, PortResult, Queue, Standing, Standings,
        Subscriptions,
    },
    subscription::{IndexRow, MAX_FILTER_BYTES, Subscription},
};
use nostr_push_testkit::{builders::FAR_FUTURE, event, owner, subscription};
use serde_json::{Value, json};

const MAX_PEAK_BYTES: u64 = 128 * 1024 * 1024;

const NOW: Seconds = Seconds(1_800_000_000);

/// The people that an event mentions. All are owners.
const PEOPLE: usize = 1_050;

/// The most bytes of a filter in an index row. See the adapter of `filter_index`.
const INLINE_FILTER_BYTES: usize = 1_024;

/// Tables in which every mention finds rows of its owner: one with the largest filter that an index
/// row contains, and the others with the largest filters of all. Rows are made when they are read.
struct Worst {
    author: PublicKey,
    large: Filter,
}

/// A filter for the author's events, with as many further authors as fit.
fn filter(author: &PublicKey, p: Option<&str>, max_bytes: usize) -> Filter {
    let authors = |n: usize| {
        let others = (0..n).map(|n| format!("{n:064x}"));
        let authors: Vec<String> = others.chain([author.to_hex()]).collect();
        let mut filter = json!({"authors": authors});
        if let Some(p) = p {
            filter["#p"] = json!([p]);
        }
        filter
    };
    // Each author takes 67 bytes.
    Filter::from_json(&authors(max_bytes / 67 - 4)).unwrap()
}

impl IndexReader for Worst {
    async fn page(&self, key: &IndexKey, _: Option<&str>) -> PortResult<IndexPage> {
        let pubkey = PublicKey::from_byte_array(*key.mentions().expect("all hits are mentions"));
        let owner = owner(pubkey);
        let base = subscription(&owner, &json!({"#p": [pubkey.to_hex()]}));
        let mut own = base.index_rows().next().unwrap();
        let p = pubkey.to_hex();
        own.filter = Some(filter(&self.author, Some(&p), INLINE_FILTER_BYTES));
        let large = |n: usize| IndexRow {
            identity: n.to_string(),
            filter: None,
            ..own.clone()
        };
        let large = (0..MAX_LARGE_FILTERS).map(large);
        let rows = large.chain([own.clone()]).collect();
        Ok(IndexPage { rows, next: None })
    }
}

impl Subscriptions for Worst {
    async fn get(&self, ids: &[(Owner, String)]) -> PortResult<Vec<Subscription>> {
        let row = |(owner, identity): &(Owner, String)| Subscription {
            identity: identity.clone(),
            filter: self.large.clone(),
            ..subscription(owner, &json!({"#t": ["a"]}))
        };
        Ok(ids.iter().map(row).collect())
    }

    async fn of_owner(&self, _: &Owner) -> PortResult<Vec<Subscription>> {
        Ok(Vec::new())
    }

    async fn put(&self, _: &Subscription) -> PortResult<bool> {
        Ok(true)
    }

    async fn replace(&self, _: &Subscription, _: Millis) -> PortResult<bool> {
        Ok(true)
    }
}

impl Standings for Worst {
    async fn standings(&self, owners: &[Owner]) -> PortResult<BTreeMap<Owner, Standing>> {
        let standing = Standing {
            active_until: FAR_FUTURE,
            // Only a few large filters of newcomers are read.
            proven: true,
        };
        Ok(owners
            .iter()
            .map(|owner| (owner.clone(), standing))
            .collect())
    }
}

impl Budgets for Worst {
    async fn take(&self, _: &str, _: Seconds, _: u64, _: u64) -> PortResult<bool> {
        Ok(true)
    }
}

impl MuteLists for Worst {
    async fn mute_list(&self, _: &PublicKey) -> PortResult<Option<MuteList>> {
        Ok(None)
    }

    async fn put_mute_list(&self, _: &MuteList) -> PortResult<bool> {
        Ok(true)
    }
}

/// A queue that encodes messages, as SQS needs them, and drops them. Other records of the batch go
/// on between.
#[derive(Default)]
struct Encoded {
    deliveries: AtomicUsize,
    rests: AtomicUsize,
}

impl Queue<DeliveryMessage> for Encoded {
    async fn send(&self, messages: &[DeliveryMessage]) -> PortResult<()> {
        assert!(messages.len() <= DELIVERIES_PER_SEND);
        let bodies = messages.iter().map(message::encode);
        let bodies: Vec<String> = bodies.collect::<Result<_, _>>().unwrap();
        tokio::task::yield_now().await;
        self.deliveries.fetch_add(bodies.len(), Ordering::Relaxed);
        Ok(())
    }
}

impl Queue<ContentMessage> for Encoded {
    async fn send(&self, messages: &[ContentMessage]) -> PortResult<()> {
        let bodies: Vec<_> = messages.iter().map(message::encode).collect();
        tokio::task::yield_now().await;
        self.rests.fetch_add(bodies.len(), Ordering::Relaxed);
        Ok(())
    }
}

/// The message of the largest event that the queue admits: it mentions more than 1,000 owners, has
/// 2,000 tags and 256 KiB.
fn worst_message(author: &Keys, n: usize) -> String {
    let people: Vec<String> = (0..PEOPLE)
        .map(|_| Keys::generate().public_key().to_hex())
        .collect();
    let topics: Vec<String> = (PEOPLE..MAX_TAGS).map(|n| n.to_string()).collect();
    let mentions = people.iter().map(|pubkey| ["p", pubkey.as_str()]);
    let tags: Vec<[&str; 2]> = mentions
        .chain(topics.iter().map(|t| ["t", t.as_str()]))
        .collect();
    let tags: Vec<&[&str]> = tags.iter().map(<[&str; 2]>::as_slice).collect();
    let event_of = |content: &str| event(author, 1, NOW.0, &tags, content);
    let without_content = serde_json::to_string(&event_of("")).unwrap().len();
    // Control characters are the hardest to encode: six bytes each.
    let content = format!(
        "{n}{}",
        "\u{1}".repeat((MAX_EVENT_BYTES - without_content - 2) / 6)
    );
    let event = event_of(&content);
    assert!(serde_json::to_string(&event).unwrap().len() > MAX_EVENT_BYTES - 10);
    message::encode(&ContentMessage {
        relay: "wss://relay.example".to_owned(),
        received_at: NOW.to_millis(),
        backfill: false,
        from_owners_relay: false,
        hits: people
            .iter()
            .map(|p| format!("#p:{p}").parse().unwrap())
            .collect(),
        position: None,
        event,
    })
    .unwrap()
}

fn sqs_event(author: &Keys) -> SqsEvent {
    let record = |n: usize| -> Value {
        json!({
            "messageId": n.to_string(),
            "body": worst_message(author, n),
            "attributes": {},
            "messageAttributes": {},
        })
    };
    let records: Vec<Value> = (0..10).map(record).collect();
    serde_json::from_value(json!({"Records": records})).unwrap()
}

/// The largest resident set of this process so far, in bytes.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap() * 1024
}

async fn handle(
    matcher: &Matcher,
    store: &Worst,
    queue: &Encoded,
    record: Record<ContentMessage>,
) -> Result<(), Retry> {
    let clock = || NOW.to_millis();
    let outcome = matcher.handle(store, queue, &record.message, clock);
    outcome.await.map(drop).map_err(|_| Retry::default())
}

#[tokio::test]
async fn batch_of_worst_events_fits_into_128_mib() {
    let author = Keys::generate();
    let (mut matcher, queue) = (Matcher::new(u64::MAX), Encoded::default());
    // So each invocation has as many recipients as it may.
    (matcher.limits.queries, matcher.limits.rows) = (usize::MAX, usize::MAX);
    let store = Worst {
        author: author.public_key(),
        large: filter(&author.public_key(), None, MAX_FILTER_BYTES),
    };
    let variables = [
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = clients::at(&variables.into(), "AWS_ENDPOINT_URL").await;
    let visibility = Visibility::new(&config, "http://127.0.0.1:9/queue".to_owned());
    let telemetry = Telemetry::init("matcher");
    let event = sqs_event(&author);
    let (matcher, store, queue) = (&matcher, &store, &queue);
    let handle = move |record| handle(matcher, store, queue, record);
    let decode = message::decode::<ContentMessage>;
    let response = batch::process(telemetry, &visibility, event, decode, &handle).await;
    assert!(response.batch_item_failures.is_empty());
    let rests = queue.rests.load(Ordering::Relaxed);
    assert_eq!(
        rests, 10,
        "the last recipients are left to another invocation"
    );
    assert_eq!(queue.deliveries.load(Ordering::Relaxed), 10 * 1_000);
    let peak = peak_bytes();
    assert!(peak < MAX_PEAK_BYTES, "{} MiB", peak / 1024 / 1024);
}

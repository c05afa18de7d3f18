//! What names cost per push: the read units of one instance of deliver, once its cache is warm.
//!
//! The table and the cache are the real ones, on the local DynamoDB, whose read units a proxy
//! counts. The authors follow a Zipf distribution: the n-th most frequent one writes 1/n as often
//! as the first. A fifth of them have no name. Of ten pushes, three also name the author of another
//! note, and one a group. The cache is warm after 5,000 pushes, which an instance makes in some
//! hours for 1,000 users.
//!
//! The replay takes seconds, so no entry of the cache ends meanwhile. How much the end of entries
//! adds is computed with the rule of the cache. Every profile that is due is requested, because no
//! budget is used up.
//!
//! `cargo bench -p nostr-push-local --bench names`

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use anyhow::{Result, ensure};
use nostr::{event::EventId, key::Keys};
use nostr_push_aws::{clients, dynamodb::Store};
use nostr_push_core::{
    Seconds,
    order::Order,
    ports::{ProfileWriter, Profiles},
    profile::{Profile, ProfileKey, ProfileUpdate},
};
use nostr_push_local::{
    aws::{self, Aws, LocalPorts, STACK},
    proxy::{ServiceProxy, meter::Charge},
    tools::Tools,
};
use serde_json::json;

/// The numbers of people and groups.
const PEOPLE: usize = 10_000;
const GROUPS: usize = 100;

/// The pushes before the cache is warm, and those that are measured.
const WARM_UP: usize = 5_000;
const MEASURED: usize = 5_000;

/// The pushes of one instance per day: 1,000 users with 20 pushes each.
const PUSHES_PER_DAY: u32 = 1_000 * 20;

/// The read units of a profile: one eventually consistent read.
const READ_UNITS: f64 = 0.5;

/// The most read units per push.
const MAX_READ_UNITS: f64 = 0.2;

/// Numbers from 0 to 1 that are the same in every run.
struct Random(u64);

impl Random {
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    fn next(&mut self) -> f64 {
        let mut hasher = DefaultHasher::new();
        self.0.hash(&mut hasher);
        self.0 += 1;
        (hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The pushes: the numbers of the people and groups whose names each shows.
struct Trace {
    random: Random,
    /// The sums of the frequencies of the people.
    sums: Vec<f64>,
}

impl Trace {
    fn new() -> Self {
        let frequencies = (1..=PEOPLE).map(|n| 1.0 / f64::from(u32::try_from(n).unwrap_or(1)));
        let sums = frequencies.scan(0.0, |sum, frequency| {
            *sum += frequency;
            Some(*sum)
        });
        Self {
            random: Random(1),
            sums: sums.collect(),
        }
    }

    fn person(&mut self) -> usize {
        let all = self.sums.last().copied().unwrap_or_default();
        let at = self.random.next() * all;
        self.sums.partition_point(|sum| *sum < at).min(PEOPLE - 1)
    }

    /// The subjects of the next push: people first, then groups.
    fn push(&mut self) -> Vec<usize> {
        let mut subjects = vec![self.person()];
        if self.random.next() < 0.3 {
            subjects.push(self.person());
        }
        let group = self.random.next();
        if group < 0.1 {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "small"
            )]
            let number = (group * 10.0 * 100.0) as usize;
            subjects.push(PEOPLE + number.min(GROUPS - 1));
        }
        subjects
    }
}

/// The profiles, four of five with a name.
async fn store_profiles(store: &Store, now: Seconds) -> Result<Vec<ProfileKey>> {
    let mut keys: Vec<ProfileKey> = (0..PEOPLE)
        .map(|_| ProfileKey::Person(Keys::generate().public_key()))
        .collect();
    keys.extend((0..GROUPS).map(|n| ProfileKey::Group {
        relay: "wss://relay.example".to_owned(),
        id: n.to_string(),
    }));
    for (n, key) in keys.iter().enumerate() {
        store
            .claim_request(key, now - Seconds::from_minutes(10))
            .await?;
        if has_name(n) {
            let update = ProfileUpdate {
                key: key.clone(),
                name: Some(format!("name {n}")),
                picture: Some(format!("https://example.com/{}", "p".repeat(100))),
                order: Order {
                    created_at: Seconds(1),
                    event_id: EventId::from_byte_array([1; 32]),
                },
            };
            store.put_profile(&update, now).await?;
        }
    }
    Ok(keys)
}

fn has_name(n: usize) -> bool {
    n % 5 != 4
}

/// The read units per push if entries end, computed. The table is empty at first, and the second of
/// two days counts.
fn computed() -> f64 {
    let mut trace = Trace::new();
    // The row of each profile, and when its entry in the cache ends.
    let mut profiles: HashMap<usize, (Option<Profile>, Seconds)> = HashMap::new();
    let mut reads = 0_u32;
    for push in 0..2 * PUSHES_PER_DAY {
        let day = Seconds::from_days(1).0;
        let now = Seconds(day * u64::from(push) / u64::from(PUSHES_PER_DAY));
        for n in trace.push() {
            let (row, end) = profiles.entry(n).or_default();
            if *end <= now {
                reads += u32::from(push >= PUSHES_PER_DAY);
                *end = now + Profile::cache_time(row.as_ref(), now);
            }
            // The request updates the row and caches it, which costs no read unit.
            if Profile::is_due(row.as_ref(), now) {
                *row = Some(Profile {
                    name: has_name(n).then(|| format!("name {n}")),
                    picture: None,
                    asked_at: now,
                });
                *end = now + Profile::cache_time(row.as_ref(), now);
            }
        }
    }
    READ_UNITS * f64::from(reads) / f64::from(PUSHES_PER_DAY)
}

#[tokio::main]
async fn main() -> Result<()> {
    let tools = Tools::install().await?;
    let data = tempfile::tempdir()?;
    let aws = Aws::start(&tools, data.path(), LocalPorts::ANY).await?;
    let mut environment = aws.environment();
    aws::create_tables(&tools, &environment).await?;
    let now = clients::now().to_seconds();
    let config = clients::at(&environment, "AWS_ENDPOINT_URL").await;
    let keys = store_profiles(&Store::new(&config, STACK), now).await?;

    let proxy = ServiceProxy::default();
    let url = proxy.serve(&environment["AWS_ENDPOINT_URL"]).await?;
    environment.insert("AWS_ENDPOINT_URL".to_owned(), url);
    let config = clients::at(&environment, "AWS_ENDPOINT_URL").await;
    // The instance, whose cache is empty.
    let store = Store::new(&config, STACK);
    let mut trace = Trace::new();
    let read_units = || -> f64 {
        let charges = proxy.meter.read();
        let reads = charges
            .iter()
            .filter(|((_, charge), _)| *charge == Charge::Reads);
        reads.map(|(_, units)| units).sum()
    };
    let mut push = async |n: usize| -> Result<f64> {
        let before = read_units();
        for _ in 0..n {
            let subjects: Vec<ProfileKey> =
                trace.push().into_iter().map(|n| keys[n].clone()).collect();
            store.profiles(&subjects).await?;
        }
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let pushes = n as f64;
        Ok((read_units() - before) / pushes)
    };
    let cold = push(WARM_UP).await?;
    let warm = push(MEASURED).await?;
    let with_ends = computed();
    let figures = json!({
        "pushes": MEASURED,
        "read units per push, cold": cold,
        "read units per push, warm": warm,
        "read units per push if entries end, computed": with_ends,
    });
    println!("{figures:#}");
    aws.stop().await;
    ensure!(
        warm <= MAX_READ_UNITS && with_ends <= MAX_READ_UNITS,
        "names cost too much"
    );
    Ok(())
}

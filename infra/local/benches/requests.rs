//! What a push, a heartbeat, a registration and an hour of nothing make AWS charge for, counted on
//! the local stack and written to `infra/pushctl/src/counted.json`, from which `pushctl cost`
//! computes. Each message goes alone, so that nothing shares a request.
//!
//! `cargo bench -p nostr-push-local --bench requests`

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use nostr::key::{Keys, PublicKey};
use nostr_push_aws::clients::{self, SdkConfig};
use nostr_push_core::{DAY, app::App};
use nostr_push_local::{
    demo::publish,
    meter::{Charge, Meter},
    root,
    stack::{Options, Stack},
    tools::Tools,
};
use nostr_push_testkit::{control_event, dialect_h_event, event};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

const STAGES: [&str; 4] = ["control", "matcher", "deliver", "feedback"];

/// How many of each are counted.
const PUSHES: u32 = 50;
const REGISTRATIONS: u32 = 20;
/// One a minute, as far back as the protocol accepts them.
const HEARTBEATS: u32 = 14;
/// How long nothing happens.
const IDLE: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() -> Result<()> {
    // `cargo test --benches` has no five minutes for this.
    if !std::env::args().any(|word| word == "--bench") {
        return Ok(());
    }
    let tools = Tools::install().await?;
    let data = tempfile::tempdir()?;
    let options = Options::anywhere(
        data.path(),
        vec![App {
            max_pushes: Some(100_000),
            ..App::named("demo")
        }],
    );
    let meter = Meter::default();
    let stack = Stack::start_metered(&tools, options, Some(&meter)).await?;
    let aws = clients::at(&stack.aws.environment(), "AWS_ENDPOINT_URL").await;
    let bill = Bill {
        stack: &stack,
        meter,
        aws,
    };
    let counted = count(&bill).await;
    stack.stop().await;
    let file = root().join("infra/pushctl/src/counted.json");
    let text = serde_json::to_string_pretty(&counted?)? + "\n";
    print!("{text}");
    std::fs::write(&file, text)?;
    println!("written to {}", file.display());
    Ok(())
}

async fn count(bill: &Bill<'_>) -> Result<Value> {
    let relay = &bill.stack.relays[0];
    let service = PublicKey::from_hex(&bill.stack.service_pubkey)?;
    let now = clients::now() / 1000;
    let expiration = (now + DAY).to_string();
    let tags: [&[&str]; 2] = [&["app", "demo"], &["expiration", &expiration]];
    // What they cost once, at their first invocation, is not what a push costs.
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let me = alice.public_key().to_hex();
    let register = async |keys: &Keys| -> Result<()> {
        let (pubkey, token) = (
            keys.public_key().to_hex(),
            Keys::generate().public_key().to_hex(),
        );
        for (kind, payload) in [
            (3079, json!({"token": token})),
            (3081, json!({"filter": {"kinds": [1], "#p": [pubkey]}})),
        ] {
            let before = bill.outcomes("control").await?;
            publish(
                relay,
                &control_event(keys, service, kind, now, &tags, &payload.to_string()),
            )
            .await?;
            bill.until("control", before + 1).await?;
        }
        Ok(())
    };
    let push = async || -> Result<()> {
        let before = bill.outcomes("deliver").await?;
        publish(
            relay,
            &event(
                &bob,
                1,
                clients::now() / 1000,
                &[&["p", &me]],
                &format!("It is {} now.", clients::now()),
            ),
        )
        .await?;
        bill.until("deliver", before + 1).await
    };
    register(&alice).await?;
    push().await?;

    let (before, stored) = (bill.read().await?, bill.stored().await?);
    for _ in 0..PUSHES {
        push().await?;
    }
    let pushes = each(&before, &bill.read().await?, PUSHES);
    let bytes_of_push = (bill.stored().await? - stored) / f64::from(PUSHES);

    let (before, stored) = (bill.read().await?, bill.stored().await?);
    for _ in 0..REGISTRATIONS {
        register(&Keys::generate()).await?;
    }
    let registrations = each(&before, &bill.read().await?, REGISTRATIONS);
    let bytes_of_registration = (bill.stored().await? - stored) / f64::from(REGISTRATIONS);

    let carol = Keys::generate();
    let settings =
        json!({"kinds": [1], "deviceId": Keys::generate().public_key().to_hex()}).to_string();
    let first = clients::now() / 1000 - u64::from(HEARTBEATS) * 60;
    let say = async |at: u64, plaintext: &str| -> Result<()> {
        let before = bill.outcomes("control").await?;
        publish(relay, &dialect_h_event(&carol, service, at, &[], plaintext)).await?;
        bill.until("control", before + 1).await
    };
    say(first, &settings).await?;
    say(first + 1, &json!({"online": 1}).to_string()).await?;
    let before = bill.read().await?;
    for n in 1..=HEARTBEATS {
        say(first + u64::from(n) * 60, &json!({"online": 1}).to_string()).await?;
    }
    let heartbeats = each(&before, &bill.read().await?, HEARTBEATS);

    let before = bill.read().await?;
    sleep(IDLE).await;
    let idle = each(&before, &bill.read().await?, 1);
    let hour = idle["listener"]
        .as_object()
        .context("the listener is idle")?
        .iter()
        .map(|(name, n)| {
            (
                name.clone(),
                json!(round(
                    n.as_f64().unwrap_or_default() * 3600.0 / IDLE.as_secs_f64()
                )),
            )
        });
    Ok(json!({
        "event": {"listener": shared(&pushes["listener"]), "matcher": pushes["matcher"]},
        "push": {"deliver": pushes["deliver"]},
        "registration": {"listener": shared(&registrations["listener"]), "control": registrations["control"]},
        "heartbeat": {"listener": shared(&heartbeats["listener"]), "control": heartbeats["control"]},
        "idle_hour": {"listener": hour.collect::<Map<_, _>>()},
        "bytes_of_registration": bytes_of_registration.round(),
        "bytes_of_push": bytes_of_push.round(),
        "metrics": bill.metrics().await?.len(),
    }))
}

/// What the listener asks for the sake of an event. Its reading of tables goes by the clock, and
/// counts as idle.
fn shared(listener: &Value) -> Value {
    json!({"sqs": listener["sqs"]})
}

/// Where all is counted.
struct Bill<'a> {
    stack: &'a Stack,
    meter: Meter,
    aws: SdkConfig,
}

type Charges = BTreeMap<(String, &'static str), f64>;

impl Bill<'_> {
    /// All charges so far, by stage and kind.
    async fn read(&self) -> Result<Charges> {
        // Lambda's report of an invocation is written after its last line.
        sleep(Duration::from_secs(2)).await;
        let mut charges = Charges::new();
        for ((stage, charge), n) in self.meter.read() {
            let name = match charge {
                Charge::Sqs => "sqs",
                Charge::Reads => "reads",
                Charge::Writes => "writes",
                Charge::Sns => "sns",
                Charge::Pushes => "pushes",
            };
            charges.insert((stage, name), n);
        }
        let listener = self
            .stack
            .listener_log()?
            .iter()
            .map(|line| line.len() + 26)
            .sum::<usize>();
        charges.insert(
            ("listener".to_owned(), "log_bytes"),
            f64::from(u32::try_from(listener)?),
        );
        for stage in STAGES {
            for line in self.stack.function_log(stage).await? {
                let mut add = |name, n| *charges.entry((stage.to_owned(), name)).or_default() += n;
                // CloudWatch adds 26 bytes to each. Metrics, and what Lambda itself writes, come
                // once for each invocation.
                let of_message = line.contains(r#""event_id":"#);
                add(
                    if of_message {
                        "log_bytes"
                    } else {
                        "log_bytes_of_invocation"
                    },
                    f64::from(u32::try_from(line.len() + 26)?),
                );
                if line.starts_with("REPORT ") {
                    let field = |name: &str| -> Option<f64> {
                        line.split_once(name)?
                            .1
                            .trim()
                            .split(' ')
                            .next()?
                            .parse()
                            .ok()
                    };
                    add("invocations", 1.0);
                    let (ms, mb) = (field("Billed Duration:"), field("Memory Size:"));
                    let (ms, mb) = (
                        ms.context("a report has a duration")?,
                        mb.context("a report has a memory size")?,
                    );
                    add("gb_seconds", ms.ceil() / 1000.0 * mb / 1024.0);
                }
            }
        }
        Ok(charges)
    }

    /// How many messages a stage is done with.
    async fn outcomes(&self, stage: &str) -> Result<usize> {
        let lines = self.stack.function_log(stage).await?;
        Ok(lines
            .iter()
            .filter(|line| line.contains(r#""event_id":"#) && line.contains(r#""latency_ms":"#))
            .count())
    }

    async fn until(&self, stage: &str, outcomes: usize) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(120);
        while self.outcomes(stage).await? < outcomes {
            ensure!(
                Instant::now() < deadline,
                "{stage} is not done: {}",
                self.stack.logs()
            );
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// All custom metrics seen: each combination of a name and its dimensions' values is one.
    async fn metrics(&self) -> Result<BTreeSet<String>> {
        let mut lines = self.stack.listener_log()?;
        for stage in STAGES {
            lines.extend(self.stack.function_log(stage).await?);
        }
        let mut metrics = BTreeSet::new();
        for line in lines
            .iter()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        {
            for set in line["_aws"]["CloudWatchMetrics"]
                .as_array()
                .into_iter()
                .flatten()
            {
                for metric in set["Metrics"].as_array().into_iter().flatten() {
                    for dimensions in set["Dimensions"].as_array().into_iter().flatten() {
                        let values: Vec<String> = dimensions
                            .as_array()
                            .into_iter()
                            .flatten()
                            .map(|name| line[name.as_str().unwrap_or_default()].to_string())
                            .collect();
                        metrics.insert(format!("{} {}", metric["Name"], values.join(" ")));
                    }
                }
            }
        }
        Ok(metrics)
    }

    /// How many bytes all items take, with the 100 that DynamoDB adds to each; indexes are not
    /// counted.
    async fn stored(&self) -> Result<f64> {
        let client = aws_sdk_dynamodb::Client::new(&self.aws);
        let mut bytes = 0;
        for table in client
            .list_tables()
            .send()
            .await?
            .table_names
            .unwrap_or_default()
        {
            let mut pages = client.scan().table_name(table).into_paginator().send();
            while let Some(page) = pages.next().await {
                for item in page?.items.unwrap_or_default() {
                    bytes += 100
                        + item
                            .iter()
                            .map(|(name, value)| name.len() + size(value))
                            .sum::<usize>();
                }
            }
        }
        Ok(f64::from(u32::try_from(bytes)?))
    }
}

/// The size of an attribute's value, as DynamoDB reckons it.
fn size(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::N(digits) => digits.len().div_ceil(2) + 1,
        AttributeValue::B(bytes) => bytes.as_ref().len(),
        AttributeValue::Ss(texts) => texts.iter().map(String::len).sum(),
        AttributeValue::L(values) => 3 + values.iter().map(|value| 1 + size(value)).sum::<usize>(),
        AttributeValue::M(values) => {
            3 + values
                .iter()
                .map(|(name, value)| 1 + name.len() + size(value))
                .sum::<usize>()
        }
        _ => 1,
    }
}

/// By stage, what came between two readings for each of `n`.
fn each(before: &Charges, after: &Charges, n: u32) -> Map<String, Value> {
    let mut stages: Map<String, Value> = Map::new();
    for ((stage, name), counted) in after {
        let more = (counted - before.get(&(stage.clone(), *name)).unwrap_or(&0.0)) / f64::from(n);
        if more > 0.0 {
            stages.entry(stage.clone()).or_insert_with(|| json!({}))[*name] = json!(round(more));
        }
    }
    stages
}

/// To six digits after the point: what is less is noise.
fn round(n: f64) -> f64 {
    (n * 1e6).round() / 1e6
}

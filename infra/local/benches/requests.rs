//! What AWS charges for a push, a heartbeat, a registration, and an hour without events. The
//! charges are counted on the local stack and written to `infra/pushctl/src/counted.json`, from
//! which `pushctl cost` computes. Each message is sent alone, so that no two share a request.
//!
//! `cargo bench -p nostr-push-local --bench requests`

#[path = "requests/bill.rs"]
mod bill;

use std::time::Duration;

use anyhow::{Context, Result};
use bill::{AverageCharges, Bill, round};
use nostr::key::{Keys, PublicKey};
use nostr_push_aws::clients;
use nostr_push_core::{Seconds, app::App};
use nostr_push_local::{
    demo::publish,
    proxy::ServiceProxy,
    root,
    stack::{Options, Stack},
    tools::Tools,
};
use nostr_push_testkit::{control_event, dialect_h_event, event};
use serde_json::{Map, Value, json};
use tokio::time::sleep;

/// The number of pushes that are counted.
const PUSHES: u32 = 50;

/// The number of registrations that are counted.
const REGISTRATIONS: u32 = 20;

/// The number of heartbeats that are counted. They are one minute apart, and the service accepts
/// events of dialect H that are at most 15 minutes old.
const HEARTBEATS: u32 = 14;

/// How long charges are counted while no events arrive.
const IDLE_TIME: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() -> Result<()> {
    // `cargo test --benches` does not run the bench: it takes five minutes.
    if !std::env::args().any(|word| word == "--bench") {
        return Ok(());
    }
    let tools = Tools::install().await?;
    let data = tempfile::tempdir()?;
    let app = App {
        max_pushes: Some(100_000),
        ..App::named("demo")
    };
    let options = Options::anywhere(data.path(), vec![app]);
    let proxy = ServiceProxy::default();
    let stack = Stack::start_behind(&tools, options, Some(&proxy)).await?;
    let client = Client {
        service: PublicKey::from_hex(&stack.service_pubkey)?,
        bill: Bill::new(&stack, proxy.meter).await,
        relay: &stack.relays[0],
    };
    let counted = client.count().await;
    stack.stop().await;
    let file = root().join("infra/pushctl/src/counted.json");
    let text = serde_json::to_string_pretty(&counted?)? + "\n";
    print!("{text}");
    std::fs::write(&file, text)?;
    println!("written to {}", file.display());
    Ok(())
}

/// Sends one event at a time, and waits until it is handled.
struct Client<'a> {
    bill: Bill<'a>,
    relay: &'a str,
    service: PublicKey,
}

impl Client<'_> {
    async fn count(&self) -> Result<Value> {
        let bill = &self.bill;
        let (alice, bob) = (Keys::generate(), Keys::generate());
        // The first invocation of a function costs more and is not counted.
        self.register(&alice).await?;
        self.push(&bob, &alice).await?;

        let pushes = bill
            .measure(PUSHES, async |_| self.push(&bob, &alice).await)
            .await?;
        let registrations = bill
            .measure(REGISTRATIONS, async |_| {
                self.register(&Keys::generate()).await
            })
            .await?;
        let heartbeats = self.heartbeats().await?;
        let idle = bill
            .measure(1, async |_| {
                sleep(IDLE_TIME).await;
                Ok(())
            })
            .await?;
        Ok(json!({
            "event": {
                "listener": without_reads(&pushes),
                "matcher": pushes.stages["matcher"],
            },
            "push": {"deliver": pushes.stages["deliver"]},
            "registration": {
                "listener": without_reads(&registrations),
                "control": registrations.stages["control"],
            },
            "heartbeat": {
                "listener": without_reads(&heartbeats),
                "control": heartbeats.stages["control"],
            },
            "idle_hour": {"listener": per_hour(&idle)?},
            "bytes_of_registration": registrations.bytes.round(),
            "bytes_of_push": pushes.bytes.round(),
            "metrics": bill.metrics().await?.len(),
        }))
    }

    /// Registers a device and a filter for notes that mention its owner.
    async fn register(&self, keys: &Keys) -> Result<()> {
        let token = Keys::generate().public_key().to_hex();
        let now = clients::now().to_seconds();
        let expiration = (now + Seconds::from_days(1)).to_string();
        let tags: [&[&str]; 2] = [&["app", "demo"], &["expiration", &expiration]];
        let filter = json!({"kinds": [1], "#p": [keys.public_key()]});
        for (kind, payload) in [
            (3079, json!({"token": token})),
            (3081, json!({"filter": filter})),
        ] {
            let handled = self.bill.handled("control").await?;
            let payload = payload.to_string();
            let event = control_event(keys, self.service, kind, now.0, &tags, &payload);
            publish(self.relay, &event).await?;
            self.bill.wait_for_handled("control", handled + 1).await?;
        }
        Ok(())
    }

    /// Publishes a note that is pushed to the recipient.
    async fn push(&self, author: &Keys, recipient: &Keys) -> Result<()> {
        let handled = self.bill.handled("deliver").await?;
        let now = clients::now();
        let recipient = recipient.public_key().to_hex();
        let tags: [&[&str]; 1] = [&["p", &recipient]];
        let content = format!("It is {now} now.");
        let note = event(author, 1, now.to_seconds().0, &tags, &content);
        publish(self.relay, &note).await?;
        self.bill.wait_for_handled("deliver", handled + 1).await
    }

    /// Measures the heartbeats of a new owner, after their settings and their first heartbeat.
    async fn heartbeats(&self) -> Result<AverageCharges> {
        let carol = Keys::generate();
        let token = Keys::generate().public_key().to_hex();
        let settings = json!({"kinds": [1], "deviceId": token});
        let online = json!({"online": 1});
        let minutes = |n: u32| Seconds::from_minutes(n.into());
        let first = clients::now().to_seconds() - minutes(HEARTBEATS);
        self.send_dialect_h(&carol, first, &settings).await?;
        self.send_dialect_h(&carol, first + Seconds(1), &online)
            .await?;
        self.bill
            .measure(HEARTBEATS, async |n| {
                let created_at = first + minutes(n + 1);
                self.send_dialect_h(&carol, created_at, &online).await
            })
            .await
    }

    async fn send_dialect_h(
        &self,
        keys: &Keys,
        created_at: Seconds,
        payload: &Value,
    ) -> Result<()> {
        let handled = self.bill.handled("control").await?;
        let payload = payload.to_string();
        let event = dialect_h_event(keys, self.service, created_at.0, &[], &payload);
        publish(self.relay, &event).await?;
        self.bill.wait_for_handled("control", handled + 1).await
    }
}

/// What the listener is charged for because of an event. It reads tables at fixed intervals, which
/// counts as idle.
fn without_reads(measured: &AverageCharges) -> Value {
    json!({"sqs": measured.stages["listener"]["sqs"]})
}

/// The listener's charges of an idle hour.
fn per_hour(idle: &AverageCharges) -> Result<Map<String, Value>> {
    let hours = IDLE_TIME.as_secs_f64() / 3600.0;
    let listener = idle.stages["listener"].as_object();
    let charges = listener.context("the listener was charged for nothing")?;
    Ok(charges
        .iter()
        .map(|(name, n)| {
            let per_hour = n.as_f64().unwrap_or_default() / hours;
            (name.clone(), json!(round(per_hour)))
        })
        .collect())
}

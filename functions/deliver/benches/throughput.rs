//! The number of deliveries per second of one instance of deliver, against an SNS endpoint that
//! takes 20 ms to publish. The batch loop and the SNS client are the real ones. The tables are in
//! memory, so that a local database on the same two cores is not measured. Lambda gives an instance
//! one batch of 10 at a time, so at most 10 deliveries run concurrently.
//!
//! `cargo bench --profile release -p deliver --bench throughput`

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use aws_lambda_events::sqs::SqsEvent;
use axum::{Router, http::header, response::IntoResponse};
use deliver::{
    claim::Attempt, handler, outcome::DeliveryOutcome, profile_requests::RequestBudgets,
};
use nostr::key::Keys;
use nostr_push_aws::{batch, clients, sns::Sns, sqs::Visibility, telemetry::Telemetry};
use nostr_push_core::{
    Seconds,
    app::{App, Platform},
    device::Registration,
    message::{self, Delivery, DeliveryMessage},
};
use nostr_push_testkit::{
    builders::{self, APP},
    event,
    memory::Memory,
    owner, registration,
};
use serde_json::json;
use tokio::net::TcpListener;

/// The time that SNS takes to publish.
const PUBLISH_TIME: Duration = Duration::from_millis(20);

/// Records of one batch (the template's `BatchSize`).
const BATCH: usize = 10;

/// The response of SNS to a publish.
const PUBLISHED: &str = concat!(
    r#"<PublishResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/">"#,
    "<PublishResult><MessageId>1</MessageId></PublishResult>",
    "<ResponseMetadata><RequestId>1</RequestId></ResponseMetadata>",
    "</PublishResponse>",
);

async fn publish() -> impl IntoResponse {
    tokio::time::sleep(PUBLISH_TIME).await;
    ([(header::CONTENT_TYPE, "text/xml")], PUBLISHED)
}

/// Starts an SNS endpoint and returns its URL. It has a thread of its own, because SNS does not run
/// on the instance.
fn start_sns() -> Result<String> {
    let listener = std::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    listener.set_nonblocking(true)?;
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let router = Router::new().fallback(publish);
            axum::serve(TcpListener::from_std(listener)?, router).await
        })
    });
    Ok(endpoint)
}

/// Stores a recipient with one device, and returns a delivery to it.
fn delivery(memory: &Memory, n: usize) -> DeliveryMessage {
    let owner = owner(Keys::generate().public_key());
    let arn = format!("arn:aws:sns:us-east-1:0:endpoint/APNS/demo/{n}");
    let registration = Registration {
        platform: Platform::Apns,
        ..registration(&owner, &arn)
    };
    let device = builders::device(&n.to_string(), registration);
    let roster = builders::roster(&owner, &[&device]);
    let mut state = memory.state();
    state.rosters.insert(owner.clone(), roster);
    state.devices.insert(device.id.clone(), device);
    let now = clients::now();
    DeliveryMessage::Event(Box::new(Delivery {
        app: owner.app,
        recipient: owner.pubkey,
        reasons: vec!["#p".to_owned()],
        relay: "wss://relay.example".to_owned(),
        received_at: now,
        cut: false,
        mentions: None,
        zapper: None,
        waited: false,
        event: event(&Keys::generate(), 1, now.to_seconds().0, &[], "hello"),
    }))
}

/// A batch of deliveries, each to a new recipient. `first` is the number of the first device.
fn sqs_event(memory: &Memory, first: usize, size: usize) -> Result<SqsEvent> {
    let records = (first..first + size).map(|n| {
        Ok(json!({
            "messageId": n.to_string(),
            "body": message::encode(&delivery(memory, n))?,
            "attributes": {},
            "messageAttributes": {},
        }))
    });
    let records = records.collect::<Result<Vec<_>>>()?;
    Ok(serde_json::from_value(json!({"Records": records}))?)
}

/// What the batch loop needs.
struct Instance {
    memory: Memory,
    sns: Sns,
    budgets: RequestBudgets,
    visibility: Visibility,
    telemetry: Telemetry,
}

impl Instance {
    async fn start() -> Result<Self> {
        let endpoint = start_sns()?;
        let variables: HashMap<String, String> = [
            ("AWS_ENDPOINT_URL", endpoint.as_str()),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "x"),
            ("AWS_SECRET_ACCESS_KEY", "x"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let config = clients::at(&variables, "AWS_ENDPOINT_URL").await;
        Ok(Self {
            memory: Memory::with_apps([App::named(APP)]),
            sns: Sns::new(&config),
            budgets: RequestBudgets::default(),
            visibility: Visibility::new(&config, format!("{endpoint}/queue")),
            telemetry: Telemetry::init("deliver"),
        })
    }

    async fn handle(&self, record: batch::Record<DeliveryMessage>) -> Result<(), batch::Retry> {
        let attempt = Attempt {
            holder: record.message_id,
            now: clients::now(),
            lease: Seconds(60),
        };
        let memory = &self.memory;
        let handled = handler::handle(
            memory,
            &self.sns,
            memory,
            &self.budgets,
            &record.message,
            &attempt,
        );
        match handled.await {
            Ok(DeliveryOutcome::Completed(devices)) if devices.len() == 1 => Ok(()),
            _ => Err(batch::Retry::default()),
        }
    }

    /// Handles these batches one after the other and returns the time.
    async fn run(&self, size: usize, batches: usize) -> Result<Duration> {
        let events: Vec<SqsEvent> = (0..batches)
            .map(|n| sqs_event(&self.memory, n * size, size))
            .collect::<Result<_>>()?;
        let started = Instant::now();
        for event in events {
            let response = batch::process(
                self.telemetry,
                &self.visibility,
                event,
                message::decode::<DeliveryMessage>,
                &|record| self.handle(record),
            )
            .await;
            ensure!(response.batch_item_failures.is_empty(), "a delivery failed");
        }
        Ok(started.elapsed())
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    // `cargo test --benches` only checks that the benchmark runs.
    let batches = if std::env::args().any(|word| word == "--bench") {
        200
    } else {
        5
    };
    let instance = Instance::start().await?;
    instance.run(BATCH, 5).await?;
    let alone = instance.run(1, batches).await? / u32::try_from(batches)?;
    let together = instance.run(BATCH, batches).await?;
    let per_second = (BATCH * batches) as f64 / together.as_secs_f64();
    let maximum = BATCH as f64 / alone.as_secs_f64();
    println!(
        "one delivery alone: {:.1} ms, of which SNS {} ms",
        alone.as_secs_f64() * 1e3,
        PUBLISH_TIME.as_millis()
    );
    println!(
        "ten at once: {per_second:.0} deliveries/s, \
         {:.2} of the {maximum:.0}/s that ten concurrent deliveries allow",
        per_second / maximum
    );
    Ok(())
}

//! How many deliveries a second one instance of deliver makes, against an SNS endpoint that takes
//! 20 ms to publish: the whole batch loop, the real SNS client, and the tables in memory, so that
//! what is measured is deliver and not a local database on the same two cores. Lambda gives an
//! instance one batch of 10 at a time, so ten at once is what its concurrency allows.
//!
//! `cargo bench -p deliver --bench throughput`

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use aws_lambda_events::sqs::SqsEvent;
use axum::{Router, http::header, response::IntoResponse};
use deliver::handler::{self, Attempt, Delivered};
use nostr::key::Keys;
use nostr_push_aws::{batch, clients, sns::Sns, sqs::Visibility, telemetry::Telemetry};
use nostr_push_core::{
    app::{App, Platform},
    device::{Device, DeviceId, Registration, Roster, State},
    message::{self, Delivery, Outgoing},
    order::Order,
    owner::Owner,
};
use nostr_push_testkit::{event, memory::Memory};
use serde_json::json;
use tokio::net::TcpListener;

/// How long SNS takes.
const PUBLISH: Duration = Duration::from_millis(20);

/// Records of one batch (the template's `BatchSize`).
const BATCH: usize = 10;

/// What a client that never answers late would see of SNS.
async fn publish() -> impl IntoResponse {
    tokio::time::sleep(PUBLISH).await;
    let body = r#"<PublishResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><PublishResult><MessageId>1</MessageId></PublishResult><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></PublishResponse>"#;
    ([(header::CONTENT_TYPE, "text/xml")], body)
}

/// One recipient with one device, and a delivery to it.
fn recipient(memory: &Memory, n: usize) -> Outgoing {
    let owner = Owner {
        app: "demo".to_owned(),
        pubkey: Keys::generate().public_key(),
    };
    let id = DeviceId {
        app: "demo".to_owned(),
        token_hash: n.to_string(),
    };
    let registration = Registration {
        owner: owner.clone(),
        order: Order::counter(1),
        platform: Platform::Apns,
        by_settings: false,
        registered_at: 1,
        max_mentions: None,
        taken_from: None,
        endpoint_arn: Some(format!("arn:aws:sns:us-east-1:0:endpoint/APNS/demo/{n}")),
        state: State::Active,
        valid_until: 4_000_000_000,
    };
    let device = Device {
        id: id.clone(),
        registration: Some(registration),
        removals: BTreeMap::new(),
        expires_at: 4_000_000_000,
        version: 1,
    };
    let mut state = memory.state();
    state.rosters.insert(
        owner.clone(),
        Roster {
            devices: [id.token_hash.clone()].into(),
            ..Roster::new(owner.clone())
        },
    );
    state.devices.insert(id, device);
    Outgoing::Event(Box::new(Delivery {
        app: owner.app,
        recipient: owner.pubkey,
        reasons: vec!["#p".to_owned()],
        relay: "wss://relay.example".to_owned(),
        received_at: clients::now(),
        cut: false,
        waited: false,
        event: event(&Keys::generate(), 1, clients::now() / 1000, &[], "hello"),
    }))
}

fn sqs_event(deliveries: &[Outgoing]) -> Result<SqsEvent> {
    let records = deliveries.iter().enumerate().map(|(n, delivery)| {
        Ok(json!({"messageId": n.to_string(), "body": message::encode(delivery)?, "attributes": {}, "messageAttributes": {}}))
    });
    Ok(serde_json::from_value(
        json!({"Records": records.collect::<Result<Vec<_>>>()?}),
    )?)
}

#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    // `cargo test --benches` only wants to know that it runs.
    let batches = if std::env::args().any(|word| word == "--bench") {
        200
    } else {
        5
    };
    let listener = std::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    listener.set_nonblocking(true)?;
    // In a thread of its own: SNS is another machine.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            axum::serve(
                TcpListener::from_std(listener)?,
                Router::new().fallback(publish),
            )
            .await
        })
    });
    let variables = [
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
    ];
    let variables: HashMap<String, String> = variables
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let config = clients::at(&variables, "AWS_ENDPOINT_URL").await;
    let (sns, visibility) = (
        Sns::new(&config),
        Visibility::new(&config, format!("{endpoint}/queue")),
    );
    let memory = Memory::with_apps([App::named("demo")]);
    let telemetry = Telemetry::init("deliver");
    let handle = async |record: batch::Record<Outgoing>| {
        let attempt = Attempt {
            holder: record.message_id,
            now: clients::now(),
            lease: Duration::from_secs(60),
        };
        match handler::handle(&memory, &sns, &memory, &record.message, &attempt).await {
            Ok(Delivered::Tried(tried)) if tried.len() == 1 => Ok(()),
            _ => Err(batch::Retry::default()),
        }
    };
    let run = async |size: usize, batches: usize| -> Result<Duration> {
        let mut events = Vec::with_capacity(batches);
        for b in 0..batches {
            events.push(sqs_event(
                &(0..size)
                    .map(|n| recipient(&memory, b * size + n))
                    .collect::<Vec<_>>(),
            )?);
        }
        let started = Instant::now();
        for event in events {
            let response = batch::process(
                telemetry,
                &visibility,
                event,
                message::decode::<Outgoing>,
                &handle,
            )
            .await;
            ensure!(response.batch_item_failures.is_empty(), "a delivery failed");
        }
        Ok(started.elapsed())
    };
    run(BATCH, 5).await?;
    let alone = run(1, batches).await? / u32::try_from(batches)?;
    let together = run(BATCH, batches).await?;
    let per_second = (BATCH * batches) as f64 / together.as_secs_f64();
    let allowed = BATCH as f64 / alone.as_secs_f64();
    println!(
        "one delivery alone: {:.1} ms, of which SNS {} ms and what timers round up",
        alone.as_secs_f64() * 1e3,
        PUBLISH.as_millis()
    );
    println!(
        "ten at once: {per_second:.0} deliveries/s, {:.2} of the {allowed:.0}/s that ten such at once allow",
        per_second / allowed
    );
    Ok(())
}

//! The known user whom the attacks may not slow down.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, Result, bail};
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_sqs::types::QueueAttributeName;
use nostr::key::{Keys, PublicKey};
use nostr_push_aws::clients;
use nostr_push_core::Seconds;
use nostr_push_local::{
    aws::STACK,
    demo::publish,
    stack::{FUNCTIONS, Stack},
};
use nostr_push_testkit::{control_event, event};
use serde_json::json;
use tokio::time::{Instant, sleep};

const TIMEOUT: Duration = Duration::from_secs(300);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// How long the queues must be empty until everything counts as handled.
const IDLE_TIME: Duration = Duration::from_secs(3);

/// A user with a proven device and a filter for mentions.
pub(crate) struct User<'a> {
    stack: &'a Stack,
    service: PublicKey,
    keys: Keys,
    token: String,
}

/// The times of some operations.
#[derive(Default)]
pub(crate) struct Samples {
    pub(crate) registrations: Vec<Duration>,
    pub(crate) pushes: Vec<Duration>,
}

impl<'a> User<'a> {
    /// Registers a user and makes the device proven: the time of its first push is put back, and a
    /// second push does the rest.
    pub(crate) async fn proven(stack: &'a Stack, service: PublicKey) -> Result<Self> {
        let user = Self {
            stack,
            service,
            keys: Keys::generate(),
            token: Keys::generate().public_key().to_hex(),
        };
        user.send(3079, &json!({"token": user.token}).to_string())
            .await?;
        let filter = json!({"kinds": [1], "#p": [user.keys.public_key()]});
        user.send(3081, &json!({"filter": filter}).to_string())
            .await?;
        wait_until_idle(stack).await?;
        user.push().await?;
        wait_until_idle(stack).await?;
        user.put_first_push_back().await?;
        user.push().await?;
        wait_until_idle(stack).await?;
        Ok(user)
    }

    pub(crate) fn pubkey(&self) -> PublicKey {
        self.keys.public_key()
    }

    async fn put_first_push_back(&self) -> Result<()> {
        let config = clients::at(&self.stack.aws.environment(), "AWS_ENDPOINT_URL").await;
        let dynamodb = aws_sdk_dynamodb::Client::new(&config);
        let table = format!("{STACK}-devices");
        let rows = dynamodb.scan().table_name(&table).send().await?;
        let owner = self.keys.public_key().to_hex();
        let is_device = |row: &&HashMap<String, AttributeValue>| {
            row.get("registration")
                .is_some_and(|r| format!("{r:?}").contains(&owner))
        };
        let rows = rows.items.unwrap_or_default();
        let device = rows.iter().find(is_device).context("no device")?;
        let long_ago = clients::now().to_seconds() - Seconds::from_hours(1);
        dynamodb
            .update_item()
            .table_name(&table)
            .key("device", device["device"].clone())
            .update_expression("SET registration.first_delivered_at = :at")
            .expression_attribute_values(":at", AttributeValue::N(long_ago.to_string()))
            .send()
            .await?;
        Ok(())
    }

    /// Measures `n` registrations and pushes, one after another.
    pub(crate) async fn samples(&self, n: usize) -> Result<Samples> {
        let mut samples = Samples::default();
        for _ in 0..n {
            samples.registrations.push(self.register().await?);
            samples.pushes.push(self.push().await?);
        }
        Ok(samples)
    }

    /// Renews the registration. Returns the time until control has logged it.
    async fn register(&self) -> Result<Duration> {
        let began = Instant::now();
        let id = self
            .send(3079, &json!({"token": self.token}).to_string())
            .await?;
        self.wait(began, async || {
            let lines = self.stack.function_log("control").await?;
            Ok(lines.iter().any(|line| line.contains(&id)))
        })
        .await
    }

    /// Publishes a note that mentions the user. Returns the time until SNS has accepted its push.
    async fn push(&self) -> Result<Duration> {
        let owner = self.keys.public_key().to_hex();
        let now = clients::now();
        let tags: [&[&str]; 1] = [&["p", &owner]];
        let created_at = now.to_seconds() + Seconds(1);
        let note = event(&Keys::generate(), 1, created_at.0, &tags, &now.to_string());
        let began = Instant::now();
        publish(&self.stack.relays[0], &note).await?;
        let id = note.id.to_hex();
        self.wait(began, async || {
            let pushes = self.stack.aws.sns.pushes(0);
            Ok(pushes
                .iter()
                .any(|push| push.message["event_id"] == json!(id)))
        })
        .await
    }

    async fn wait(
        &self,
        began: Instant,
        is_done: impl AsyncFn() -> Result<bool>,
    ) -> Result<Duration> {
        while !is_done().await? {
            if began.elapsed() > TIMEOUT {
                bail!("not done after {TIMEOUT:?}: {}", self.stack.logs());
            }
            sleep(POLL_INTERVAL).await;
        }
        Ok(began.elapsed())
    }

    async fn send(&self, kind: u16, payload: &str) -> Result<String> {
        let now = clients::now().to_seconds();
        let expiration = (now + Seconds::from_days(30)).to_string();
        let tags: [&[&str]; 2] = [&["app", "demo"], &["expiration", &expiration]];
        let event = control_event(&self.keys, self.service, kind, now.0, &tags, payload);
        publish(&self.stack.relays[0], &event).await?;
        Ok(event.id.to_hex())
    }
}

/// Waits until all queues have been empty for a while.
pub(crate) async fn wait_until_idle(stack: &Stack) -> Result<()> {
    let config = clients::at(&stack.aws.environment(), "AWS_ENDPOINT_URL").await;
    let sqs = aws_sdk_sqs::Client::new(&config);
    let began = Instant::now();
    let mut idle_since = Instant::now();
    while idle_since.elapsed() < IDLE_TIME {
        for queue in ["control", "event", "delivery", "feedback"] {
            let request = sqs.get_queue_url().queue_name(format!("{STACK}-{queue}"));
            let url = request.send().await?.queue_url.context("no queue")?;
            let request = sqs.get_queue_attributes().queue_url(url);
            let request = request.attribute_names(QueueAttributeName::All);
            let attributes = request.send().await?.attributes.unwrap_or_default();
            let is_waiting = |(name, n): (&QueueAttributeName, &String)| {
                name.as_str().starts_with("ApproximateNumberOf") && n != "0"
            };
            if attributes.iter().any(is_waiting) {
                idle_since = Instant::now();
            }
        }
        if began.elapsed() > TIMEOUT {
            bail!("the queues of {FUNCTIONS:?} are not empty after {TIMEOUT:?}");
        }
        sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// The median of some times.
pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

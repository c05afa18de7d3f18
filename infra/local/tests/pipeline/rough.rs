//! The pipeline on a rough endpoint: it throttles, delays and repeats, and nothing is lost.

use std::time::Duration;

use nostr_push_aws::clients;
use nostr_push_local::{
    aws::STACK,
    demo::publish,
    proxy::faults::{FaultKind, FaultPlan, Faults},
    stack::Stack,
};

use crate::{ClientTests, counters, messages_in, now, phone::Phone, wait_until};

/// Rates at which many messages are retried and none is retried often.
const PLAN: FaultPlan = FaultPlan {
    seed: 15,
    dynamodb_throttled: 0.2,
    transactions_cancelled: 0.1,
    batch_reads_cut: 0.3,
    writes_per_second: Some(8.0),
    index_delay: Duration::from_secs(3),
    sqs_throttled: 0.2,
    sqs_entries_failed: 0.2,
    messages_repeated: 0.3,
    messages_delayed: 0.3,
    sns_throttled: 0.2,
};

/// The client's tests succeed, every delivery ends, and no message is given up.
pub(crate) async fn nothing_is_lost(
    stack: &Stack,
    faults: &Faults,
    client: &ClientTests,
) -> Result<(), String> {
    faults.start(PLAN);
    let result = client.run(&["pipeline.test.mjs"], true).await;
    result.map_err(|error| format!("{error} with {:?}", faults.counts()))?;
    every_claim_is_completed(stack).await?;
    faults.stop();
    faults_happened(stack, faults).await?;
    for queue in ["control", "event", "delivery", "feedback"] {
        let dead = messages_in(stack, &format!("{queue}-dead")).await;
        if dead > 0 {
            return Err(format!("{dead} dead letters of the {queue} queue"));
        }
    }
    Ok(())
}

/// While DynamoDB throttles every request, control, the matcher and feedback retry their messages.
/// Afterwards a phone that registered meanwhile is registered, a note that was published is pushed,
/// and a phone whose app was uninstalled is removed.
pub(crate) async fn outage_loses_nothing(stack: &Stack, faults: &Faults) -> Result<(), String> {
    let relay = &stack.relays[0];
    let [phone, uninstalled, late] = [Phone::new(), Phone::new(), Phone::new()];
    for phone in [&phone, &uninstalled] {
        phone.subscribe(stack).await;
        let note = phone.first_note();
        publish(relay, &note).await.unwrap();
        phone.wait_for_pushes(stack, &[note]).await?;
    }
    let before = counters(stack).await;
    let increased = async |names: &[&str]| {
        let now = counters(stack).await;
        names.iter().all(|name| now.get(*name) > before.get(*name))
    };
    faults.start(FaultPlan {
        dynamodb_throttled: 1.0,
        ..FaultPlan::default()
    });
    let note = phone.event(1, now(), "during the outage");
    publish(relay, &note).await.unwrap();
    late.subscribe(stack).await;
    stack.aws.sns.disable(&uninstalled.token).await.unwrap();
    let retried = ["control", "matcher", "feedback"].map(|s| format!("{s}.retried.throttled"));
    let retried = retried.each_ref().map(String::as_str);
    let result = wait_until("three stages retry", async || increased(&retried).await).await;
    faults.stop();
    result?;
    phone.wait_for_pushes(stack, &[note]).await?;
    let note = late.first_note();
    publish(relay, &note).await.unwrap();
    late.wait_for_pushes(stack, &[note]).await?;
    let removed = ["feedback.accepted.removed"];
    wait_until("the phone is removed", async || increased(&removed).await).await
}

/// Every delivery that was begun has been completed.
async fn every_claim_is_completed(stack: &Stack) -> Result<(), String> {
    let config = clients::at(&stack.aws.environment(), "AWS_ENDPOINT_URL").await;
    let dynamodb = aws_sdk_dynamodb::Client::new(&config);
    let mut open = 0;
    let all_completed = wait_until("all claims are completed", async || {
        let request = dynamodb.scan().table_name(format!("{STACK}-claims"));
        let request = request.filter_expression("attribute_not_exists(completed)");
        let pages = request.into_paginator().items().send();
        open = pages.collect::<Result<Vec<_>, _>>().await.unwrap().len();
        open == 0
    });
    all_completed
        .await
        .map_err(|error| format!("{error}: {open} are open"))
}

/// Each kind of fault has happened, and control and deliver have retried messages.
async fn faults_happened(stack: &Stack, faults: &Faults) -> Result<(), String> {
    let counts = faults.counts();
    println!("local: faults: {counts:?}");
    let missing: Vec<_> = FaultKind::ALL
        .into_iter()
        .filter(|kind| !counts.contains_key(kind))
        .collect();
    let counters = counters(stack).await;
    let retried = |stage: &str| -> u64 {
        let prefix = format!("{stage}.retried.");
        let counters = counters.iter();
        let retried = counters.filter(|(name, _)| name.starts_with(&prefix));
        retried.map(|(_, n)| n).sum()
    };
    // The others get few messages. The outage shows that they retry.
    let without: Vec<_> = ["control", "deliver"]
        .into_iter()
        .filter(|stage| retried(stage) == 0)
        .collect();
    if missing.is_empty() && without.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "faults that did not happen: {missing:?}; stages without retries: {without:?}"
        ))
    }
}

//! Queues, and the functions that they invoke.

use std::time::Duration;

use nostr_push_core::{
    QUEUE_RETENTION, Seconds, device::REMOVING_LEASE, ports::backoff, profile::RETRY_AFTER,
};
use serde_json::Value;

use super::transformed::{Template, target};

#[tokio::test]
async fn queue_settings_match_functions() {
    let template = Template::main().await;
    let mut functions = 0;
    let mappings = template.of_type("AWS::Lambda::EventSourceMapping");
    for (name, mapping) in mappings.filter(|(_, mapping)| !is_stream(mapping)) {
        functions += 1;
        let function = template.properties(target(&mapping["FunctionName"]));
        let queue = template.properties(target(&mapping["EventSourceArn"]));
        let response_type = &mapping["FunctionResponseTypes"][0];
        assert_eq!(response_type, "ReportBatchItemFailures", "{name}");
        let batch_size = mapping["BatchSize"].as_u64().unwrap();
        assert!(
            batch_size <= 10,
            "{name}: a larger batch needs a batching window"
        );
        let timeout = function["Timeout"].as_u64().unwrap();
        assert!(timeout <= 900);
        // https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html
        assert!(
            queue["VisibilityTimeout"].as_u64().unwrap() >= 6 * timeout,
            "{name}: AWS advises at least six times the function's timeout"
        );
        let redrive = &queue["RedrivePolicy"];
        let dead_letters = template.properties(target(&redrive["deadLetterTargetArn"]));
        let retention = |queue: &Value| queue["MessageRetentionPeriod"].as_u64();
        assert!(
            retention(dead_letters) > retention(queue),
            "{name}: a message keeps its age when it becomes a dead letter"
        );
        let max_message = &queue["MaximumMessageSize"];
        assert_eq!(
            *max_message,
            1024 * 1024,
            "{name}: the largest event and its envelope must fit"
        );
        assert_eq!(function["Runtime"], "provided.al2023");
        let logs = template.properties(target(&function["LoggingConfig"]["LogGroup"]));
        assert_eq!(logs["RetentionInDays"]["Ref"], "LogRetentionDays");
    }
    assert_eq!(functions, 4);
}

fn is_stream(mapping: &Value) -> bool {
    mapping["EventSourceArn"]["Fn::GetAtt"][1] == "StreamArn"
}

#[tokio::test]
async fn lease_of_a_claim_exceeds_the_timeout() {
    let template = Template::main().await;
    let deliver = template.properties("DeliverFunction");
    let lease = &deliver["Environment"]["Variables"]["CLAIM_LEASE_SECONDS"];
    let lease: u64 = lease.as_str().unwrap().parse().unwrap();
    assert!(lease > deliver["Timeout"].as_u64().unwrap());
}

/// How long a message that never succeeds is tried, without jitter and with all of it.
fn time_of_tries(receives: u32) -> (Duration, Duration) {
    let wait = |jitter| (1..=receives).map(move |n| backoff(n, jitter)).sum();
    (wait(1.0), wait(0.0))
}

/// A dependency that throttles, and Lambda itself, may need an hour to recover. When Lambda
/// throttles an invocation, its messages have been received, and are hidden for the visibility
/// timeout (<https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html>).
#[tokio::test]
async fn messages_outlast_an_hour_of_throttling() {
    const MINUTE: Duration = Duration::from_mins(1);
    let template = Template::main().await;
    let mut queues = 0;
    for (name, queue) in template.of_type("AWS::SQS::Queue") {
        let Some(receives) = queue["RedrivePolicy"]["maxReceiveCount"].as_u64() else {
            continue;
        };
        queues += 1;
        let receives = u32::try_from(receives).unwrap();
        let (shortest, longest) = time_of_tries(receives);
        assert!(shortest >= 60 * MINUTE, "{name}: only {shortest:?}");
        let hidden = Duration::from_secs(queue["VisibilityTimeout"].as_u64().unwrap());
        assert!(receives * hidden >= 90 * MINUTE, "{name}: {hidden:?} each");
        // The longest wait that a handler asks for is five minutes, as the longest backoff.
        let longest = longest.max(receives * Duration::from_mins(5));
        assert!(longest <= 150 * MINUTE, "{name}: {longest:?}, see the docs");
        assert!(longest > REMOVING_LEASE.to_duration(), "{name}");
        let retention = Duration::from_secs(queue["MessageRetentionPeriod"].as_u64().unwrap());
        assert!(retention > 10 * longest, "{name}: tries fill the retention");
    }
    assert_eq!(queues, 4);
}

#[tokio::test]
async fn queues_keep_events_as_long_as_claims_assume() {
    let template = Template::main().await;
    for queue in ["EventQueue", "DeliveryQueue"] {
        let retention = &template.properties(queue)["MessageRetentionPeriod"];
        assert_eq!(retention.as_u64().map(Seconds), Some(QUEUE_RETENTION));
    }
}

/// A request that no relay answers is received twice. The first attempt, which asks all relays at
/// the same time for 10 s, ends before the second begins. Both end before deliver may request the
/// profile again.
#[tokio::test]
async fn requests_for_profiles_end_before_they_are_made_again() {
    let template = Template::main().await;
    let queue = template.properties("ProfileQueue");
    let seconds = |name: &str| Seconds(queue[name].as_u64().unwrap());
    let (retention, hidden) = (
        seconds("MessageRetentionPeriod"),
        seconds("VisibilityTimeout"),
    );
    assert!(retention <= RETRY_AFTER, "{retention}");
    assert!(hidden >= Seconds(2 * 10), "{hidden}");
    assert!(retention.0 >= 2 * hidden.0, "{retention} and {hidden}");
    assert!(queue.get("RedrivePolicy").is_none());
}

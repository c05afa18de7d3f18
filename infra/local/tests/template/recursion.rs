//! Lambda stops a function after about 16 invocations in one chain of requests, and sends the
//! message to the dead-letter queue, unless the function has `RecursiveLoop: Allow`
//! (<https://docs.aws.amazon.com/lambda/latest/dg/invocation-recursion.html>).
//!
//! AWS's page does not list the SDK for Rust. The SDK takes part nevertheless: `lambda_runtime`
//! sets `_X_AMZN_TRACE_ID` for each invocation, and the interceptor
//! `aws_runtime::recursion_detection`, which every client of the SDK has, copies it into the header
//! of each request. SQS keeps the header with the message.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::transformed::{Template, target};

/// Functions, each with the functions that receive the messages that it may send.
type Calls = BTreeMap<String, BTreeSet<String>>;

/// The graph of calls through queues: a function may send to a queue by its role, and the queue is
/// the event source of another function.
fn calls(template: &Template) -> Calls {
    let mut receivers: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (_, mapping) in template.of_type("AWS::Lambda::EventSourceMapping") {
        let function = target(&mapping["FunctionName"]).to_owned();
        let source = target(&mapping["EventSourceArn"]);
        receivers.entry(source).or_default().insert(function);
    }
    let functions = template.of_type("AWS::Lambda::Function");
    functions
        .map(|(name, function)| {
            let role = template.properties(target(&function["Role"]));
            let queues = queues_sent_to(role);
            let called = queues
                .iter()
                .filter_map(|queue| receivers.get(queue.as_str()));
            (name.to_owned(), called.flatten().cloned().collect())
        })
        .collect()
}

/// The queues to which a role allows to send.
fn queues_sent_to(role: &Value) -> BTreeSet<String> {
    let policies = role["Policies"].as_array().unwrap().iter();
    let statements = policies.flat_map(|p| p["PolicyDocument"]["Statement"].as_array().unwrap());
    let sends = statements.filter(|s| s["Action"].to_string().contains("\"sqs:SendMessage\""));
    sends
        .flat_map(|statement| match &statement["Resource"] {
            Value::Array(resources) => resources.clone(),
            resource => vec![resource.clone()],
        })
        .map(|resource| target(&resource).to_owned())
        .collect()
}

/// Returns `true` if the function can cause its own invocation.
fn is_in_a_cycle(calls: &Calls, function: &str) -> bool {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&String> = calls[function].iter().collect();
    while let Some(called) = next.pop() {
        if reached.insert(called.as_str()) {
            next.extend(&calls[called]);
        }
    }
    reached.contains(function)
}

#[tokio::test]
async fn functions_in_a_cycle_of_queues_allow_recursion() {
    let template = Template::main().await;
    let calls = calls(&template);
    let mut in_a_cycle = BTreeSet::new();
    for function in calls.keys() {
        let recursion = &template.properties(function)["RecursiveLoop"];
        if is_in_a_cycle(&calls, function) {
            in_a_cycle.insert(function.as_str());
            assert_eq!(recursion, "Allow", "{function} would be stopped by Lambda");
        } else {
            assert!(
                recursion.is_null(),
                "{function} is in no cycle, so Lambda should stop its loops"
            );
        }
    }
    // matcher sends the rest of a fan-out to itself, deliver sends what waits to itself, and
    // feedback sends the records of the stream to itself.
    assert_eq!(
        in_a_cycle,
        BTreeSet::from(["DeliverFunction", "FeedbackFunction", "MatcherFunction"])
    );
}

#[test]
fn cycles_of_several_functions_are_found() {
    let calls: Calls = [("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")]
        .into_iter()
        .map(|(from, to)| (from.to_owned(), BTreeSet::from([to.to_owned()])))
        .collect();
    let found: Vec<bool> = ["a", "b", "c", "d"]
        .into_iter()
        .map(|function| is_in_a_cycle(&calls, function))
        .collect();
    assert_eq!(found, [true, true, true, false]);
}

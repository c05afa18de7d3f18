//! Every metric that an alarm or a widget of the dashboard names exists: the code emits it, or AWS
//! documents it for a resource of the template.

use std::collections::{BTreeMap, BTreeSet};

use nostr_push_aws::telemetry;
use nostr_push_local::root;
use serde_json::{Value, json};

use super::{
    emitted::counters,
    search::Search,
    transformed::{Template, sub},
};

/// The name of the stack for these tests. It has a hyphen, as the default of `samconfig.toml`.
const STACK: &str = "nostr-push";

/// The metrics of SQS that the stack may use, all with the dimension `QueueName`
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-available-cloudwatch-metrics.html>).
const SQS: [&str; 9] = [
    "ApproximateAgeOfOldestMessage",
    "ApproximateNumberOfMessagesDelayed",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesVisible",
    "NumberOfEmptyReceives",
    "NumberOfMessagesDeleted",
    "NumberOfMessagesReceived",
    "NumberOfMessagesSent",
    "SentMessageSize",
];

/// The metrics of Lambda that the stack may use, all with the dimension `FunctionName`
/// (<https://docs.aws.amazon.com/lambda/latest/dg/monitoring-metrics-types.html>).
const LAMBDA: [&str; 7] = [
    "ConcurrentExecutions",
    "Duration",
    "Errors",
    "Invocations",
    "IteratorAge",
    "RecursiveInvocationsDropped",
    "Throttles",
];

/// The methods of `Telemetry` apart from `count`, each with its metrics.
const METHODS: [(&str, &[&str]); 4] = [
    ("telemetry.latency(", &[telemetry::LATENCY]),
    ("telemetry.push(", &[telemetry::PUSH_FAILURES]),
    ("telemetry.relays(", &telemetry::RELAYS),
    ("telemetry.usage(", &telemetry::USAGE),
];

/// One metric: its namespace, its name, and its dimensions with their values.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Metric {
    namespace: String,
    name: String,
    dimensions: BTreeMap<String, String>,
}

/// A string, or the text of a `Ref` or `Fn::Sub` with the name of the stack in it.
fn text(value: &Value) -> String {
    let text = value.as_str().or_else(|| value["Fn::Sub"].as_str());
    match (text, value["Ref"].as_str()) {
        (Some(text), _) => text
            .replace("${Name}", STACK)
            .replace("${AWS::StackName}", STACK),
        (None, Some("Name" | "AWS::StackName")) => STACK.to_owned(),
        _ => panic!("not a name: {value}"),
    }
}

fn pairs<'a>(values: impl IntoIterator<Item = (&'a str, String)>) -> BTreeMap<String, String> {
    let values = values.into_iter();
    values
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// All metrics that the code emits, or that AWS documents for the queues and functions.
async fn existing() -> BTreeSet<Metric> {
    let mut all = BTreeSet::new();
    let mut add = |namespace: &str, name: &str, dimensions| {
        all.insert(Metric {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            dimensions,
        });
    };
    for (stage, reasons) in counters() {
        for (outcome, reason) in reasons {
            let values = [
                (telemetry::STAGE, stage.to_owned()),
                (telemetry::OUTCOME, outcome.to_owned()),
                (telemetry::REASON, reason.to_owned()),
            ];
            add(STACK, telemetry::EVENTS, pairs(values));
        }
        let source = source_of(stage);
        for (method, names) in METHODS {
            for name in names.iter().filter(|_| source.contains(method)) {
                add(STACK, name, pairs([(telemetry::STAGE, stage.to_owned())]));
            }
        }
    }
    let template = Template::main().await;
    for (kind, namespace, names, dimension) in [
        ("AWS::SQS::Queue", "AWS/SQS", &SQS[..], "QueueName"),
        (
            "AWS::Lambda::Function",
            "AWS/Lambda",
            &LAMBDA[..],
            "FunctionName",
        ),
    ] {
        for (_, resource) in template.of_type(kind) {
            for name in names {
                add(
                    namespace,
                    name,
                    pairs([(dimension, text(&resource[dimension]))]),
                );
            }
        }
    }
    all
}

/// The files of a stage, in one text.
fn source_of(stage: &str) -> String {
    let folder = root().join("functions").join(stage).join("src");
    ["main.rs", "report.rs"]
        .iter()
        .filter_map(|file| std::fs::read_to_string(folder.join(file)).ok())
        .collect()
}

#[tokio::test]
async fn every_alarm_is_on_an_existing_metric() {
    let existing = existing().await;
    let observability = Template::load("infra/observability.yaml").await;
    let mut alarms = 0;
    for (name, alarm) in observability.of_type("AWS::CloudWatch::Alarm") {
        alarms += 1;
        let dimensions = alarm["Dimensions"].as_array().unwrap().iter();
        let dimensions = dimensions.map(|d| (d["Name"].as_str().unwrap(), text(&d["Value"])));
        let metric = Metric {
            namespace: text(&alarm["Namespace"]),
            name: text(&alarm["MetricName"]),
            dimensions: pairs(dimensions),
        };
        assert!(
            existing.contains(&metric),
            "{name}: nothing emits {metric:?}"
        );
        // The code's metrics have no unit. An alarm with another unit would get no data.
        assert!(alarm.get("Unit").is_none(), "{name}");
        let missing = &alarm["TreatMissingData"];
        let expected = if name == "ListenerNotReady" {
            "breaching"
        } else {
            "notBreaching"
        };
        assert_eq!(
            missing, expected,
            "{name}: a counter exists once it has counted"
        );
    }
    assert!(alarms > 20);
}

/// The widgets of the dashboard, with the parameters in their places.
async fn widgets() -> Vec<Value> {
    let observability = Template::load("infra/observability.yaml").await;
    let mut body = sub(&observability.properties("Dashboard")["DashboardBody"]).to_owned();
    for (parameter, value) in [
        ("Name", STACK),
        ("AWS::Region", "us-east-1"),
        ("MaxOwners", "1"),
        ("MaxIndexKeys", "2"),
        ("MaxIndexRows", "3"),
    ] {
        body = body.replace(&format!("${{{parameter}}}"), value);
    }
    assert!(!body.contains("${"), "an unknown parameter");
    let body: Value = serde_json::from_str(&body).unwrap();
    body["widgets"].as_array().unwrap().clone()
}

/// The metric of a line in a widget. A dot repeats what the line before has in its place
/// (<https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/CloudWatch-Dashboard-Body-Structure.html>).
fn metric_of(line: &[String]) -> Metric {
    let dimensions = line[2..].chunks(2);
    Metric {
        namespace: line[0].clone(),
        name: line[1].clone(),
        dimensions: pairs(dimensions.map(|pair| (pair[0].as_str(), pair[1].clone()))),
    }
}

#[tokio::test]
async fn every_widget_shows_existing_metrics() {
    let existing = existing().await;
    let mut searched = BTreeSet::new();
    for widget in widgets().await {
        let (title, mut before) = (&widget["properties"]["title"], Vec::new());
        for line in widget["properties"]["metrics"].as_array().unwrap() {
            // An expression is an array as well, with one object.
            let line = line
                .as_array()
                .unwrap_or_else(|| panic!("{title}: not an array: {line}"));
            if let Some(expression) = line[0]["expression"].as_str() {
                searched.insert(check_search(&existing, expression));
                continue;
            }
            let texts = line.iter().filter_map(Value::as_str).enumerate();
            let line: Vec<String> = texts
                .map(|(n, text)| match text {
                    "." => before.get(n).cloned().unwrap_or_default(),
                    text => text.to_owned(),
                })
                .collect();
            let metric = metric_of(&line);
            assert!(
                existing.contains(&metric),
                "{title}: nothing emits {metric:?}"
            );
            before = line;
        }
    }
    assert_eq!(
        searched,
        counters().into_keys().map(str::to_owned).collect()
    );
}

/// Checks that a search finds all counters of one stage. Returns the stage.
fn check_search(existing: &BTreeSet<Metric>, expression: &str) -> String {
    // https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/search-expression-syntax.html
    assert!(expression.len() <= 1_024);
    let search = Search::parse(expression).unwrap_or_else(|e| panic!("{e}: {expression}"));
    let finds = |metric: &&Metric| {
        let value = |name: &str| match name {
            "MetricName" => Some(&metric.name),
            name => metric.dimensions.get(name),
        };
        metric.namespace == search.namespace
            && metric.dimensions.keys().collect::<BTreeSet<_>>()
                == search.dimensions.iter().collect()
            && search
                .terms
                .iter()
                .all(|(name, text)| value(name) == Some(text))
    };
    let found: Vec<&Metric> = existing.iter().filter(finds).collect();
    let stage = found
        .first()
        .map(|metric| metric.dimensions[telemetry::STAGE].clone());
    let stage = stage.unwrap_or_else(|| panic!("finds nothing: {expression}"));
    assert_eq!(
        found.len(),
        counters()[stage.as_str()].len(),
        "{expression}"
    );
    assert!(found.len() <= 500, "a search shows at most 500 metrics");
    assert_eq!(search.statistic, "Sum");
    stage
}

/// Alarms and dashboard use the name of the stack as the namespace, whatever the tables are named.
#[tokio::test]
async fn namespace_of_all_metrics_is_the_name_of_the_stack() {
    let template = Template::main().await;
    for (name, function) in template.of_type("AWS::Lambda::Function") {
        let namespace = &function["Environment"]["Variables"]["METRIC_NAMESPACE"];
        assert_eq!(*namespace, json!({"Ref": "AWS::StackName"}), "{name}");
    }
    for nested in ["Listener", "Observability"] {
        let name = &template.properties(nested)["Parameters"]["Name"];
        assert_eq!(*name, json!({"Ref": "AWS::StackName"}), "{nested}");
    }
    let listener = Template::load("infra/listener.yaml").await;
    let container = &listener.properties("Task")["ContainerDefinitions"][0];
    let mut variables = container["Environment"].as_array().unwrap().iter();
    let expected = json!({"Name": "METRIC_NAMESPACE", "Value": {"Ref": "Name"}});
    assert!(variables.any(|variable| *variable == expected));
}

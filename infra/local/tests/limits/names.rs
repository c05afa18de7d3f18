//! Names at the longest name of the stack, and the limits of CloudFormation and Lambda.

use nostr_push_core::app::MAX_APP_ID_BYTES;
use nostr_push_local::root;
use serde_json::Value;

use super::transformed::Template;

/// The longest name of a stack. `infra/deploy` refuses longer ones, because a rule of a template
/// cannot count characters. It must have no uppercase letters, which ECR refuses.
const MAX_STACK_NAME: usize = 55;

const TEMPLATES: [&str; 4] = [
    "template.yaml",
    "infra/network.yaml",
    "infra/listener.yaml",
    "infra/observability.yaml",
];

/// The types of resources that have names: the property, and the most characters, by the page of
/// the type in AWS's CloudFormation reference or the API that it calls.
const LIMITS: [(&str, &str, usize); 11] = [
    ("AWS::SQS::Queue", "QueueName", 80),
    ("AWS::Lambda::Function", "FunctionName", 64),
    ("AWS::DynamoDB::Table", "TableName", 255),
    ("AWS::SNS::Topic", "TopicName", 256),
    ("AWS::Logs::LogGroup", "LogGroupName", 512),
    ("AWS::ECR::Repository", "RepositoryName", 256),
    ("AWS::ECS::Cluster", "ClusterName", 255),
    ("AWS::SecretsManager::Secret", "Name", 512),
    ("AWS::CloudWatch::Dashboard", "DashboardName", 255),
    ("AWS::CloudWatch::Alarm", "AlarmName", 255),
    ("AWS::IAM::Role", "RoleName", 64),
];

/// The length of a name, with a name of the stack of this length. The prefix of the tables is the
/// name of the stack, unless the operator sets another.
fn length(value: &Value, stack: usize) -> usize {
    let value = match &value["Fn::If"][2] {
        Value::Null => value,
        otherwise => otherwise,
    };
    let sub = &value["Fn::Sub"];
    let text = sub.as_str().or(sub[0].as_str()).map(str::to_owned);
    let text = text.or_else(|| value["Ref"].as_str().map(|name| format!("${{{name}}}")));
    let text = text.unwrap_or_else(|| panic!("not a name: {value}"));
    let stack = "s".repeat(stack);
    let text = [
        "${AWS::StackName}",
        "${Name}",
        "${TablePrefix}",
        "${Prefix}",
    ]
    .iter()
    .fold(text, |text, part| text.replace(part, &stack));
    assert!(!text.contains('$'), "{text}");
    text.len()
}

#[tokio::test]
async fn names_fit_at_the_longest_name_of_the_stack() {
    let mut functions = 0;
    for file in TEMPLATES {
        let template = Template::load(file).await;
        for (kind, property, limit) in LIMITS {
            for (resource, properties) in template.of_type(kind) {
                check_name(&properties[property], kind, limit, resource);
            }
        }
        functions += template.of_type("AWS::Lambda::Function").count();
    }
    assert_eq!(functions, 4);
    let feedback = Template::main().await;
    let feedback = &feedback.properties("FeedbackFunction")["FunctionName"];
    assert_eq!(
        length(feedback, MAX_STACK_NAME),
        64,
        "a longer name would fit"
    );
    // A platform application is named `{stack}.{app}`.
    // https://docs.aws.amazon.com/sns/latest/api/API_CreatePlatformApplication.html
    const { assert!(MAX_STACK_NAME + 1 + MAX_APP_ID_BYTES <= 256) };
}

fn check_name(name: &Value, kind: &str, limit: usize, resource: &str) {
    if name.is_null() {
        // CloudFormation makes names of roles that fit.
        assert_eq!(kind, "AWS::IAM::Role", "{resource} has no name");
    } else {
        assert!(length(name, MAX_STACK_NAME) <= limit, "{resource}: {name}");
    }
}

/// <https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html>
#[tokio::test]
async fn templates_are_within_the_limits_of_cloudformation() {
    for file in TEMPLATES {
        let template = Template::load(file).await;
        let bytes = std::fs::metadata(root().join(file)).unwrap().len();
        // `sam deploy` sends templates through S3, so 1 MB counts and not 51,200 bytes. It adds
        // some lines, and the transform more: SAM counts the template before it.
        assert!(bytes < 500_000, "{file}: {bytes}");
        assert!(template.0.to_string().len() < 1_000_000, "{file}");
        let count = |section: &str| {
            template.0[section]
                .as_object()
                .map_or(0, serde_json::Map::len)
        };
        assert!(count("Resources") <= 500, "{file}");
        assert!(
            count("Parameters") <= 200 && count("Outputs") <= 200,
            "{file}"
        );
        let description = template.0["Description"].as_str().unwrap_or_default();
        assert!(description.len() <= 1_024, "{file}");
        for (name, parameter) in template.0["Parameters"].as_object().into_iter().flatten() {
            let text = parameter["Description"].as_str().unwrap_or_default();
            assert!(text.len() <= 4_000 && name.len() <= 255, "{file}: {name}");
        }
    }
}

/// All variables of a function together have at most 4 KiB
/// (<https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>). A parameter of text
/// can have 4,096 characters, so the functions get none but short ones.
#[tokio::test]
async fn environments_of_functions_fit() {
    /// The longest value that a function gets: the ARN of the secret or the URL of a queue.
    const MAX_VALUE: usize = 200;
    let template = Template::main().await;
    for (function, properties) in template.of_type("AWS::Lambda::Function") {
        let variables = properties["Environment"]["Variables"].as_object().unwrap();
        let bytes: usize = variables
            .iter()
            .map(|(name, value)| name.len() + value.as_str().map_or(MAX_VALUE, str::len))
            .sum();
        assert!(bytes <= 4_096, "{function}: {bytes}");
        assert!(
            !variables.contains_key("RELAYS"),
            "{function}: it has no bound"
        );
    }
}

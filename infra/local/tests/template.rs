//! What `sam validate`, cfn-lint and AWS itself would only say at deployment, or never.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says so when something is wrong")]

use std::process::Stdio;

use nostr_push_local::{
    aws::{REGION, transformed_template},
    process::run,
    root,
    tools::Tools,
};
use serde_json::Value;

struct Template(Value);

impl Template {
    async fn load() -> Self {
        Self(transformed_template(&Tools::install().await.unwrap()).await.unwrap())
    }

    fn of_type<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let resources = self.0["Resources"].as_object().unwrap().iter();
        resources.filter(move |(_, resource)| resource["Type"] == kind).map(|(name, resource)| (name.as_str(), &resource["Properties"]))
    }

    fn properties(&self, name: &str) -> &Value {
        &self.0["Resources"][name]["Properties"]
    }
}

/// The logical id that a `Ref` or `Fn::GetAtt` names.
fn target(value: &Value) -> &str {
    value["Fn::GetAtt"][0].as_str().or_else(|| value["Ref"].as_str()).unwrap_or_else(|| panic!("no reference: {value}"))
}

#[tokio::test]
async fn the_linters_are_content() {
    let tools = Tools::install().await.unwrap();
    let mut validate = tools.sam("sam");
    run(
        validate.current_dir(root()).args(["validate", "--lint"]).env("AWS_DEFAULT_REGION", REGION).stdout(Stdio::null()),
        "sam validate --lint",
    )
    .await
    .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("template.json");
    std::fs::write(&file, Template::load().await.0.to_string()).unwrap();
    let mut lint = tools.sam("cfn-lint");
    run(lint.arg("--region").arg(REGION).arg("--").arg(&file), "cfn-lint on the transformed template").await.unwrap();
}

#[tokio::test]
async fn every_function_has_a_queue_it_can_fail_into() {
    let template = Template::load().await;
    let mut functions = 0;
    let mappings = template.of_type("AWS::Lambda::EventSourceMapping");
    for (name, mapping) in mappings.filter(|(_, mapping)| !is_stream(mapping)) {
        functions += 1;
        let function = template.properties(target(&mapping["FunctionName"]));
        let queue = template.properties(target(&mapping["EventSourceArn"]));
        assert_eq!(mapping["FunctionResponseTypes"][0], "ReportBatchItemFailures", "{name}");
        assert!(mapping["BatchSize"].as_u64().unwrap() <= 10, "{name}: above 10 AWS wants a batching window");
        assert!(mapping["ScalingConfig"]["MaximumConcurrency"].as_u64().unwrap() >= 2, "{name}: AWS refuses less");
        let timeout = function["Timeout"].as_u64().unwrap();
        assert!(timeout <= 900);
        assert!(queue["VisibilityTimeout"].as_u64().unwrap() >= 6 * timeout, "{name}: AWS advises six times the function's timeout");
        assert!(queue["RedrivePolicy"]["maxReceiveCount"].as_u64().unwrap() >= 5);
        let dead = template.properties(target(&queue["RedrivePolicy"]["deadLetterTargetArn"]));
        assert!(dead["MessageRetentionPeriod"].as_u64() > queue["MessageRetentionPeriod"].as_u64(), "{name}: a dead letter keeps its age");
        assert_eq!(queue["MaximumMessageSize"], 1024 * 1024, "{name}: the largest event and its envelope must fit");
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
async fn a_claim_outlives_the_function_and_the_message() {
    let template = Template::load().await;
    let deliver = template.properties("DeliverFunction");
    let lease: u64 = deliver["Environment"]["Variables"]["CLAIM_LEASE_SECONDS"].as_str().unwrap().parse().unwrap();
    assert!(lease > deliver["Timeout"].as_u64().unwrap());
    for queue in ["EventQueue", "DeliveryQueue"] {
        assert!(template.properties(queue)["MessageRetentionPeriod"].as_u64().unwrap() < 4 * 24 * 60 * 60);
    }
}

#[tokio::test]
async fn every_table_and_queue_is_encrypted_and_every_table_kept_and_recoverable() {
    let template = Template::load().await;
    let mut tables = 0;
    for (name, table) in template.of_type("AWS::DynamoDB::Table") {
        tables += 1;
        assert_eq!(table["BillingMode"], "PAY_PER_REQUEST", "{name}");
        assert_eq!(table["TimeToLiveSpecification"]["AttributeName"], "expires_at", "{name}");
        assert_eq!(table["TimeToLiveSpecification"]["Enabled"], true, "{name}");
        assert_eq!(table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"], true, "{name}");
        assert_eq!(table["SSESpecification"]["SSEEnabled"], true, "{name}");
        assert_eq!(template.0["Resources"][name]["DeletionPolicy"], "Retain", "{name}");
    }
    assert_eq!(tables, 10);
    assert!(template.of_type("AWS::SQS::Queue").all(|(_, queue)| queue["SqsManagedSseEnabled"] == true));
}

#[tokio::test]
async fn every_policy_names_what_it_allows() {
    let template = Template::load().await;
    for (name, role) in template.of_type("AWS::IAM::Role") {
        for policy in role["Policies"].as_array().unwrap() {
            for statement in policy["PolicyDocument"]["Statement"].as_array().unwrap() {
                let actions = statement["Action"].as_array().cloned().unwrap_or_else(|| vec![statement["Action"].clone()]);
                assert!(actions.iter().all(|action| !action.as_str().unwrap().contains('*')), "{name}: {statement}");
                let resource = statement["Resource"].to_string();
                // SNS makes the ARNs of applications and endpoints; the template cannot know them.
                let known = resource.contains("Ref")
                    || resource.contains("GetAtt")
                    || resource.contains(".Arn}/index/")
                    || resource.contains(":sns:${AWS::Region}:${AWS::AccountId}:");
                assert!(known, "{name}: {statement}");
            }
        }
        // What SAM adds: writing logs, and receiving from the queue.
        let managed = role["ManagedPolicyArns"].to_string();
        assert!(managed.contains("AWSLambdaBasicExecutionRole") && managed.contains("AWSLambdaSQSQueueExecutionRole"), "{name}: {managed}");
    }
}

#[tokio::test]
async fn no_secret_stands_in_the_template() {
    let template = Template::load().await;
    let secret = template.properties("ServiceKey");
    assert!(secret.get("SecretString").is_none());
    assert_eq!(secret["GenerateSecretString"]["PasswordLength"], 64);
    let excluded = secret["GenerateSecretString"]["ExcludeCharacters"].as_str().unwrap();
    let left: String = (0x21..0x7f_u8).map(char::from).filter(|c| !excluded.contains(*c)).collect();
    assert_eq!(left, "0123456789abcdef");
    for (name, function) in template.of_type("AWS::Lambda::Function") {
        for (variable, value) in function["Environment"]["Variables"].as_object().unwrap() {
            assert!(!variable.contains("KEY") || value["Ref"] == "ServiceKey", "{name}: {variable}");
        }
    }
}

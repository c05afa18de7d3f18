//! What `sam validate`, cfn-lint and AWS itself would only say at deployment, or never.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so when something is wrong"
)]

use std::process::Stdio;

use nostr_push_local::{
    aws::{REGION, transformed_template},
    process::run,
    root,
    tools::Tools,
};
use serde_json::Value;

/// The templates that `template.yaml` nests.
const NESTED: [&str; 3] = [
    "infra/network.yaml",
    "infra/listener.yaml",
    "infra/observability.yaml",
];

struct Template(Value);

impl Template {
    async fn load() -> Self {
        Self::file("template.yaml").await
    }

    async fn file(name: &str) -> Self {
        Self(
            transformed_template(&Tools::install().await.unwrap(), name)
                .await
                .unwrap(),
        )
    }

    fn of_type<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let resources = self.0["Resources"].as_object().unwrap().iter();
        resources
            .filter(move |(_, resource)| resource["Type"] == kind)
            .map(|(name, resource)| (name.as_str(), &resource["Properties"]))
    }

    fn properties(&self, name: &str) -> &Value {
        &self.0["Resources"][name]["Properties"]
    }
}

/// The logical id that a `Ref` or `Fn::GetAtt` names.
fn target(value: &Value) -> &str {
    value["Fn::GetAtt"][0]
        .as_str()
        .or_else(|| value["Ref"].as_str())
        .unwrap_or_else(|| panic!("no reference: {value}"))
}

#[tokio::test]
async fn the_linters_are_content() {
    let tools = Tools::install().await.unwrap();
    let mut validate = tools.sam("sam");
    run(
        validate
            .current_dir(root())
            .args(["validate", "--lint"])
            .env("AWS_DEFAULT_REGION", REGION)
            .stdout(Stdio::null()),
        "sam validate --lint",
    )
    .await
    .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("template.json");
    std::fs::write(&file, Template::load().await.0.to_string()).unwrap();
    let mut lint = tools.sam("cfn-lint");
    run(
        lint.arg("--region").arg(REGION).arg("--").arg(&file),
        "cfn-lint on the transformed template",
    )
    .await
    .unwrap();
    let mut lint = tools.sam("cfn-lint");
    let nested = NESTED.map(|name| root().join(name));
    run(
        lint.arg("--region").arg(REGION).arg("--").args(nested),
        "cfn-lint on the nested templates",
    )
    .await
    .unwrap();
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
        assert_eq!(
            mapping["FunctionResponseTypes"][0], "ReportBatchItemFailures",
            "{name}"
        );
        assert!(
            mapping["BatchSize"].as_u64().unwrap() <= 10,
            "{name}: above 10 AWS wants a batching window"
        );
        assert!(
            mapping["ScalingConfig"]["MaximumConcurrency"]
                .as_u64()
                .unwrap()
                >= 2,
            "{name}: AWS refuses less"
        );
        let timeout = function["Timeout"].as_u64().unwrap();
        assert!(timeout <= 900);
        assert!(
            queue["VisibilityTimeout"].as_u64().unwrap() >= 6 * timeout,
            "{name}: AWS advises six times the function's timeout"
        );
        assert!(queue["RedrivePolicy"]["maxReceiveCount"].as_u64().unwrap() >= 5);
        let dead = template.properties(target(&queue["RedrivePolicy"]["deadLetterTargetArn"]));
        assert!(
            dead["MessageRetentionPeriod"].as_u64() > queue["MessageRetentionPeriod"].as_u64(),
            "{name}: a dead letter keeps its age"
        );
        assert_eq!(
            queue["MaximumMessageSize"],
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
async fn a_claim_outlives_the_function_and_the_message() {
    let template = Template::load().await;
    let deliver = template.properties("DeliverFunction");
    let lease: u64 = deliver["Environment"]["Variables"]["CLAIM_LEASE_SECONDS"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(lease > deliver["Timeout"].as_u64().unwrap());
    for queue in ["EventQueue", "DeliveryQueue"] {
        assert!(
            template.properties(queue)["MessageRetentionPeriod"]
                .as_u64()
                .unwrap()
                < 4 * 24 * 60 * 60
        );
    }
}

#[tokio::test]
async fn every_table_and_queue_is_encrypted_and_every_table_kept_and_recoverable() {
    let template = Template::load().await;
    let mut tables = 0;
    for (name, table) in template.of_type("AWS::DynamoDB::Table") {
        tables += 1;
        assert_eq!(table["BillingMode"], "PAY_PER_REQUEST", "{name}");
        assert_eq!(
            table["TimeToLiveSpecification"]["AttributeName"], "expires_at",
            "{name}"
        );
        assert_eq!(table["TimeToLiveSpecification"]["Enabled"], true, "{name}");
        assert_eq!(
            table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"], true,
            "{name}"
        );
        assert_eq!(table["SSESpecification"]["SSEEnabled"], true, "{name}");
        assert_eq!(
            template.0["Resources"][name]["DeletionPolicy"], "Retain",
            "{name}"
        );
    }
    assert_eq!(tables, 10);
    assert!(
        template
            .of_type("AWS::SQS::Queue")
            .all(|(_, queue)| queue["SqsManagedSseEnabled"] == true)
    );
}

#[tokio::test]
async fn every_policy_names_what_it_allows() {
    for file in std::iter::once("template.yaml").chain(NESTED) {
        let template = Template::file(file).await;
        for (name, role) in template.of_type("AWS::IAM::Role") {
            for policy in role["Policies"].as_array().unwrap() {
                for statement in policy["PolicyDocument"]["Statement"].as_array().unwrap() {
                    let actions = statement["Action"]
                        .as_array()
                        .cloned()
                        .unwrap_or_else(|| vec![statement["Action"].clone()]);
                    assert!(
                        actions
                            .iter()
                            .all(|action| !action.as_str().unwrap().contains('*')),
                        "{name}: {statement}"
                    );
                    let resource = statement["Resource"].to_string();
                    // AWS offers nothing narrower: signing in to ECR is not for one repository.
                    let nothing_narrower =
                        resource == r#""*""# && actions == ["ecr:GetAuthorizationToken"];
                    // SNS makes the ARNs of applications and endpoints; the template cannot know
                    // them.
                    let known = [
                        "Ref",
                        "GetAtt",
                        "Arn}/index/",
                        ":sns:${AWS::Region}:${AWS::AccountId}:",
                        ":repository/${",
                        ":log-group:${",
                    ];
                    assert!(
                        nothing_narrower || known.iter().any(|known| resource.contains(known)),
                        "{name}: {statement}"
                    );
                }
            }
            if file == "template.yaml" {
                // What SAM adds: writing logs, and receiving from the queue.
                let managed = role["ManagedPolicyArns"].to_string();
                let wanted = [
                    "AWSLambdaBasicExecutionRole",
                    "AWSLambdaSQSQueueExecutionRole",
                ];
                assert!(
                    wanted.iter().all(|policy| managed.contains(policy)),
                    "{name}: {managed}"
                );
            } else {
                assert!(role["ManagedPolicyArns"].is_null(), "{name}");
            }
        }
    }
}

#[tokio::test]
async fn every_star_says_why() {
    for file in std::iter::once("template.yaml").chain(NESTED) {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (n, line) in lines
            .iter()
            .enumerate()
            .filter(|(_, line)| line.trim() == r#"Resource: "*""#)
        {
            assert!(
                lines[n - 1].contains("nothing narrower"),
                "{file}:{}: {line}",
                n + 1
            );
        }
    }
}

#[tokio::test]
async fn the_listener_is_shut_in() {
    let template = Template::file("infra/listener.yaml").await;
    let container = &template.properties("Task")["ContainerDefinitions"][0];
    assert_eq!(container["ReadonlyRootFilesystem"], true);
    assert_eq!(container["User"], "65532:65532");
    assert_eq!(
        container["LinuxParameters"]["Capabilities"]["Drop"][0],
        "ALL"
    );
    assert_eq!(
        container["HealthCheck"]["Command"],
        serde_json::json!(["CMD", "/listener", "check"])
    );
    assert!(
        container["StopTimeout"].as_u64().unwrap() > 25,
        "it drains in 25 s"
    );
    assert!(
        template
            .properties("SecurityGroup")
            .get("SecurityGroupIngress")
            .is_none()
    );
    let deployment = &template.properties("Service")["DeploymentConfiguration"];
    assert_eq!(
        deployment["MinimumHealthyPercent"], 100,
        "no moment without a listener"
    );
    assert_eq!(
        deployment["DeploymentCircuitBreaker"],
        serde_json::json!({"Enable": true, "Rollback": true})
    );
    let network = Template::file("infra/network.yaml").await;
    assert_eq!(network.of_type("AWS::EC2::NatGateway").count(), 0);
}

#[tokio::test]
async fn every_queue_and_function_is_watched_and_every_alarm_is_documented() {
    let (template, observability) = (
        Template::load().await,
        Template::file("infra/observability.yaml").await,
    );
    let alarms: Vec<&Value> = observability
        .of_type("AWS::CloudWatch::Alarm")
        .map(|(_, alarm)| alarm)
        .collect();
    let watches = |metric: &str, name: &str| {
        let name = name.replace("AWS::StackName", "Name");
        let dimension = |alarm: &Value| alarm["Dimensions"][0]["Value"]["Fn::Sub"] == name;
        alarms
            .iter()
            .any(|alarm| alarm["MetricName"] == metric && dimension(alarm))
    };
    for (queue, properties) in template.of_type("AWS::SQS::Queue") {
        let metric = if queue.ends_with("DeadLetters") {
            "ApproximateNumberOfMessagesVisible"
        } else {
            "ApproximateAgeOfOldestMessage"
        };
        assert!(
            watches(metric, properties["QueueName"]["Fn::Sub"].as_str().unwrap()),
            "{queue}"
        );
    }
    for (function, properties) in template.of_type("AWS::Lambda::Function") {
        for metric in ["Throttles", "Errors"] {
            assert!(
                watches(
                    metric,
                    properties["FunctionName"]["Fn::Sub"].as_str().unwrap()
                ),
                "{function}: {metric}"
            );
        }
    }
    let operations = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    for alarm in alarms {
        let name = alarm["AlarmName"]["Fn::Sub"]
            .as_str()
            .unwrap()
            .trim_start_matches("${Name}-");
        assert!(
            operations.contains(&format!("`{name}`")),
            "docs/operations.md does not say what to do about {name}"
        );
    }
    let body = observability.properties("Dashboard")["DashboardBody"]["Fn::Sub"]
        .as_str()
        .unwrap();
    let widgets = serde_json::from_str::<Value>(body).unwrap()["widgets"]
        .as_array()
        .unwrap()
        .len();
    assert_eq!(widgets, 12);
}

#[tokio::test]
async fn no_secret_stands_in_the_template() {
    let template = Template::load().await;
    let secret = template.properties("ServiceKey");
    assert!(secret.get("SecretString").is_none());
    assert_eq!(secret["GenerateSecretString"]["PasswordLength"], 64);
    let excluded = secret["GenerateSecretString"]["ExcludeCharacters"]
        .as_str()
        .unwrap();
    let left: String = (0x21..0x7f_u8)
        .map(char::from)
        .filter(|c| !excluded.contains(*c))
        .collect();
    assert_eq!(left, "0123456789abcdef");
    for (name, function) in template.of_type("AWS::Lambda::Function") {
        for (variable, value) in function["Environment"]["Variables"].as_object().unwrap() {
            assert!(
                !variable.contains("KEY") || value["Ref"] == "ServiceKey",
                "{name}: {variable}"
            );
        }
    }
}

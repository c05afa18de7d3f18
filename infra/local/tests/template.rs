//! Checks of the templates that `sam validate` and cfn-lint do not make, and that AWS would make
//! only at deployment, or never.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test panics"
)]

#[path = "template/concurrency.rs"]
mod concurrency;
#[path = "counters/emitted.rs"]
mod emitted;
#[path = "template/metrics.rs"]
mod metrics;
#[path = "template/queues.rs"]
mod queues;
#[path = "template/recursion.rs"]
mod recursion;
#[path = "template/search.rs"]
mod search;
#[path = "template/transformed.rs"]
mod transformed;

use std::process::Stdio;

use nostr_push_local::{aws::REGION, process::run, root, tools::Tools};
use serde_json::{Value, json};

use transformed::{Template, sub};

/// The templates that `template.yaml` nests.
const NESTED: [&str; 3] = [
    "infra/network.yaml",
    "infra/listener.yaml",
    "infra/observability.yaml",
];

/// Substrings that limit a resource to this stack or account. The ARNs of SNS applications and
/// endpoints are not known to the template, so a policy names the account and region.
const NARROW_RESOURCES: [&str; 7] = [
    "Ref",
    "GetAtt",
    "Arn}/index/",
    ":sns:${AWS::Region}:${AWS::AccountId}:",
    ":repository/${",
    ":log-group:${",
    ":log-group:sns/${AWS::Region}/${AWS::AccountId}/app/*/${AWS::StackName}.",
];

/// The managed policies that SAM adds to a function: writing logs, and receiving from its queue.
const SAM_POLICIES: [&str; 2] = [
    "AWSLambdaBasicExecutionRole",
    "AWSLambdaSQSQueueExecutionRole",
];

#[tokio::test]
async fn linters_find_no_problems() {
    let tools = Tools::install().await.unwrap();
    let mut validate = tools.sam("sam");
    validate
        .current_dir(root())
        .args(["validate", "--lint"])
        .env("AWS_DEFAULT_REGION", REGION)
        .stdout(Stdio::null());
    run(&mut validate, "sam validate --lint").await.unwrap();

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("template.json");
    std::fs::write(&file, Template::main().await.0.to_string()).unwrap();
    let cfn_lint = || {
        let mut command = tools.sam("cfn-lint");
        command.arg("--region").arg(REGION).arg("--");
        command
    };
    let what = "cfn-lint on the transformed template";
    run(cfn_lint().arg(&file), what).await.unwrap();
    let nested = NESTED.map(|name| root().join(name));
    let what = "cfn-lint on the nested templates";
    run(cfn_lint().args(nested), what).await.unwrap();
}

#[tokio::test]
async fn tables_are_kept_unless_the_first_deployment_fails() {
    let template = Template::main().await;
    let resource = |name: &str| &template.0["Resources"][name];
    let mut tables = 0;
    for (name, table) in template.of_type("AWS::DynamoDB::Table") {
        tables += 1;
        let ttl = &table["TimeToLiveSpecification"];
        let recovery = &table["PointInTimeRecoverySpecification"];
        assert_eq!(table["BillingMode"], "PAY_PER_REQUEST", "{name}");
        assert_eq!(ttl["AttributeName"], "expires_at", "{name}");
        assert_eq!(ttl["Enabled"], true, "{name}");
        assert_eq!(recovery["PointInTimeRecoveryEnabled"], true, "{name}");
        let policy = &resource(name)["DeletionPolicy"];
        assert_eq!(policy, "RetainExceptOnCreate", "{name}");
        assert_eq!(resource(name)["UpdateReplacePolicy"], "Retain", "{name}");
        // A rollback of the first deployment could not delete a protected table.
        let protection = json!({"Fn::If": ["HasListener", true, false]});
        assert_eq!(table["DeletionProtectionEnabled"], protection, "{name}");
        let prefix = &table["TableName"]["Fn::Sub"][1]["Prefix"];
        assert_eq!(*prefix, table_prefix(), "{name}");
    }
    assert_eq!(tables, 11);
    let secret = resource("ServiceKey");
    assert_eq!(secret["DeletionPolicy"], "RetainExceptOnCreate");
    assert_eq!(secret["UpdateReplacePolicy"], "Retain");
}

/// `TablePrefix`, or the stack's name if it is empty.
fn table_prefix() -> Value {
    let stack = json!({"Ref": "AWS::StackName"});
    json!({"Fn::If": ["HasTablePrefix", {"Ref": "TablePrefix"}, stack]})
}

#[tokio::test]
async fn every_stage_knows_the_prefix_of_its_tables() {
    let template = Template::main().await;
    for (name, function) in template.of_type("AWS::Lambda::Function") {
        let variables = &function["Environment"]["Variables"];
        assert_eq!(variables["TABLE_PREFIX"], table_prefix(), "{name}");
    }
    let listener = &template.properties("Listener")["Parameters"];
    assert_eq!(listener["TablePrefix"], table_prefix());
    let output = &template.0["Outputs"]["TablePrefix"]["Value"];
    assert_eq!(*output, table_prefix());
}

/// AWS-owned keys cost nothing. `SSEEnabled: true` alone would buy requests to KMS.
#[tokio::test]
async fn tables_and_secret_have_a_customer_key_only_if_it_is_named() {
    let template = Template::main().await;
    let (key, none) = (json!({"Ref": "KmsKeyArn"}), json!({"Ref": "AWS::NoValue"}));
    let encryption = json!({"SSEEnabled": true, "SSEType": "KMS", "KMSMasterKeyId": key});
    let encryption = json!({"Fn::If": ["HasKmsKey", encryption, none]});
    for (name, table) in template.of_type("AWS::DynamoDB::Table") {
        assert_eq!(table["SSESpecification"], encryption, "{name}");
    }
    let key_id = &template.properties("ServiceKey")["KmsKeyId"];
    assert_eq!(*key_id, json!({"Fn::If": ["HasKmsKey", key, none]}));
    for (name, queue) in template.of_type("AWS::SQS::Queue") {
        assert_eq!(queue["SqsManagedSseEnabled"], true, "{name}");
    }
    // Every role may decrypt with the key, through DynamoDB and Secrets Manager alone.
    let listener = Template::load("infra/listener.yaml").await;
    for (template, roles) in [(&template, 4), (&listener, 1)] {
        assert_eq!(
            template.0["Resources"]["KmsKeyUse"]["Condition"],
            "HasKmsKey"
        );
        let policy = template.properties("KmsKeyUse");
        assert_eq!(policy["Roles"].as_array().unwrap().len(), roles);
        check_policy("KmsKeyUse", policy);
        let statement = &policy["PolicyDocument"]["Statement"][0];
        let services = &statement["Condition"]["StringEquals"]["kms:ViaService"];
        assert_eq!(services.as_array().unwrap().len(), 2);
    }
}

#[tokio::test]
async fn paused_stack_leaves_messages_in_the_queues() {
    let template = Template::main().await;
    let running = json!({"Fn::If": ["IsRunning", true, false]});
    let mut mappings = 0;
    for (name, mapping) in template.of_type("AWS::Lambda::EventSourceMapping") {
        assert_eq!(mapping["Enabled"], running, "{name}");
        mappings += 1;
    }
    assert_eq!(mappings, 5, "four queues and the stream of devices");
}

/// SNS may write into the log groups of this stack's platform applications only.
#[tokio::test]
async fn sns_may_log_delivery_status_of_this_stack_only() {
    let template = Template::main().await;
    let role = template.properties("DeliveryStatusRole");
    let principal = &role["AssumeRolePolicyDocument"]["Statement"][0]["Principal"];
    assert_eq!(principal["Service"], "sns.amazonaws.com");
    let statement = &role["Policies"][0]["PolicyDocument"]["Statement"][0];
    let resource = sub(&statement["Resource"]);
    assert!(
        resource.ends_with("/app/*/${AWS::StackName}.*"),
        "{resource}"
    );
}

#[tokio::test]
async fn every_policy_names_actions_and_resources() {
    for file in std::iter::once("template.yaml").chain(NESTED) {
        let template = Template::load(file).await;
        for (name, role) in template.of_type("AWS::IAM::Role") {
            for policy in role["Policies"].as_array().unwrap() {
                check_policy(name, policy);
            }
            if name.ends_with("FunctionRole") {
                let managed = role["ManagedPolicyArns"].to_string();
                let all = SAM_POLICIES.iter().all(|policy| managed.contains(policy));
                assert!(all, "{name}: {managed}");
            } else {
                assert!(role["ManagedPolicyArns"].is_null(), "{name}");
            }
        }
    }
}

fn check_policy(role: &str, policy: &Value) {
    for statement in policy["PolicyDocument"]["Statement"].as_array().unwrap() {
        let actions = match &statement["Action"] {
            Value::Array(actions) => actions.clone(),
            action => vec![action.clone()],
        };
        for action in &actions {
            assert!(
                !action.as_str().unwrap().contains('*'),
                "{role}: {statement}"
            );
        }
        let resource = statement["Resource"].to_string();
        let is_narrow = NARROW_RESOURCES.iter().any(|part| resource.contains(part));
        // This action does not support resource ARNs.
        let is_login = resource == r#""*""# && actions == ["ecr:GetAuthorizationToken"];
        assert!(is_narrow || is_login, "{role}: {statement}");
    }
}

#[tokio::test]
async fn every_wildcard_resource_has_a_reason() {
    for file in std::iter::once("template.yaml").chain(NESTED) {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (n, line) in lines.iter().enumerate() {
            if line.trim() == r#"Resource: "*""# {
                let has_reason = lines[n - 1].contains("nothing narrower");
                assert!(has_reason, "{file}:{}: {line}", n + 1);
            }
        }
    }
}

#[tokio::test]
async fn listener_is_isolated_and_replaced_without_a_gap() {
    let template = Template::load("infra/listener.yaml").await;
    let container = &template.properties("Task")["ContainerDefinitions"][0];
    let dropped = &container["LinuxParameters"]["Capabilities"]["Drop"];
    let health_check = &container["HealthCheck"];
    assert_eq!(container["ReadonlyRootFilesystem"], true);
    assert_eq!(container["User"], "65532:65532");
    assert_eq!(dropped[0], "ALL");
    assert_eq!(
        health_check["Command"],
        json!(["CMD", "/listener", "check"])
    );
    assert_eq!(
        health_check["StartPeriod"], 300,
        "the listener's START_PERIOD, during which its check fails while it loads the interest"
    );
    assert!(
        container["StopTimeout"].as_u64().unwrap() > 25,
        "the listener drains for up to 25 s"
    );
    let group = template.properties("SecurityGroup");
    assert!(group.get("SecurityGroupIngress").is_none());
    let deployment = &template.properties("Service")["DeploymentConfiguration"];
    assert_eq!(
        deployment["MinimumHealthyPercent"], 100,
        "new tasks start before the old ones stop"
    );
    assert_eq!(
        deployment["DeploymentCircuitBreaker"],
        json!({"Enable": true, "Rollback": true})
    );
    let network = Template::load("infra/network.yaml").await;
    assert_eq!(network.of_type("AWS::EC2::NatGateway").count(), 0);
}

#[tokio::test]
async fn every_queue_and_function_has_alarms() {
    let template = Template::main().await;
    let observability = Template::load("infra/observability.yaml").await;
    let has_alarm = |metric: &str, name: &Value| {
        let name = sub(name).replace("AWS::StackName", "Name");
        observability
            .of_type("AWS::CloudWatch::Alarm")
            .filter(|(_, alarm)| alarm["MetricName"] == metric)
            .any(|(_, alarm)| alarm["Dimensions"][0]["Value"]["Fn::Sub"] == name)
    };
    for (queue, properties) in template.of_type("AWS::SQS::Queue") {
        // Dead letters, and requests for profiles that no relay answers, stay until they expire.
        let metric = if properties.get("RedrivePolicy").is_none() {
            "ApproximateNumberOfMessagesVisible"
        } else {
            "ApproximateAgeOfOldestMessage"
        };
        assert!(has_alarm(metric, &properties["QueueName"]), "{queue}");
    }
    for (function, properties) in template.of_type("AWS::Lambda::Function") {
        for metric in ["Throttles", "Errors"] {
            let name = &properties["FunctionName"];
            assert!(has_alarm(metric, name), "{function}: {metric}");
        }
    }
}

#[tokio::test]
async fn every_alarm_is_documented() {
    let observability = Template::load("infra/observability.yaml").await;
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let operations = read("docs/operations.md");
    let alarms = observability.of_type("AWS::CloudWatch::Alarm").count();
    assert!(operations.contains(&format!("{alarms} alarms")), "{alarms}");
    let counted = format!("const ALARMS: f64 = {alarms}.0;");
    assert!(
        read("infra/pushctl/src/cost.rs").contains(&counted),
        "{counted}"
    );
    for (_, alarm) in observability.of_type("AWS::CloudWatch::Alarm") {
        let name = sub(&alarm["AlarmName"]).trim_start_matches("${Name}-");
        assert!(
            operations.contains(&format!("`{name}`")),
            "docs/operations.md does not describe {name}"
        );
    }
}

#[tokio::test]
async fn every_parameter_is_documented() {
    let template = Template::main().await;
    let operations = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    for (name, parameter) in template.0["Parameters"].as_object().unwrap() {
        assert!(
            operations.contains(&format!("`{name}`")),
            "docs/operations.md does not describe {name}"
        );
        assert!(parameter["Description"].is_string(), "{name}");
    }
}

#[tokio::test]
async fn budget_is_optional_and_notifies_at_three_levels() {
    let observability = Template::load("infra/observability.yaml").await;
    let template = Template::main().await;
    assert_eq!(template.0["Parameters"]["MonthlyBudget"]["Default"], 0);
    assert_eq!(
        observability.0["Resources"]["Budget"]["Condition"],
        "HasBudget"
    );
    let budget = observability.properties("Budget");
    assert_eq!(budget["Budget"]["TimeUnit"], "MONTHLY");
    assert!(
        budget["Budget"].get("BudgetName").is_none(),
        "a budget with a name cannot be replaced when its receivers change"
    );
    let notifications = budget["NotificationsWithSubscribers"].as_array().unwrap();
    let levels: Vec<u64> = notifications
        .iter()
        .map(|notification| {
            let receivers = notification["Subscribers"].to_string();
            assert!(receivers.contains("AlarmTopicArn") && receivers.contains("BudgetEmail"));
            notification["Notification"]["Threshold"].as_u64().unwrap()
        })
        .collect();
    assert_eq!(levels, [50, 80, 100]);
}

#[tokio::test]
async fn dashboard_is_valid_json_with_all_widgets() {
    let observability = Template::load("infra/observability.yaml").await;
    let body = sub(&observability.properties("Dashboard")["DashboardBody"]);
    let caps = ["MaxOwners", "MaxIndexKeys", "MaxIndexRows"];
    let body = caps
        .iter()
        .enumerate()
        .fold(body.to_owned(), |body, (n, cap)| {
            // They are numbers, so they are not in quotes.
            body.replace(&format!("${{{cap}}}"), &n.to_string())
        });
    let body: Value = serde_json::from_str(&body).unwrap();
    let widgets = body["widgets"].as_array().unwrap();
    assert_eq!(widgets.len(), 16);
    let lines = widgets
        .iter()
        .map(|w| &w["properties"]["annotations"]["horizontal"][0]);
    let lines: Vec<&Value> = lines.filter(|line| !line.is_null()).collect();
    assert_eq!(lines.len(), caps.len());
    for (n, (line, cap)) in lines.into_iter().zip(caps).enumerate() {
        assert_eq!(*line, json!({"label": cap, "value": n}));
    }
}

/// Everything that reads the key reads the version that it was deployed with, and control is
/// deployed before the listener.
#[tokio::test]
async fn a_new_key_is_used_from_the_deployment_on() {
    let template = Template::main().await;
    let version = json!({"Ref": "KeyVersion"});
    for (name, function) in template.of_type("AWS::Lambda::Function") {
        let variables = &function["Environment"]["Variables"];
        if !variables["SERVICE_KEY_SECRET"].is_null() {
            assert_eq!(variables["KEY_VERSION"], version, "{name}");
        }
    }
    let listener = &template.0["Resources"]["Listener"];
    assert_eq!(listener["DependsOn"], "ControlFunction");
    assert_eq!(listener["Properties"]["Parameters"]["KeyVersion"], version);
    let listener = Template::load("infra/listener.yaml").await;
    let (_, task) = listener.of_type("AWS::ECS::TaskDefinition").next().unwrap();
    let variables = &task["ContainerDefinitions"][0]["Environment"];
    let variables = variables.as_array().unwrap();
    assert!(variables.contains(&json!({"Name": "KEY_VERSION", "Value": version})));
}

#[tokio::test]
async fn template_contains_no_secret() {
    let template = Template::main().await;
    let secret = template.properties("ServiceKey");
    let generated = &secret["GenerateSecretString"];
    assert!(secret.get("SecretString").is_none());
    assert_eq!(generated["PasswordLength"], 64);
    let excluded = generated["ExcludeCharacters"].as_str().unwrap();
    let allowed: String = (0x21..0x7f_u8)
        .map(char::from)
        .filter(|c| !excluded.contains(*c))
        .collect();
    assert_eq!(allowed, "0123456789abcdef");
    for (name, function) in template.of_type("AWS::Lambda::Function") {
        for (variable, value) in function["Environment"]["Variables"].as_object().unwrap() {
            let is_reference = value["Ref"] == "ServiceKey";
            let is_key = variable.split('_').any(|word| word == "KEY") && variable != "KEY_VERSION";
            assert!(!is_key || is_reference, "{name}: {variable}");
        }
    }
}

//! The example workflow and the role that deploys.

use std::{collections::BTreeSet, fs};

use nostr_push_local::{
    aws::{REGION, transformed_template},
    process::run,
    root,
    tools::Tools,
};
use serde_json::Value;

/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html>
const MAX_POLICY_SIZE: usize = 6144;

/// What limits a resource to one stack, or to the bucket of `sam deploy`.
const NARROW: [&str; 6] = [
    "${StackName}",
    "aws-sam-cli-managed-default",
    "transform/Serverless-2016-10-31",
    "AWSServiceRoleForECS",
    ":budget/*",
    // With a condition on the tag that CloudFormation sets.
    ":ec2:${AWS::Region}:${AWS::AccountId}:*/*",
];

/// The prefixes of actions of services whose name in resource types differs.
const ACTION_PREFIXES: [(&str, &str); 1] = [("serverless", "lambda")];

async fn template(tools: &Tools, name: &str) -> Value {
    transformed_template(tools, name).await.unwrap()
}

/// The statements of all policies of the role.
fn statements(role: &Value) -> Vec<&Value> {
    let resources = role["Resources"].as_object().unwrap().values();
    resources
        .filter(|resource| resource["Type"] == "AWS::IAM::ManagedPolicy")
        .flat_map(|policy| {
            let document = &policy["Properties"]["PolicyDocument"];
            document["Statement"].as_array().unwrap()
        })
        .collect()
}

fn list(value: &Value) -> Vec<Value> {
    value
        .as_array()
        .cloned()
        .unwrap_or_else(|| vec![value.clone()])
}

#[tokio::test]
async fn role_names_actions_and_resources_of_one_stack() {
    let tools = Tools::install().await.unwrap();
    let role = template(&tools, "infra/github/role.yaml").await;
    let allowed = |statement: &&Value| statement["Effect"] == "Allow";
    for statement in statements(&role).into_iter().filter(allowed) {
        for action in list(&statement["Action"]) {
            assert!(!action.as_str().unwrap().contains('*'), "{statement}");
        }
        for resource in list(&statement["Resource"]) {
            let text = resource.to_string();
            let is_narrow = NARROW.iter().any(|part| text.contains(part));
            assert!(is_narrow || resource == "*", "{statement}");
        }
    }
    let text = fs::read_to_string(root().join("infra/github/role.yaml")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    for (n, line) in lines.iter().enumerate() {
        if line.trim() == r#"Resource: "*""# {
            assert!(lines[n - 1].contains("nothing narrower"), "line {}", n + 1);
        }
    }
    let secret = text.contains("secretsmanager:GetSecretValue");
    assert!(!secret, "a deployment does not read the service key");
}

/// The role of a stack reaches everything whose name begins with the stack's name and a hyphen.
#[tokio::test]
async fn role_of_one_environment_reaches_no_other() {
    let tools = Tools::install().await.unwrap();
    let role = template(&tools, "infra/github/role.yaml").await;
    let statements = statements(&role);
    let denied = statements
        .iter()
        .find(|statement| statement["Effect"] == "Deny");
    let denied = denied.unwrap();
    let roles = denied["Resource"]["Fn::Sub"].as_str().unwrap();
    assert!(roles.ends_with(":role/*-deploy-by-github"), "{roles}");
    for action in ["iam:PutRolePolicy", "iam:UpdateAssumeRolePolicy"] {
        assert!(list(&denied["Action"]).contains(&action.into()), "{action}");
    }
    let configuration = fs::read_to_string(root().join("samconfig.toml")).unwrap();
    let names = configuration
        .lines()
        .filter_map(|line| line.strip_prefix("stack_name = "));
    let names: Vec<&str> = names.map(|name| name.trim_matches('"')).collect();
    assert!(names.len() > 1);
    for name in &names {
        let beginning = format!("{name}-");
        let reached = names.iter().find(|other| other.starts_with(&beginning));
        assert_eq!(reached, None, "the role of {name} reaches it");
    }
}

#[tokio::test]
async fn role_trusts_one_workflow_and_its_policies_fit() {
    let tools = Tools::install().await.unwrap();
    let role = template(&tools, "infra/github/role.yaml").await;
    let properties = &role["Resources"]["DeployRole"]["Properties"];
    let trust = &properties["AssumeRolePolicyDocument"]["Statement"];
    assert_eq!(trust.as_array().unwrap().len(), 1);
    let claims = &trust[0]["Condition"]["StringEquals"];
    assert_eq!(
        claims["token.actions.githubusercontent.com:sub"]["Ref"],
        "Subject"
    );
    assert_eq!(
        claims["token.actions.githubusercontent.com:aud"],
        "sts.amazonaws.com"
    );
    for (name, resource) in role["Resources"].as_object().unwrap() {
        let document = &resource["Properties"]["PolicyDocument"];
        let text: String = document.to_string();
        let text = text
            .replace(r#"{"Fn::Sub":"#, "")
            .replace("${AWS::Partition}", "aws-us-gov")
            .replace("${AWS::Region}", "ap-northeast-1")
            .replace("${AWS::AccountId}", "123456789012")
            .replace("${StackName}", "a-name-of-23-characters");
        assert!(text.len() <= MAX_POLICY_SIZE, "{name}: {}", text.len());
    }
}

#[tokio::test]
async fn role_covers_every_service_of_the_templates() {
    let tools = Tools::install().await.unwrap();
    let role = template(&tools, "infra/github/role.yaml").await;
    let granted: BTreeSet<String> = statements(&role)
        .into_iter()
        .filter(|statement| statement["Effect"] == "Allow")
        .flat_map(|statement| list(&statement["Action"]))
        .map(|action| {
            action
                .as_str()
                .unwrap()
                .split(':')
                .next()
                .unwrap()
                .to_owned()
        })
        .collect();
    for name in [
        "template.yaml",
        "infra/network.yaml",
        "infra/listener.yaml",
        "infra/observability.yaml",
    ] {
        let template = template(&tools, name).await;
        for (resource, value) in template["Resources"].as_object().unwrap() {
            let kind = value["Type"].as_str().unwrap().to_lowercase();
            let service = kind.split("::").nth(1).unwrap();
            let prefix = ACTION_PREFIXES.iter().find(|(name, _)| *name == service);
            let prefix = prefix.map_or(service, |(_, prefix)| prefix);
            assert!(granted.contains(prefix), "{name}: {resource} is {kind}");
        }
    }
}

#[tokio::test]
async fn linter_finds_no_problems_in_the_role() {
    let tools = Tools::install().await.unwrap();
    let mut lint = tools.sam("cfn-lint");
    lint.current_dir(root())
        .args(["--region", REGION, "--", "infra/github/role.yaml"]);
    run(&mut lint, "cfn-lint").await.unwrap();
}

#[test]
fn workflow_has_few_permissions_and_no_prompt() {
    let text = fs::read_to_string(root().join("infra/github/deploy.yml")).unwrap();
    for part in [
        "\npermissions: {}\n",
        "id-token: write",
        "environment: production",
        "infra/release nostr-push",
        "nostr-push/infra/deploy --yes --config-env production",
    ] {
        assert!(text.contains(part), "{part}");
    }
    // A value of the event in a script would be run by the shell.
    let mut scripts = text.lines().filter(|line| line.contains("${{"));
    let is_assigned = |line: &str| {
        let (key, value) = line.trim().split_once(": ").unwrap();
        key != "run" && value.starts_with("${{") && value.ends_with("}}")
    };
    assert!(scripts.all(is_assigned));
}

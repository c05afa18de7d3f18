//! Deploys, upgrades, redeploys and deletes the stack on the local AWS endpoint. The upgrade starts
//! from an earlier template, and the redeployment changes nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test panics"
)]

use std::{path::Path, time::Duration};

use aws_sdk_cloudformation::Client;
use nostr_push_aws::clients::{self, SdkConfig};
use nostr_push_local::{
    aws::{self, Aws, LocalPorts, STACK},
    process::run,
    report_skipped, root, step,
    tools::Tools,
};
use tokio::{process::Command, time::sleep};

/// An image that does not exist. The local endpoint records ECS resources but runs no task.
const IMAGE: &str =
    "ListenerImage=000000000000.dkr.ecr.us-east-1.amazonaws.com/nostr-push-listener@sha256:0";

/// The types of resources that no deployment may replace.
const KEPT: [&str; 4] = [
    "AWS::DynamoDB::Table",
    "AWS::SQS::Queue",
    "AWS::SNS::Topic",
    "AWS::SecretsManager::Secret",
];

/// How long CloudFormation may take to delete the stack.
const DELETE_TIMEOUT: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn stack_is_upgraded_redeployed_and_deleted() {
    let tools = Tools::install().await.unwrap();
    let data = tempfile::tempdir().unwrap();
    aws::build(&tools).await.unwrap();
    let aws = Aws::start(&tools, data.path(), LocalPorts::ANY)
        .await
        .unwrap();
    let config = clients::at(&aws.environment(), "AWS_ENDPOINT_URL").await;
    let stack = Stack {
        tools,
        aws,
        cloudformation: Client::new(&config),
        config,
    };
    // An earlier version, which is then upgraded.
    let template = previous_template(&data.path().join("previous")).await;
    let earlier = match template {
        Some(template) => Some(deploy_earlier(&stack, &template).await),
        None => None,
    };
    let first = first_deployment(&stack).await;
    let key = stack.service_key().await;
    if let Some((resources, earlier_key)) = earlier {
        for kind in KEPT {
            for kept in resources.of(kind) {
                assert!(first.of(kind).contains(&kept), "{kept} was replaced");
            }
        }
        assert_eq!(earlier_key, key);
    }
    redeployment_changes_nothing(&stack, &first).await;
    image_adds_the_service(&stack, &first).await;
    assert_eq!(stack.service_key().await, key);
    delete(&stack).await;
    only_retained_resources_are_left(&stack, &first).await;
    // A new stack with the same name starts without the earlier data.
    delete_retained_resources(&stack).await;
    stack.deploy(&[]).await;
    assert_ne!(stack.service_key().await, key);
    stack.aws.stop().await;
}

/// Returns the resources and the service key of the earlier version.
async fn deploy_earlier(stack: &Stack, template: &str) -> (Resources, String) {
    let config = root().join("samconfig.toml");
    let config = config.to_string_lossy();
    let arguments = ["--config-file", &config, "--template-file", template];
    stack.deploy(&arguments).await;
    (stack.resources().await, stack.service_key().await)
}

/// Deploys as `infra/deploy` does the first time: without an image, and so without an ECS service.
async fn first_deployment(stack: &Stack) -> Resources {
    stack.deploy(&[]).await;
    let (_, status) = stack.state().await;
    assert!(status.ends_with("_COMPLETE"), "{status}");
    let resources = stack.resources().await;
    for (kind, count) in [
        ("AWS::ECS::Cluster", 1),
        ("AWS::ECS::Service", 0),
        ("AWS::EC2::Subnet", 2),
        ("AWS::DynamoDB::Table", 11),
    ] {
        assert_eq!(resources.of(kind).len(), count, "{kind}");
    }
    resources
}

async fn redeployment_changes_nothing(stack: &Stack, resources: &Resources) {
    let state = stack.state().await;
    stack.deploy(&[]).await;
    assert_eq!(stack.state().await, state);
    assert_eq!(stack.resources().await, *resources);
}

async fn image_adds_the_service(stack: &Stack, before: &Resources) {
    let parameters = ["Architecture=x86_64", "HeartbeatApp=demo", IMAGE];
    let arguments = [&["--parameter-overrides"], &parameters[..]].concat();
    stack.deploy(&arguments).await;
    let resources = stack.resources().await;
    assert_eq!(resources.of("AWS::ECS::Service").len(), 1);
    for kind in [
        "AWS::DynamoDB::Table",
        "AWS::SQS::Queue",
        "AWS::SecretsManager::Secret",
        "AWS::EC2::VPC",
        "AWS::ECS::Cluster",
    ] {
        assert_eq!(resources.of(kind), before.of(kind));
    }
}

/// Deletes the stack with CloudFormation. `sam delete` would do the same, but it cannot read the
/// local addresses of the nested templates.
async fn delete(stack: &Stack) {
    let delete = stack.cloudformation.delete_stack().stack_name(STACK);
    delete.send().await.unwrap();
    let exists = async || {
        let describe = stack.cloudformation.describe_stacks().stack_name(STACK);
        describe.send().await.is_ok()
    };
    for _ in 0..DELETE_TIMEOUT.as_secs() {
        if !exists().await {
            break;
        }
        sleep(Duration::from_secs(1)).await;
    }
    assert!(!exists().await, "the stack still exists");
}

async fn only_retained_resources_are_left(stack: &Stack, resources: &Resources) {
    let queues = aws_sdk_sqs::Client::new(&stack.config).list_queues();
    let queues = queues.send().await.unwrap().queue_urls.unwrap_or_default();
    assert!(queues.is_empty(), "{queues:?}");
    let groups = aws_sdk_cloudwatchlogs::Client::new(&stack.config).describe_log_groups();
    let groups = groups.send().await.unwrap().log_groups.unwrap_or_default();
    let left: Vec<_> = groups
        .iter()
        .filter_map(|group| group.log_group_name())
        .filter(|name| name.contains(STACK))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(tables(stack).await, resources.of("AWS::DynamoDB::Table"));
}

/// Deletes tables and service key, as `docs/operations.md` describes.
async fn delete_retained_resources(stack: &Stack) {
    let dynamodb = aws_sdk_dynamodb::Client::new(&stack.config);
    for table in tables(stack).await {
        let update = dynamodb.update_table().table_name(&table);
        let update = update.deletion_protection_enabled(false).send();
        update.await.unwrap();
        let delete = dynamodb.delete_table().table_name(table);
        delete.send().await.unwrap();
    }
    let secrets = aws_sdk_secretsmanager::Client::new(&stack.config);
    let delete = secrets
        .delete_secret()
        .secret_id(format!("{STACK}-service-key"))
        .force_delete_without_recovery(true);
    delete.send().await.unwrap();
    assert!(tables(stack).await.is_empty());
    let secrets = secrets.list_secrets().send().await.unwrap();
    assert!(secrets.secret_list().is_empty());
}

async fn tables(stack: &Stack) -> Vec<String> {
    let list = aws_sdk_dynamodb::Client::new(&stack.config).list_tables();
    list.send().await.unwrap().table_names.unwrap_or_default()
}

struct Stack {
    tools: Tools,
    aws: Aws,
    config: SdkConfig,
    cloudformation: Client,
}

impl Stack {
    /// Runs `sam deploy` with these arguments in addition to those of the local environment.
    async fn deploy(&self, arguments: &[&str]) {
        let mut command = self.tools.sam("sam");
        command
            .current_dir(root())
            .args(["deploy", "--config-env", "local"])
            .args(arguments)
            .envs(self.aws.environment());
        run(&mut command, "sam deploy").await.unwrap();
    }

    /// The service's secret key.
    async fn service_key(&self) -> String {
        let client = aws_sdk_secretsmanager::Client::new(&self.config);
        let request = client
            .get_secret_value()
            .secret_id(format!("{STACK}-service-key"));
        request.send().await.unwrap().secret_string.unwrap()
    }

    /// When the stack was last updated, and its status.
    async fn state(&self) -> (Option<String>, String) {
        let request = self.cloudformation.describe_stacks().stack_name(STACK);
        let stacks = request.send().await.unwrap().stacks.unwrap();
        (
            stacks[0].last_updated_time.map(|time| time.to_string()),
            stacks[0].stack_status.clone().unwrap().as_str().to_owned(),
        )
    }

    /// All resources, including those of the nested stacks.
    async fn resources(&self) -> Resources {
        let (mut stacks, mut resources) = (vec![STACK.to_owned()], Vec::new());
        while let Some(stack) = stacks.pop() {
            let request = self.cloudformation.describe_stack_resources();
            let response = request.stack_name(stack).send().await.unwrap();
            for resource in response.stack_resources.unwrap_or_default() {
                let kind = resource.resource_type.unwrap_or_default();
                let name = resource.physical_resource_id.unwrap_or_default();
                if kind == "AWS::CloudFormation::Stack" {
                    stacks.push(name.clone());
                }
                resources.push((kind, name));
            }
        }
        resources.sort();
        Resources(resources)
    }
}

/// The types and names of resources.
#[derive(Debug, PartialEq)]
struct Resources(Vec<(String, String)>);

impl Resources {
    /// The names of the resources of this type.
    fn of(&self, kind: &str) -> Vec<&str> {
        self.0
            .iter()
            .filter(|(k, _)| k == kind)
            .map(|(_, name)| name.as_str())
            .collect()
    }
}

/// The output of a git command, or `None` if it fails.
async fn git(arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    command.current_dir(root()).args(arguments);
    let output = command.output().await.ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Copies the templates of an earlier commit into `folder`, and returns the path of
/// `template.yaml`. The commit is that of the last tag. Without a tag, it is the last commit with
/// another template. The functions are those of this commit: the test covers the upgrade of the
/// template.
async fn previous_template(folder: &Path) -> Option<String> {
    let mut commit = git(&["describe", "--tags", "--abbrev=0", "HEAD^"]).await;
    if commit.is_none() {
        let log = git(&["log", "--format=%H", "-n", "2", "--", "template.yaml"]).await;
        commit = log.unwrap_or_default().lines().nth(1).map(str::to_owned);
    }
    let Some(commit) = commit else {
        report_skipped("the upgrade needs an earlier commit, which a shallow clone lacks");
        return None;
    };
    step(&format!(
        "deploying the template of {commit} for the upgrade"
    ));
    let list = ["ls-tree", "-r", "--name-only", &commit];
    let list = [&list[..], &["template.yaml", "infra"]].concat();
    let files = git(&list).await.unwrap();
    let is_yaml = |file: &&str| Path::new(file).extension().is_some_and(|e| e == "yaml");
    for file in files.lines().filter(is_yaml) {
        let text = git(&["show", &format!("{commit}:{file}")]).await.unwrap();
        let target = folder.join(file);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::write(target, with_built_functions(text)).unwrap();
    }
    Some(folder.join("template.yaml").to_string_lossy().into_owned())
}

/// The template with the built functions in place of their source code.
fn with_built_functions(template: String) -> String {
    let mut text = template;
    for function in ["Control", "Matcher", "Deliver", "Feedback"] {
        let header = format!("\n  {function}Function:\n");
        let Some((before, after)) = text.split_once(&header) else {
            continue;
        };
        let built = root().join(format!(".aws-sam/build/{function}Function"));
        let code = format!("CodeUri: {}\n", built.display());
        let after = after.replacen("CodeUri: .\n", &code, 1);
        text = format!("{before}{header}{after}");
    }
    text
}

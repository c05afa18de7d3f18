//! The template's life on the local AWS endpoint: deployed by `sam deploy`, deployed again,
//! upgraded from what stood there before, and deleted.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so when something is wrong"
)]

use std::{path::Path, time::Duration};

use aws_sdk_cloudformation::Client;
use nostr_push_aws::clients;
use nostr_push_local::{
    aws::{self, Aws, Ports, STACK},
    not_tried,
    process::run,
    root, step,
    tools::Tools,
};
use tokio::{process::Command, time::sleep};

/// An image that nobody has: ECS is recorded here, not run.
const IMAGE: &str =
    "ListenerImage=000000000000.dkr.ecr.us-east-1.amazonaws.com/nostr-push-listener@sha256:0";

struct Stack {
    tools: Tools,
    aws: Aws,
    cloudformation: Client,
}

impl Stack {
    /// `sam deploy` with these arguments besides those of the local environment.
    async fn deploy(&self, more: &[&str]) {
        let mut command = self.tools.sam("sam");
        command
            .current_dir(root())
            .args(["deploy", "--config-env", "local"])
            .args(more)
            .envs(self.aws.environment());
        run(&mut command, "sam deploy").await.unwrap();
    }

    /// The secret key, which a client's registrations are encrypted to.
    async fn service_key(&self) -> String {
        let config = clients::at(&self.aws.environment(), "AWS_ENDPOINT_URL").await;
        let client = aws_sdk_secretsmanager::Client::new(&config);
        client
            .get_secret_value()
            .secret_id(format!("{STACK}-service-key"))
            .send()
            .await
            .unwrap()
            .secret_string
            .unwrap()
    }

    /// When it was last changed, and its state.
    async fn state(&self) -> (Option<String>, String) {
        let stacks = self
            .cloudformation
            .describe_stacks()
            .stack_name(STACK)
            .send()
            .await
            .unwrap()
            .stacks
            .unwrap();
        (
            stacks[0].last_updated_time.map(|time| time.to_string()),
            stacks[0].stack_status.clone().unwrap().as_str().to_owned(),
        )
    }

    /// All resources, those of the nested stacks included.
    async fn resources(&self) -> Resources {
        let (mut stacks, mut resources) = (vec![STACK.to_owned()], Vec::new());
        while let Some(stack) = stacks.pop() {
            let answer = self
                .cloudformation
                .describe_stack_resources()
                .stack_name(stack)
                .send()
                .await
                .unwrap();
            for resource in answer.stack_resources.unwrap_or_default() {
                let pair = (
                    resource.resource_type.unwrap_or_default(),
                    resource.physical_resource_id.unwrap_or_default(),
                );
                if pair.0 == "AWS::CloudFormation::Stack" {
                    stacks.push(pair.1.clone());
                }
                resources.push(pair);
            }
        }
        resources.sort();
        Resources(resources)
    }
}

/// Types and names.
#[derive(Debug, PartialEq)]
struct Resources(Vec<(String, String)>);

impl Resources {
    fn of(&self, kind: &str) -> Vec<&str> {
        self.0
            .iter()
            .filter(|(of, _)| of == kind)
            .map(|(_, name)| name.as_str())
            .collect()
    }

    fn count(&self, kind: &str) -> usize {
        self.of(kind).len()
    }
}

async fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .current_dir(root())
        .args(arguments)
        .output()
        .await
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The template of the last tag before this commit, or while nothing is tagged of the last commit
/// that had another one. Its functions are those that were just built: what is tried here is the
/// template.
async fn previous(folder: &Path) -> Option<String> {
    let mut commit = git(&["describe", "--tags", "--abbrev=0", "HEAD^"]).await;
    if commit.is_none() {
        let log = git(&["log", "--format=%H", "-n", "2", "--", "template.yaml"])
            .await
            .unwrap_or_default();
        commit = log.lines().nth(1).map(str::to_owned);
    }
    let Some(commit) = commit else {
        not_tried("upgrading: there is no earlier commit here (a shallow clone?)");
        return None;
    };
    step(&format!(
        "deploying the template of {commit}, to be upgraded"
    ));
    let files = git(&[
        "ls-tree",
        "-r",
        "--name-only",
        &commit,
        "template.yaml",
        "infra",
    ])
    .await
    .unwrap();
    for file in files
        .lines()
        .filter(|file| Path::new(file).extension().is_some_and(|of| of == "yaml"))
    {
        let mut text = git(&["show", &format!("{commit}:{file}")]).await.unwrap();
        for function in ["Control", "Matcher", "Deliver", "Feedback"] {
            let (name, built) = (
                format!("\n  {function}Function:\n"),
                root().join(format!(".aws-sam/build/{function}Function")),
            );
            if let Some((before, after)) = text.split_once(&name) {
                let after = after.replacen(
                    "CodeUri: .\n",
                    &format!("CodeUri: {}\n", built.display()),
                    1,
                );
                text = format!("{before}{name}{after}");
            }
        }
        let target = folder.join(file);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::write(target, text).unwrap();
    }
    Some(folder.join("template.yaml").to_string_lossy().into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_deployed_twice_upgraded_and_deleted() {
    let tools = Tools::install().await.unwrap();
    let data = tempfile::tempdir().unwrap();
    aws::build(&tools).await.unwrap();
    let aws = Aws::start(&tools, data.path(), Ports::ANY).await.unwrap();
    let cloudformation = Client::new(&clients::at(&aws.environment(), "AWS_ENDPOINT_URL").await);
    let stack = Stack {
        tools,
        aws,
        cloudformation,
    };

    // What is deployed somewhere else becomes this version, and keeps its data.
    let before = match previous(&data.path().join("previous")).await {
        Some(template) => {
            let config = root().join("samconfig.toml");
            stack
                .deploy(&[
                    "--config-file",
                    &config.to_string_lossy(),
                    "--template-file",
                    &template,
                ])
                .await;
            Some((stack.resources().await, stack.service_key().await))
        }
        None => None,
    };

    // As infra/deploy does the first time: without an image, and so without a service.
    stack.deploy(&[]).await;
    let first = stack.resources().await;
    let state = stack.state().await;
    assert!(state.1.ends_with("_COMPLETE"), "{}", state.1);
    assert_eq!(
        (
            first.count("AWS::ECS::Cluster"),
            first.count("AWS::ECS::Service")
        ),
        (1, 0)
    );
    assert_eq!(
        (
            first.count("AWS::EC2::Subnet"),
            first.count("AWS::DynamoDB::Table")
        ),
        (2, 10)
    );
    let key = stack.service_key().await;
    if let Some((resources, key_before)) = before {
        for kind in [
            "AWS::DynamoDB::Table",
            "AWS::SQS::Queue",
            "AWS::SNS::Topic",
            "AWS::SecretsManager::Secret",
        ] {
            resources
                .of(kind)
                .iter()
                .for_each(|kept| assert!(first.of(kind).contains(kept), "{kept} was replaced"));
        }
        assert_eq!(key_before, key);
    }

    // The same once more is nothing.
    stack.deploy(&[]).await;
    assert_eq!(stack.state().await, state);
    assert_eq!(stack.resources().await, first);

    // With the image comes the service; nothing is replaced.
    stack
        .deploy(&[
            "--parameter-overrides",
            "Architecture=x86_64",
            "HeartbeatApp=demo",
            IMAGE,
        ])
        .await;
    let second = stack.resources().await;
    assert_eq!(second.count("AWS::ECS::Service"), 1);
    for kind in [
        "AWS::DynamoDB::Table",
        "AWS::SQS::Queue",
        "AWS::SecretsManager::Secret",
        "AWS::EC2::VPC",
        "AWS::ECS::Cluster",
    ] {
        assert_eq!(second.of(kind), first.of(kind));
    }
    assert_eq!(stack.service_key().await, key);

    // Deleted, only what is to be retained is left. `sam delete` asks for the same, but will not
    // read the nested templates' addresses while they are on this machine.
    stack
        .cloudformation
        .delete_stack()
        .stack_name(STACK)
        .send()
        .await
        .unwrap();
    let mut seconds = 0;
    while stack
        .cloudformation
        .describe_stacks()
        .stack_name(STACK)
        .send()
        .await
        .is_ok()
        && seconds < 120
    {
        sleep(Duration::from_secs(1)).await;
        seconds += 1;
    }
    assert!(
        stack
            .cloudformation
            .describe_stacks()
            .stack_name(STACK)
            .send()
            .await
            .is_err()
    );
    let config = clients::at(&stack.aws.environment(), "AWS_ENDPOINT_URL").await;
    let queues = aws_sdk_sqs::Client::new(&config)
        .list_queues()
        .send()
        .await
        .unwrap()
        .queue_urls
        .unwrap_or_default();
    assert!(queues.is_empty(), "{queues:?}");
    let groups = aws_sdk_cloudwatchlogs::Client::new(&config)
        .describe_log_groups()
        .send()
        .await
        .unwrap()
        .log_groups
        .unwrap_or_default();
    let left: Vec<_> = groups
        .iter()
        .filter_map(|group| group.log_group_name())
        .filter(|name| name.contains(STACK))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    // And that goes as docs/operations.md says.
    let dynamodb = aws_sdk_dynamodb::Client::new(&config);
    let tables = dynamodb
        .list_tables()
        .send()
        .await
        .unwrap()
        .table_names
        .unwrap_or_default();
    assert_eq!(tables, first.of("AWS::DynamoDB::Table"));
    for table in tables {
        dynamodb
            .delete_table()
            .table_name(table)
            .send()
            .await
            .unwrap();
    }
    let secrets = aws_sdk_secretsmanager::Client::new(&config);
    let name = format!("{STACK}-service-key");
    secrets
        .delete_secret()
        .secret_id(name)
        .force_delete_without_recovery(true)
        .send()
        .await
        .unwrap();
    assert_eq!(
        dynamodb
            .list_tables()
            .send()
            .await
            .unwrap()
            .table_names()
            .len(),
        0
    );
    assert_eq!(
        secrets
            .list_secrets()
            .send()
            .await
            .unwrap()
            .secret_list()
            .len(),
        0
    );
    // A new one of the same name begins from nothing.
    stack.deploy(&[]).await;
    assert_ne!(stack.service_key().await, key);
    stack.aws.stop().await;
}

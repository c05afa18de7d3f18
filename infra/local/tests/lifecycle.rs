//! The template's life on the local AWS endpoint: deployed by `sam deploy`, deployed again, upgraded from what stood there
//! before, and deleted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says so when something is wrong")]

use std::process::Stdio;

use aws_sdk_cloudformation::Client;
use nostr_push_aws::clients;
use nostr_push_local::{
    aws::{self, Aws, Ports, STACK},
    process::run,
    root,
    tools::Tools,
};

/// An image that nobody has: ECS is recorded here, not run.
const IMAGE: &str = "ListenerImage=000000000000.dkr.ecr.us-east-1.amazonaws.com/nostr-push-listener@sha256:0";

struct Stack {
    tools: Tools,
    aws: Aws,
    cloudformation: Client,
}

impl Stack {
    /// `sam deploy` with these parameters besides those of the local environment.
    async fn deploy(&self, more: &[&str]) {
        let mut command = self.tools.sam("sam");
        command.current_dir(root()).args(["deploy", "--config-env", "local"]).envs(self.aws.environment()).stdout(Stdio::null());
        if !more.is_empty() {
            command.args(["--parameter-overrides", "Architecture=x86_64", "HeartbeatApp=demo"]).args(more);
        }
        run(&mut command, "sam deploy").await.unwrap();
    }

    /// When it was last changed, and its state.
    async fn state(&self) -> (Option<String>, String) {
        let stacks = self.cloudformation.describe_stacks().stack_name(STACK).send().await.unwrap().stacks.unwrap();
        (stacks[0].last_updated_time.map(|time| time.to_string()), stacks[0].stack_status.clone().unwrap().as_str().to_owned())
    }

    /// All resources, those of the nested stacks included: type and name.
    async fn resources(&self) -> Vec<(String, String)> {
        let (mut stacks, mut resources) = (vec![STACK.to_owned()], Vec::new());
        while let Some(stack) = stacks.pop() {
            let answer = self.cloudformation.describe_stack_resources().stack_name(stack).send().await.unwrap();
            for resource in answer.stack_resources.unwrap_or_default() {
                let pair = (resource.resource_type.unwrap_or_default(), resource.physical_resource_id.unwrap_or_default());
                if pair.0 == "AWS::CloudFormation::Stack" && !pair.1.is_empty() && pair.1 != STACK {
                    stacks.push(pair.1.clone());
                }
                resources.push(pair);
            }
        }
        resources.sort();
        resources
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_deployed_twice_upgraded_and_deleted() {
    let tools = Tools::install().await.unwrap();
    let data = tempfile::tempdir().unwrap();
    aws::build(&tools).await.unwrap();
    let aws = Aws::start(&tools, data.path(), Ports::ANY).await.unwrap();
    let cloudformation = Client::new(&clients::at(&aws.environment(), "AWS_ENDPOINT_URL").await);
    let stack = Stack { tools, aws, cloudformation };

    // As infra/deploy does the first time: without an image, and so without a service.
    stack.deploy(&[]).await;
    let first = stack.resources().await;
    let count = |resources: &[(String, String)], kind: &str| resources.iter().filter(|(of, _)| of == kind).count();
    assert_eq!((count(&first, "AWS::ECS::Cluster"), count(&first, "AWS::ECS::Service")), (1, 0));
    assert_eq!((count(&first, "AWS::EC2::Subnet"), count(&first, "AWS::DynamoDB::Table")), (2, 10));
    let state = stack.state().await;
    assert!(state.1.ends_with("_COMPLETE"), "{}", state.1);

    // The same once more is nothing.
    stack.deploy(&[]).await;
    assert_eq!(stack.state().await, state);
    assert_eq!(stack.resources().await, first);

    // With the image comes the service; nothing else is replaced.
    stack.deploy(&[IMAGE]).await;
    let second = stack.resources().await;
    assert_eq!(count(&second, "AWS::ECS::Service"), 1);
    let kept = |kind: &str| {
        let of = |resources: &[(String, String)]| resources.iter().filter(|(of, _)| of == kind).cloned().collect::<Vec<_>>();
        assert_eq!(of(&first), of(&second), "{kind}");
    };
    ["AWS::DynamoDB::Table", "AWS::SQS::Queue", "AWS::SecretsManager::Secret", "AWS::EC2::VPC"].iter().for_each(|kind| kept(kind));

    // Deleted, only what is to be retained is left.
    let mut delete = stack.tools.sam("sam");
    delete.current_dir(root()).args(["delete", "--stack-name", STACK, "--no-prompts", "--region", aws::REGION]);
    run(delete.envs(stack.aws.environment()).stdout(Stdio::null()), "sam delete").await.unwrap();
    assert!(stack.cloudformation.describe_stacks().stack_name(STACK).send().await.is_err());
    let config = clients::at(&stack.aws.environment(), "AWS_ENDPOINT_URL").await;
    let queues = aws_sdk_sqs::Client::new(&config).list_queues().send().await.unwrap().queue_urls.unwrap_or_default();
    assert!(queues.is_empty(), "{queues:?}");
    let groups = aws_sdk_cloudwatchlogs::Client::new(&config).describe_log_groups().send().await.unwrap().log_groups.unwrap_or_default();
    let left: Vec<_> = groups.iter().filter_map(|group| group.log_group_name()).filter(|name| name.contains(STACK)).collect();
    assert!(left.is_empty(), "{left:?}");
    stack.aws.stop().await;
}

//! The commands that maintain what is stored, and signing in, against the local AWS endpoint. The
//! stack has tables and outputs, but no functions.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test panics"
)]

#[path = "maintenance/credentials.rs"]
mod credentials;
#[path = "maintenance/doctor.rs"]
mod doctor;
#[path = "maintenance/move_devices.rs"]
mod move_devices;
mod pushctl;
#[path = "maintenance/reconcile.rs"]
mod reconcile;
#[path = "maintenance/restore.rs"]
mod restore;

use std::collections::HashMap;

use nostr_push_aws::{
    clients::{self, SdkConfig},
    dynamodb::Store,
    sns::Sns,
};
use nostr_push_local::{
    aws::{self, Aws, LocalPorts, STACK},
    tools::Tools,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The local endpoint with the tables of one stack.
struct Endpoint {
    aws: Aws,
    tools: Tools,
    environment: HashMap<String, String>,
    config: SdkConfig,
    data: TempDir,
}

impl Endpoint {
    async fn start() -> Self {
        let tools = Tools::install().await.unwrap();
        let data = tempfile::tempdir().unwrap();
        let aws = Aws::start(&tools, data.path(), LocalPorts::ANY)
            .await
            .unwrap();
        let environment = aws.environment();
        let config = clients::at(&environment, "AWS_ENDPOINT_URL").await;
        let endpoint = Self {
            aws,
            tools,
            environment,
            config,
            data,
        };
        endpoint.add_stack(STACK, STACK).await;
        endpoint
    }

    /// Creates a stack that has only the outputs which pushctl reads, and its tables.
    async fn add_stack(&self, name: &str, prefix: &str) {
        aws::create_tables_with_prefix(&self.tools, &self.environment, prefix)
            .await
            .unwrap();
        let template = json!({
            "Resources": {"Topic": {"Type": "AWS::SNS::Topic"}},
            "Outputs": {
                "TablePrefix": {"Value": prefix},
                "EndpointEventsTopic": {"Value": {"Ref": "Topic"}},
                "DeliveryStatusRole": {"Value": "arn:aws:iam::000000000000:role/status"},
            },
        });
        let client = aws_sdk_cloudformation::Client::new(&self.config);
        let request = client.create_stack().stack_name(name);
        let request = request.template_body(template.to_string());
        request.send().await.unwrap();
        for _ in 0..100 {
            let stacks = client.describe_stacks().stack_name(name).send().await;
            let stacks = stacks.unwrap().stacks.unwrap_or_default();
            if stacks[0].outputs().len() == 3 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        panic!("the stack has no outputs");
    }

    fn store(&self, prefix: &str) -> Store {
        Store::new(&self.config, prefix)
    }

    async fn sns(&self) -> Sns {
        Sns::new(&clients::at(&self.environment, "AWS_ENDPOINT_URL_SNS").await)
    }

    async fn run(&self, arguments: &[&str]) -> (i32, Value, String) {
        pushctl::run(&self.environment, arguments).await
    }

    async fn succeeds(&self, arguments: &[&str]) -> Value {
        pushctl::succeeds(&self.environment, arguments).await
    }
}

//! The tables and the secret of the template, deployed without the functions: a failed first
//! deployment leaves none, and another prefix makes new tables beside the old ones.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test panics"
)]

use std::time::Duration;

use aws_sdk_cloudformation::{Client, types::Parameter};
use nostr_push_aws::clients;
use nostr_push_local::{
    aws::{Aws, LocalPorts, transformed_template},
    tools::Tools,
};
use serde_json::{Value, json};

/// The types of resources that are deployed here.
const KEPT: [&str; 2] = ["AWS::DynamoDB::Table", "AWS::SecretsManager::Secret"];

/// The template with the tables and the secret alone.
async fn template(tools: &Tools) -> Value {
    let mut template = transformed_template(tools, "template.yaml").await.unwrap();
    let resources = template["Resources"].as_object_mut().unwrap();
    resources.retain(|_, resource| KEPT.contains(&resource["Type"].as_str().unwrap()));
    let outputs = template["Outputs"].as_object_mut().unwrap();
    outputs.retain(|name, _| name == "TablePrefix");
    template
}

struct Deployment {
    aws: Aws,
    cloudformation: Client,
    dynamodb: aws_sdk_dynamodb::Client,
}

impl Deployment {
    async fn start(tools: &Tools, data: &std::path::Path) -> Self {
        let aws = Aws::start(tools, data, LocalPorts::ANY).await.unwrap();
        let config = clients::at(&aws.environment(), "AWS_ENDPOINT_URL").await;
        Self {
            aws,
            cloudformation: Client::new(&config),
            dynamodb: aws_sdk_dynamodb::Client::new(&config),
        }
    }

    async fn create(&self, stack: &str, template: &Value) -> String {
        let create = self.cloudformation.create_stack().stack_name(stack);
        let create = create.template_body(template.to_string()).send().await;
        create.unwrap();
        self.wait(stack).await
    }

    async fn update(&self, stack: &str, template: &Value, parameters: &[(&str, &str)]) -> String {
        let update = self.cloudformation.update_stack().stack_name(stack);
        let parameters = parameters.iter().map(|(name, value)| {
            let parameter = Parameter::builder().parameter_key(*name);
            parameter.parameter_value(*value).build()
        });
        let update = update.set_parameters(Some(parameters.collect()));
        let update = update.template_body(template.to_string()).send().await;
        update.unwrap();
        self.wait(stack).await
    }

    /// Waits until the operation has ended. Returns the status.
    async fn wait(&self, stack: &str) -> String {
        for _ in 0..300 {
            let describe = self.cloudformation.describe_stacks().stack_name(stack);
            let stacks = describe.send().await.unwrap().stacks.unwrap();
            let status = stacks[0].stack_status.clone().unwrap();
            if !status.as_str().ends_with("_IN_PROGRESS") {
                return status.as_str().to_owned();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the operation does not end");
    }

    async fn tables(&self) -> Vec<String> {
        let list = self.dynamodb.list_tables().send().await;
        list.unwrap().table_names.unwrap_or_default()
    }

    async fn is_protected(&self, table: &str) -> bool {
        let describe = self.dynamodb.describe_table().table_name(table);
        let table = describe.send().await.unwrap().table.unwrap();
        table.deletion_protection_enabled == Some(true)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_outlive_everything_but_a_failed_first_deployment() {
    let tools = Tools::install().await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let deployment = Deployment::start(&tools, data.path()).await;
    let template = template(&tools).await;

    // A resource that cannot be created makes the first deployment fail. It can be repeated.
    let mut failing = template.clone();
    let tables: Vec<String> = failing["Resources"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    failing["Resources"]["Fails"] = json!({
        "Type": "AWS::CloudFormation::Stack",
        "Properties": {"TemplateURL": "http://127.0.0.1:9/nothing-listens-here"},
        "DependsOn": tables,
    });
    let status = deployment.create("first", &failing).await;
    assert_eq!(status, "ROLLBACK_COMPLETE");
    assert_eq!(deployment.tables().await, Vec::<String>::new());
    assert_eq!(
        deployment.create("second", &template).await,
        "CREATE_COMPLETE"
    );
    assert_eq!(deployment.tables().await.len(), 11);
    assert!(!deployment.is_protected("second-devices").await);

    let listener = ("ListenerImage", "image");
    let status = deployment.update("second", &template, &[listener]).await;
    assert_eq!(status, "UPDATE_COMPLETE");
    assert!(deployment.is_protected("second-devices").await);
    let prefix = ("TablePrefix", "other");
    let status = deployment
        .update("second", &template, &[listener, prefix])
        .await;
    assert_eq!(status, "UPDATE_COMPLETE");
    let tables = deployment.tables().await;
    let of = |prefix: &str| {
        tables
            .iter()
            .filter(|name| name.starts_with(prefix))
            .count()
    };
    assert_eq!((of("second-"), of("other-")), (11, 11));
    deployment.aws.stop().await;
}

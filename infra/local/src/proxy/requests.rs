//! Records which permissions the requests of each program need: IAM action, resource and the
//! condition keys that a policy can name. The mapping follows the Service Authorization Reference
//! (<https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html>)
//! and, where it is silent, the pages named below.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;
use serde_json::Value;

use super::call::{Call, Service};
use crate::aws::{ACCOUNT, REGION};

/// One permission that a request of a program needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct NeededPermission {
    /// The program, as it names itself: `control`, `listener` and so on.
    pub program: String,
    /// The IAM action, such as `dynamodb:GetItem`.
    pub action: String,
    /// The ARN of the resource.
    pub resource: String,
    /// Condition keys and their values.
    pub context: BTreeMap<String, String>,
}

/// The permissions that all requests so far needed. Clones share them.
#[derive(Clone, Default)]
pub struct Requests {
    recorded: Arc<Mutex<Recorded>>,
}

#[derive(Default)]
struct Recorded {
    needed: BTreeSet<NeededPermission>,
    /// Operations whose permissions are not known here.
    unknown: BTreeSet<String>,
}

/// Action, resource and condition keys.
type Authorization = (String, String, BTreeMap<String, String>);

impl Requests {
    /// The permissions that all requests so far needed, each once.
    ///
    /// # Errors
    /// The operations whose permissions are not known here.
    pub fn needed(&self) -> Result<BTreeSet<NeededPermission>, BTreeSet<String>> {
        let recorded = self.recorded();
        if recorded.unknown.is_empty() {
            Ok(recorded.needed.clone())
        } else {
            Err(recorded.unknown.clone())
        }
    }

    pub(super) fn record(&self, call: &Call) {
        let authorizations = authorizations(call);
        let mut recorded = self.recorded();
        if authorizations.is_empty() {
            let operation = format!("{:?} {}", call.service, call.operation);
            recorded.unknown.insert(operation);
        }
        for (action, resource, context) in authorizations {
            recorded.needed.insert(NeededPermission {
                program: call.program.clone(),
                action,
                resource,
                context,
            });
        }
    }

    fn recorded(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the request needs. Empty if its operation is not known here.
fn authorizations(call: &Call) -> Vec<Authorization> {
    match call.service {
        Service::DynamoDb => dynamodb(call),
        Service::Sqs => sqs(call),
        Service::Sns => sns(call),
        Service::SecretsManager => secrets_manager(call),
    }
}

fn dynamodb(call: &Call) -> Vec<Authorization> {
    let allow = |action: &str, table: &str| {
        let resource = arn("dynamodb", &format!("table/{table}"));
        (format!("dynamodb:{action}"), resource, BTreeMap::new())
    };
    let table = call.text("TableName");
    match call.operation.as_str() {
        "GetItem" | "PutItem" | "UpdateItem" | "DeleteItem" => {
            vec![allow(&call.operation, table)]
        }
        "Query" | "Scan" => match call.text("IndexName") {
            "" => vec![allow(&call.operation, table)],
            index => vec![allow(&call.operation, &format!("{table}/index/{index}"))],
        },
        "BatchGetItem" => call
            .names("RequestItems")
            .map(|table| allow("BatchGetItem", table))
            .collect(),
        "TransactWriteItems" => {
            let items = call.list("TransactItems").iter();
            items.filter_map(transaction_item).collect()
        }
        _ => Vec::new(),
    }
}

/// A part of a transaction needs the permission of the same single operation
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis-iam.html>).
fn transaction_item(item: &Value) -> Option<Authorization> {
    let (part, parameters) = item.as_object()?.iter().next()?;
    let action = match part.as_str() {
        "ConditionCheck" => "ConditionCheckItem".to_owned(),
        part => format!("{part}Item"),
    };
    let table = parameters["TableName"].as_str()?;
    let key = "dynamodb:EnclosingOperation".to_owned();
    Some((
        format!("dynamodb:{action}"),
        arn("dynamodb", &format!("table/{table}")),
        BTreeMap::from([(key, "TransactWriteItems".to_owned())]),
    ))
}

/// The batch operations of SQS need the permission of the single one
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-api-permissions-reference.html>).
fn sqs(call: &Call) -> Vec<Authorization> {
    let action = match call.operation.as_str() {
        "SendMessage" | "SendMessageBatch" => "SendMessage",
        "ChangeMessageVisibility" | "ChangeMessageVisibilityBatch" => "ChangeMessageVisibility",
        "ReceiveMessage" => "ReceiveMessage",
        "DeleteMessage" | "DeleteMessageBatch" => "DeleteMessage",
        _ => return Vec::new(),
    };
    let url = call.text("QueueUrl");
    let queue = url.rsplit('/').next().unwrap_or_default();
    vec![(format!("sqs:{action}"), arn("sqs", queue), BTreeMap::new())]
}

/// The Service Authorization Reference lists no resource for the actions of mobile push. SNS has
/// denied such requests with the ARN of the platform application, and with that of the endpoint.
/// So actions on an endpoint need both here.
fn sns(call: &Call) -> Vec<Authorization> {
    let action = format!("sns:{}", call.operation);
    let resources = match call.operation.as_str() {
        "CreatePlatformEndpoint" => vec![call.text("PlatformApplicationArn").to_owned()],
        "GetEndpointAttributes" | "SetEndpointAttributes" | "DeleteEndpoint" => {
            endpoint_and_application(call.text("EndpointArn"))
        }
        "Publish" => endpoint_and_application(call.text("TargetArn")),
        _ => Vec::new(),
    };
    let authorizations = resources.into_iter();
    authorizations
        .map(|resource| (action.clone(), resource, BTreeMap::new()))
        .collect()
}

/// An endpoint, and the platform application that it belongs to.
fn endpoint_and_application(endpoint: &str) -> Vec<String> {
    vec![
        endpoint.to_owned(),
        crate::sns_proxy::application_of(endpoint),
    ]
}

fn secrets_manager(call: &Call) -> Vec<Authorization> {
    if call.operation != "GetSecretValue" {
        return Vec::new();
    }
    let secret = match call.text("SecretId") {
        arn if arn.starts_with("arn:") => arn.to_owned(),
        // An ARN ends with six characters that the name does not have.
        name => arn("secretsmanager", &format!("secret:{name}-000000")),
    };
    let keys = ["VersionId", "VersionStage"].into_iter();
    let keys = keys.filter(|key| !call.text(key).is_empty());
    let context = keys
        .map(|key| {
            let value = call.text(key).to_owned();
            (format!("secretsmanager:{key}"), value)
        })
        .collect();
    vec![("secretsmanager:GetSecretValue".to_owned(), secret, context)]
}

fn arn(service: &str, resource: &str) -> String {
    format!("arn:aws:{service}:{REGION}:{ACCOUNT}:{resource}")
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;
    use serde_json::json;

    use super::*;

    const TABLES: &str = "arn:aws:dynamodb:us-east-1:000000000000:table";
    const ENDPOINT: &str = "arn:aws:sns:us-east-1:000000000000:endpoint/APNS/nostr-push.demo/1";
    const APPLICATION: &str = "arn:aws:sns:us-east-1:000000000000:app/APNS/nostr-push.demo";

    fn call(target: &str, body: &str) -> Call {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-target", target.parse().unwrap());
        let agent = "aws-sdk-rust/1.3.3 api/dynamodb/1.0 os/linux app/control".parse();
        headers.insert("x-amz-user-agent", agent.unwrap());
        Call::parse(headers, body.as_bytes()).unwrap()
    }

    /// The actions and resources that a request needs, one line each.
    fn needs(target: &str, body: &str) -> Vec<String> {
        let authorizations = authorizations(&call(target, body)).into_iter();
        authorizations
            .map(|(action, resource, context)| {
                let context = context.into_iter();
                let context = context.map(|(key, value)| format!(" {key}={value}"));
                format!("{action} {resource}{}", context.collect::<String>())
            })
            .collect()
    }

    #[test]
    fn single_items_need_their_own_action() {
        for operation in ["GetItem", "PutItem", "UpdateItem", "DeleteItem"] {
            let body = json!({"TableName": "t", "Key": {"k": {"S": "1"}}}).to_string();
            assert_eq!(
                needs(&format!("DynamoDB_20120810.{operation}"), &body),
                [format!("dynamodb:{operation} {TABLES}/t")]
            );
        }
    }

    #[test]
    fn queries_of_an_index_need_the_index() {
        for operation in ["Query", "Scan"] {
            let target = format!("DynamoDB_20120810.{operation}");
            assert_eq!(
                needs(&target, r#"{"TableName": "t"}"#),
                [format!("dynamodb:{operation} {TABLES}/t")]
            );
            assert_eq!(
                needs(&target, r#"{"TableName": "t", "IndexName": "i"}"#),
                [format!("dynamodb:{operation} {TABLES}/t/index/i")]
            );
        }
    }

    #[test]
    fn batches_and_transactions_need_each_table() {
        assert_eq!(
            needs(
                "DynamoDB_20120810.BatchGetItem",
                r#"{"RequestItems": {"a": {"Keys": []}, "b": {"Keys": []}}}"#
            ),
            [
                format!("dynamodb:BatchGetItem {TABLES}/a"),
                format!("dynamodb:BatchGetItem {TABLES}/b")
            ]
        );
        let items = json!({"TransactItems": [
            {"Put": {"TableName": "a"}}, {"Update": {"TableName": "b"}},
            {"Delete": {"TableName": "c"}}, {"ConditionCheck": {"TableName": "d"}},
        ]});
        let enclosing = "dynamodb:EnclosingOperation=TransactWriteItems";
        assert_eq!(
            needs("DynamoDB_20120810.TransactWriteItems", &items.to_string()),
            [
                format!("dynamodb:PutItem {TABLES}/a {enclosing}"),
                format!("dynamodb:UpdateItem {TABLES}/b {enclosing}"),
                format!("dynamodb:DeleteItem {TABLES}/c {enclosing}"),
                format!("dynamodb:ConditionCheckItem {TABLES}/d {enclosing}"),
            ]
        );
    }

    #[test]
    fn queues_are_found_by_their_url() {
        for (operation, action) in [
            ("SendMessage", "SendMessage"),
            ("SendMessageBatch", "SendMessage"),
            ("ChangeMessageVisibility", "ChangeMessageVisibility"),
            ("ChangeMessageVisibilityBatch", "ChangeMessageVisibility"),
            ("ReceiveMessage", "ReceiveMessage"),
            ("DeleteMessage", "DeleteMessage"),
            ("DeleteMessageBatch", "DeleteMessage"),
        ] {
            assert_eq!(
                needs(
                    &format!("AmazonSQS.{operation}"),
                    r#"{"QueueUrl": "http://127.0.0.1:4566/000000000000/nostr-push-event"}"#
                ),
                [format!(
                    "sqs:{action} arn:aws:sqs:us-east-1:000000000000:nostr-push-event"
                )]
            );
        }
    }

    #[test]
    fn actions_on_endpoints_need_the_application_too() {
        let form = |action: &str, field: &str, arn: &str| {
            let headers = HeaderMap::new();
            let form = format!("Action={action}&Version=2010-03-31&{field}={arn}");
            let call = Call::parse(headers, form.as_bytes()).unwrap();
            let authorizations = authorizations(&call).into_iter();
            authorizations
                .map(|(action, resource, _)| format!("{action} {resource}"))
                .collect::<Vec<_>>()
        };
        for (action, field) in [
            ("GetEndpointAttributes", "EndpointArn"),
            ("SetEndpointAttributes", "EndpointArn"),
            ("DeleteEndpoint", "EndpointArn"),
            ("Publish", "TargetArn"),
        ] {
            assert_eq!(
                form(action, field, ENDPOINT),
                [
                    format!("sns:{action} {ENDPOINT}"),
                    format!("sns:{action} {APPLICATION}")
                ]
            );
        }
        let create = "CreatePlatformEndpoint";
        assert_eq!(
            form(create, "PlatformApplicationArn", APPLICATION),
            [format!("sns:{create} {APPLICATION}")]
        );
    }

    #[test]
    fn secrets_have_their_version_as_a_condition_key() {
        let target = "secretsmanager.GetSecretValue";
        let arn = "arn:aws:secretsmanager:us-east-1:000000000000:secret:nostr-push-service-key";
        assert_eq!(
            needs(
                target,
                &json!({"SecretId": format!("{arn}-AbCdEf")}).to_string()
            ),
            [format!("secretsmanager:GetSecretValue {arn}-AbCdEf")]
        );
        assert_eq!(
            needs(
                target,
                r#"{"SecretId": "nostr-push-service-key", "VersionId": "1"}"#
            ),
            [format!(
                "secretsmanager:GetSecretValue {arn}-000000 secretsmanager:VersionId=1"
            )]
        );
    }

    #[test]
    fn unknown_operations_are_reported() {
        let requests = Requests::default();
        requests.record(&call(
            "AmazonSQS.SendMessage",
            r#"{"QueueUrl": "http://x/q"}"#,
        ));
        let needed = requests.needed().unwrap();
        assert_eq!(needed.len(), 1);
        assert_eq!(needed.first().unwrap().program, "control");
        requests.record(&call("DynamoDB_20120810.ExecuteStatement", "{}"));
        let unknown = BTreeSet::from(["DynamoDb ExecuteStatement".to_owned()]);
        assert_eq!(requests.needed(), Err(unknown));
    }
}

//! One request to AWS, parsed.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use axum::{body::Bytes, http::HeaderMap};
use serde_json::Value;

/// The services that the stages use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    DynamoDb,
    Sqs,
    Sns,
    SecretsManager,
}

/// One request of a stage.
#[derive(Debug, Clone)]
pub(super) struct Call {
    /// The program that names itself in the request (`app/deliver`). Empty if none does.
    pub(super) program: String,
    pub(super) service: Service,
    /// The name of the operation, such as `PutItem`.
    pub(super) operation: String,
    pub(super) headers: HeaderMap,
    /// The parameters. Those of SNS are a form, whose fields become strings.
    pub(super) parameters: Value,
}

impl Call {
    /// Parses a request of the JSON protocol
    /// (<https://smithy.io/2.0/aws/protocols/aws-json-1_0-protocol.html>), or of the query protocol
    /// of SNS (<https://docs.aws.amazon.com/sns/latest/api/welcome.html>).
    pub(super) fn parse(headers: HeaderMap, body: &[u8]) -> Result<Self> {
        let text = |name: &str| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let program = text("x-amz-user-agent")
            .split(' ')
            .find_map(|part| part.strip_prefix("app/").map(str::to_owned))
            .unwrap_or_default();
        let target = text("x-amz-target");
        let (service, operation, parameters) =
            if let Some((target, operation)) = target.split_once('.') {
                let service = match target {
                    "DynamoDB_20120810" => Service::DynamoDb,
                    "AmazonSQS" => Service::Sqs,
                    "secretsmanager" => Service::SecretsManager,
                    _ => bail!("the proxy does not know the service {target}"),
                };
                let parameters = serde_json::from_slice(body)?;
                (service, operation.to_owned(), parameters)
            } else {
                let form: BTreeMap<_, _> = form_urlencoded::parse(body).into_owned().collect();
                let action = form.get("Action").context("a request names no operation")?;
                (Service::Sns, action.clone(), serde_json::to_value(form)?)
            };
        Ok(Self {
            program,
            service,
            operation,
            headers,
            parameters,
        })
    }

    /// A text parameter. Empty if it is absent.
    pub(super) fn text(&self, name: &str) -> &str {
        self.parameters[name].as_str().unwrap_or_default()
    }

    /// The items of an array. There are none if it is absent.
    pub(super) fn list(&self, name: &str) -> &[Value] {
        self.parameters[name].as_array().map_or(&[], Vec::as_slice)
    }

    /// The names in an object. There are none if it is absent.
    pub(super) fn names(&self, name: &str) -> impl Iterator<Item = &str> {
        let object = self.parameters[name].as_object();
        object.into_iter().flatten().map(|(name, _)| name.as_str())
    }

    /// The body of the request with its current parameters.
    pub(super) fn body_bytes(&self) -> Bytes {
        if self.service == Service::Sns {
            let fields = self.parameters.as_object().into_iter().flatten();
            let fields = fields.map(|(name, value)| (name, value.as_str().unwrap_or_default()));
            let mut form = form_urlencoded::Serializer::new(String::new());
            return form.extend_pairs(fields).finish().into();
        }
        self.parameters.to_string().into()
    }
}

//! What every command has.

use std::{collections::BTreeMap, fmt::Display};

use anyhow::{Context, Result};
use nostr::key::{Keys, PublicKey};
use nostr_push_aws::{
    clients::{self, SdkConfig},
    dynamodb::Store,
    secrets,
    sns::Sns,
};
use nostr_push_core::{app::App, ports::Apps};
use serde_json::Value;

/// The operator of one stack.
pub(crate) struct Operator {
    pub(crate) aws: SdkConfig,
    pub(crate) stack: String,
    pub(crate) store: Store,
    pub(crate) sns: Sns,
    json: bool,
}

impl Operator {
    pub(crate) async fn new(stack: String, json: bool) -> Self {
        let aws = clients::config("pushctl").await;
        let (store, sns) = (Store::new(&aws, &stack), Sns::new(&aws));
        Self {
            aws,
            stack,
            store,
            sns,
            json,
        }
    }

    /// The answer: as JSON, or as text for people.
    pub(crate) fn answer(&self, json: &Value, text: impl Display) {
        if self.json {
            println!("{json}");
        } else {
            println!("{text}");
        }
    }

    /// The outputs and parameters of the deployed stack.
    pub(crate) async fn deployed(&self) -> Result<Deployed> {
        let client = aws_sdk_cloudformation::Client::new(&self.aws);
        let answer = client
            .describe_stacks()
            .stack_name(&self.stack)
            .send()
            .await;
        let answer = answer.with_context(|| {
            format!(
                "stack {} cannot be described: is it deployed in this region?",
                self.stack
            )
        })?;
        let stack = answer
            .stacks
            .unwrap_or_default()
            .into_iter()
            .next()
            .context("no such stack")?;
        let pair = |key: Option<String>, value: Option<String>| Some((key?, value?));
        Ok(Deployed {
            status: stack
                .stack_status
                .map(|status| status.as_str().to_owned())
                .unwrap_or_default(),
            outputs: stack
                .outputs
                .unwrap_or_default()
                .into_iter()
                .filter_map(|o| pair(o.output_key, o.output_value))
                .collect(),
            parameters: stack
                .parameters
                .unwrap_or_default()
                .into_iter()
                .filter_map(|p| pair(p.parameter_key, p.parameter_value))
                .collect(),
        })
    }

    /// The app of this id.
    pub(crate) async fn app(&self, app: &str) -> Result<App> {
        self.store
            .app(app)
            .await?
            .with_context(|| format!("there is no app {app}: pushctl app list"))
    }

    /// The service's key.
    pub(crate) async fn service_key(&self) -> Result<Keys> {
        Ok(secrets::service_key(&self.aws, &self.secret()).await?)
    }

    /// The name of the secret that holds it.
    pub(crate) fn secret(&self) -> String {
        format!("{}-service-key", self.stack)
    }
}

/// What CloudFormation knows of the stack.
pub(crate) struct Deployed {
    pub(crate) status: String,
    pub(crate) outputs: BTreeMap<String, String>,
    pub(crate) parameters: BTreeMap<String, String>,
}

impl Deployed {
    pub(crate) fn output(&self, name: &str) -> Result<&str> {
        self.outputs
            .get(name)
            .map(String::as_str)
            .with_context(|| format!("the stack has no output {name}: deploy this version of it"))
    }

    /// The relays that the listener watches.
    pub(crate) fn relays(&self) -> Vec<String> {
        let relays = self
            .parameters
            .get("Relays")
            .map(String::as_str)
            .unwrap_or_default();
        relays
            .split(',')
            .map(|relay| relay.trim().to_owned())
            .filter(|relay| !relay.is_empty())
            .collect()
    }
}

/// A pubkey as people write it: hex or npub.
pub(crate) fn pubkey(text: &str) -> Result<PublicKey, String> {
    PublicKey::parse(text).map_err(|_| "neither 64 hex characters nor an npub".to_owned())
}

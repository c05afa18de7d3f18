//! What all commands need.

use std::{collections::BTreeMap, fmt::Display};

use anyhow::{Context, Result};
use nostr::key::{Keys, PublicKey};
use nostr_push_aws::{
    clients::SdkConfig,
    dynamodb::Store,
    secrets::{self, StoredKeys},
    sns::Sns,
};
use nostr_push_core::{app::App, ports::Apps};
use serde_json::Value;

use crate::credentials;

/// The stack's output with the prefix of its tables.
const TABLE_PREFIX: &str = "TablePrefix";

/// What a command works with: the stack, its AWS clients, and the form of the output.
pub(crate) struct CommandContext {
    pub(crate) aws: SdkConfig,
    pub(crate) stack: String,
    /// The prefix of the names of the stack's tables.
    pub(crate) prefix: String,
    pub(crate) store: Store,
    pub(crate) sns: Sns,
    json: bool,
}

impl CommandContext {
    /// The context of a deployed stack.
    pub(crate) async fn new(stack: String, json: bool) -> Result<Self> {
        let mut context = Self::of_any_stack(stack, json).await;
        let deployed = context.deployed().await?;
        context.use_tables_of(&deployed)?;
        Ok(context)
    }

    /// A context for a stack that may not be deployed. The tables are those with the stack's name.
    pub(crate) async fn of_any_stack(stack: String, json: bool) -> Self {
        let aws = credentials::config().await;
        let (store, sns) = (Store::new(&aws, &stack), Sns::new(&aws));
        Self {
            aws,
            prefix: stack.clone(),
            stack,
            store,
            sns,
            json,
        }
    }

    /// Uses the tables that the deployed stack names.
    pub(crate) fn use_tables_of(&mut self, deployed: &DeployedStack) -> Result<()> {
        deployed.output(TABLE_PREFIX)?.clone_into(&mut self.prefix);
        self.store = Store::new(&self.aws, &self.prefix);
        Ok(())
    }

    /// Prints the result of a command: `json` with the option `--json`, else `text`.
    pub(crate) fn print(&self, json: &Value, text: impl Display) {
        if self.json {
            println!("{json}");
        } else {
            println!("{text}");
        }
    }

    /// Prints the result of a command as JSON, indented unless `--json` is given.
    pub(crate) fn print_json(&self, json: &Value) {
        self.print(json, format_args!("{json:#}"));
    }

    /// The outputs and parameters of the deployed stack.
    pub(crate) async fn deployed(&self) -> Result<DeployedStack> {
        let client = aws_sdk_cloudformation::Client::new(&self.aws);
        let request = client.describe_stacks().stack_name(&self.stack);
        let response = request.send().await.map_err(|error| {
            let hint = credentials::hint(&error)
                .unwrap_or_else(|| "is it deployed in this region?".to_owned());
            anyhow::Error::new(error)
                .context(format!("cannot read the stack {}: {hint}", self.stack))
        })?;
        let mut stacks = response.stacks.unwrap_or_default().into_iter();
        let stack = stacks.next().context("the stack does not exist")?;
        let pair = |key: Option<String>, value: Option<String>| Some((key?, value?));
        let outputs = stack.outputs.unwrap_or_default().into_iter();
        let parameters = stack.parameters.unwrap_or_default().into_iter();
        Ok(DeployedStack {
            status: stack
                .stack_status
                .map(|status| status.as_str().to_owned())
                .unwrap_or_default(),
            outputs: outputs
                .filter_map(|o| pair(o.output_key, o.output_value))
                .collect(),
            parameters: parameters
                .filter_map(|p| pair(p.parameter_key, p.parameter_value))
                .collect(),
        })
    }

    /// The other deployed stacks of nostr-push in this account and region: the name of each, and
    /// the prefix of its tables.
    pub(crate) async fn other_stacks(&self) -> Result<Vec<(String, String)>> {
        let client = aws_sdk_cloudformation::Client::new(&self.aws);
        let mut stacks = client.describe_stacks().into_paginator().items().send();
        let mut found = Vec::new();
        while let Some(stack) = stacks.next().await {
            let stack = stack.context("cannot list the stacks of the account")?;
            let name = stack.stack_name.unwrap_or_default();
            let outputs = stack.outputs.unwrap_or_default();
            let mut outputs = outputs.into_iter();
            let prefix = outputs.find(|output| output.output_key.as_deref() == Some(TABLE_PREFIX));
            if let Some(prefix) = prefix.and_then(|output| output.output_value)
                && name != self.stack
            {
                found.push((name, prefix));
            }
        }
        Ok(found)
    }

    /// The app with this id.
    pub(crate) async fn app(&self, app: &str) -> Result<App> {
        self.store
            .app(app)
            .await?
            .with_context(|| format!("there is no app {app}, see pushctl app list"))
    }

    /// The service's current key.
    pub(crate) async fn service_key(&self) -> Result<Keys> {
        let stored = self.service_keys(None).await?;
        Ok(stored.keys.current().clone())
    }

    /// The service's keys in this version of the secret, or in the current one.
    pub(crate) async fn service_keys(&self, version: Option<&String>) -> Result<StoredKeys> {
        let version = version.map(String::as_str);
        Ok(secrets::service_keys(&self.aws, &self.secret(), version).await?)
    }

    /// The name of the secret with the service's key.
    pub(crate) fn secret(&self) -> String {
        format!("{}-service-key", self.stack)
    }
}

/// The deployed stack, according to CloudFormation.
pub(crate) struct DeployedStack {
    pub(crate) status: String,
    pub(crate) outputs: BTreeMap<String, String>,
    pub(crate) parameters: BTreeMap<String, String>,
}

impl DeployedStack {
    pub(crate) fn output(&self, name: &str) -> Result<&str> {
        self.outputs
            .get(name)
            .map(String::as_str)
            .with_context(|| format!("the stack has no output {name}: deploy this version"))
    }

    /// A parameter, unless it is empty.
    pub(crate) fn parameter(&self, name: &str) -> Option<&String> {
        self.parameters.get(name).filter(|value| !value.is_empty())
    }

    /// The relays that the listener watches.
    pub(crate) fn relays(&self) -> Vec<String> {
        let relays = self.parameter("Relays").map_or("", String::as_str);
        relays
            .split(',')
            .map(|relay| relay.trim().to_owned())
            .filter(|relay| !relay.is_empty())
            .collect()
    }
}

/// Parses a pubkey: 64 hex characters or an npub.
pub(crate) fn pubkey(text: &str) -> Result<PublicKey, String> {
    PublicKey::parse(text).map_err(|_| "neither 64 hex characters nor an npub".to_owned())
}

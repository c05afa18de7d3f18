//! `pushctl`: the operator's command line. It speaks to AWS with the caller's own credentials, or to the local stack when
//! `AWS_ENDPOINT_URL` and `AWS_ENDPOINT_URL_SNS` name it.
//!
//! - [`reconcile`]: endpoints that no device has

mod reconcile;

use anyhow::Result;
use clap::{Parser, Subcommand};
use nostr_push_aws::clients;

/// Looks after a deployment of nostr-push.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// The name of the stack.
    #[arg(long, default_value = "nostr-push", global = true, env = "NOSTR_PUSH_STACK")]
    stack: String,
    /// Answers in JSON, on one line.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Lists SNS endpoints that no device has, and removes them.
    Reconcile(reconcile::Arguments),
}

#[tokio::main]
async fn main() -> Result<()> {
    let Arguments { command, stack, json } = Arguments::parse();
    let aws = clients::config().await;
    match command {
        Command::Reconcile(arguments) => reconcile::run(&aws, &stack, json, &arguments).await,
    }
}

//! `pushctl`: the operator's command line. It uses the caller's AWS credentials and region. With
//! `AWS_ENDPOINT_URL` and `AWS_ENDPOINT_URL_SNS` it uses the local stack.
//!
//! - [`context`]: what all commands need: the stack, its tables, SNS, and the output
//! - [`app`], [`options`], [`key`], [`announce`]: setting up
//! - [`explain`], [`dry_run`], [`send_test`]: why an owner gets a push, or none
//! - [`owner`]: what owners have and cost, and removing them
//! - [`doctor`], [`dlq`], [`reconcile`], [`restore`]: maintenance
//! - [`credentials`]: the caller's credentials
//! - [`relay`]: requests to a relay
//! - [`cost`]: the cost per month
//!
//! The exit code is 0 on success, 1 if something failed, 2 for wrong arguments, and 3 if `doctor`
//! found a problem.

mod announce;
mod app;
mod context;
mod cost;
mod credentials;
mod dlq;
mod doctor;
mod dry_run;
mod explain;
mod key;
mod options;
mod owner;
mod reconcile;
mod relay;
mod restore;
mod send_test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use context::CommandContext;

/// Manages a deployment of nostr-push.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// The name of the stack.
    #[arg(
        long,
        default_value = "nostr-push",
        global = true,
        env = "NOSTR_PUSH_STACK"
    )]
    stack: String,
    /// Prints the result as one line of JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Manages client applications: platform credentials and options.
    #[command(subcommand)]
    App(app::Command),
    /// Manages the service's key.
    #[command(subcommand)]
    Key(key::Command),
    /// Publishes the service's profile (kind 0), relay list (kind 10002) and the kinds that it
    /// handles (kind 31990, NIP-89).
    Announce(announce::Arguments),
    /// Shows, lists, blocks and removes owners.
    #[command(subcommand)]
    Owner(owner::Command),
    /// Explains who would receive an event, and what would happen at each step. Sends and writes
    /// nothing.
    Explain(explain::Arguments),
    /// Sends a push to all devices of a pubkey.
    SendTest(send_test::Arguments),
    /// Manages dead letters: messages that a function failed to handle.
    #[command(subcommand)]
    Dlq(dlq::Command),
    /// Checks everything from credentials to relays, and prints what to do about each problem.
    Doctor,
    /// Lists SNS endpoints without a device. With `--remove`, deletes them.
    Reconcile(reconcile::Arguments),
    /// Copies rows from other tables, for example from a point-in-time restore, into the stack's
    /// tables. Never overwrites a newer row.
    Restore(restore::Arguments),
    /// Prints the cost per month for a number of users and their activity. Sends no request to AWS.
    Cost(cost::Arguments),
    /// Prints completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    // The AWS SDK and the relay connections must use the same TLS provider: if two are linked and
    // none is installed, the first connection panics.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let Arguments {
        command,
        stack,
        json,
    } = Arguments::parse();
    // Boxed, because the future of all commands is large.
    match Box::pin(run(command, stack, json)).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("pushctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command, stack: String, json: bool) -> Result<ExitCode> {
    let context = async || CommandContext::new(stack.clone(), json).await;
    match command {
        Command::App(command) => app::run(&context().await?, command).await?,
        Command::Key(command) => key::run(&context().await?, &command).await?,
        Command::Announce(arguments) => announce::run(&context().await?, arguments).await?,
        Command::Owner(command) => owner::run(&context().await?, &command).await?,
        Command::Explain(arguments) => {
            Box::pin(explain::run(&context().await?, &arguments)).await?;
        }
        Command::SendTest(arguments) => send_test::run(&context().await?, &arguments).await?,
        Command::Dlq(command) => dlq::run(&context().await?, &command).await?,
        Command::Doctor => {
            return doctor::run(CommandContext::of_any_stack(stack, json).await).await;
        }
        Command::Reconcile(arguments) => reconcile::run(&context().await?, &arguments).await?,
        Command::Restore(arguments) => restore::run(&context().await?, &arguments).await?,
        Command::Cost(arguments) => cost::run(&arguments, json)?,
        Command::Completions { shell } => print_completions(shell),
    }
    Ok(ExitCode::SUCCESS)
}

fn print_completions(shell: clap_complete::Shell) {
    let mut command = Arguments::command();
    clap_complete::generate(shell, &mut command, "pushctl", &mut std::io::stdout());
}

//! `pushctl`: the operator's command line. It speaks to AWS with the caller's own credentials and
//! region, or to the local stack when `AWS_ENDPOINT_URL` and `AWS_ENDPOINT_URL_SNS` name it.
//!
//! - [`operator`]: what every command has: the stack's tables, SNS, its outputs and parameters, and
//!   how it answers
//! - [`app`], [`key`], [`announce`]: setting up
//! - [`owner`], [`explain`], [`send_test`]: why somebody gets a push, or none
//! - [`doctor`], [`dlq`], [`reconcile`]: keeping it well
//! - [`cost`]: what it costs
//!
//! It exits with 0 when all is well, 1 when something failed, 2 when it was called wrongly, and 3
//! when `doctor` found something.

mod announce;
mod app;
mod cost;
mod dlq;
mod doctor;
mod explain;
mod key;
mod operator;
mod owner;
mod reconcile;
mod relay;
mod send_test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use operator::Operator;

/// Looks after a deployment of nostr-push.
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
    /// Answers in JSON, on one line.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Client applications: their platform credentials and options.
    #[command(subcommand)]
    App(app::Command),
    /// The service's key.
    #[command(subcommand)]
    Key(key::Command),
    /// Publishes who the service is: profile (kind 0), relay list (10002) and the kinds it serves
    /// (31990, NIP-89).
    Announce(announce::Arguments),
    /// What is stored of a pubkey.
    #[command(subcommand)]
    Owner(owner::Command),
    /// Who would get an event, and what would happen at each step. Sends nothing and writes
    /// nothing.
    Explain(explain::Arguments),
    /// Sends a push to all devices of a pubkey.
    SendTest(send_test::Arguments),
    /// Dead letters: what no function could handle.
    #[command(subcommand)]
    Dlq(dlq::Command),
    /// Checks everything from credentials to relays, and says what to do.
    Doctor,
    /// Lists SNS endpoints that no device has, and removes them.
    Reconcile(reconcile::Arguments),
    /// What it costs a month, from users and what they do. Asks AWS nothing.
    Cost(cost::Arguments),
    /// Prints completions for a shell.
    Completions {
        /// Which.
        shell: clap_complete::Shell,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    // One TLS provider for the AWS SDK and the relays: two in one process panic at the first
    // connection.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let Arguments {
        command,
        stack,
        json,
    } = Arguments::parse();
    match run(command, stack, json).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("pushctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command, stack: String, json: bool) -> Result<ExitCode> {
    if let Command::Completions { shell } = command {
        clap_complete::generate(
            shell,
            &mut Arguments::command(),
            "pushctl",
            &mut std::io::stdout(),
        );
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Cost(arguments) = command {
        cost::run(&arguments, json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let operator = Operator::new(stack, json).await;
    match command {
        Command::App(command) => app::run(&operator, command).await?,
        Command::Key(command) => key::run(&operator, &command).await?,
        Command::Announce(arguments) => announce::run(&operator, arguments).await?,
        Command::Owner(command) => owner::run(&operator, &command).await?,
        Command::Explain(arguments) => explain::run(&operator, &arguments).await?,
        Command::SendTest(arguments) => send_test::run(&operator, &arguments).await?,
        Command::Dlq(command) => dlq::run(&operator, &command).await?,
        Command::Doctor => return doctor::run(&operator).await,
        Command::Reconcile(arguments) => reconcile::run(&operator, &arguments).await?,
        Command::Completions { .. } | Command::Cost(_) => {}
    }
    Ok(ExitCode::SUCCESS)
}

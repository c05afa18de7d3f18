//! `cargo local`: starts the whole pipeline on this machine.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use nostr::key::Keys;
use nostr_push_core::app::App;
use nostr_push_local::{
    aws::Ports,
    demo,
    stack::{Options, Stack},
    step,
    tools::Tools,
};
use tokio::signal::unix::{SignalKind, signal};

/// The whole pipeline on one machine: the template deployed by `sam deploy` onto a local AWS
/// endpoint, the functions and the listener as the binaries that are deployed, and a relay.
#[derive(Parser)]
#[command(name = "cargo local", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Task>,
    /// Where the HTTP interface listens.
    #[arg(long, default_value = "127.0.0.1:8787", global = true)]
    listen: SocketAddr,
    /// A relay to listen to (repeatable). Default: one is started at `ws://127.0.0.1:7777`.
    #[arg(long, global = true)]
    relay: Vec<String>,
    /// The service's secret key, 64 hex characters or an nsec. Default: the one that the deployment
    /// generated.
    #[arg(
        long,
        global = true,
        hide_env_values = true,
        env = "NOSTR_PUSH_SERVICE_KEY"
    )]
    service_key: Option<String>,
    /// Where all state is kept: a second start finds it.
    #[arg(long, default_value = ".local", global = true)]
    data: PathBuf,
    /// An app besides `demo` (repeatable), with APNs and FCM.
    #[arg(long, global = true)]
    app: Vec<String>,
    /// Seconds without a heartbeat after which an app counts as closed (dialect H). Default: the
    /// service's, 210.
    #[arg(long, global = true)]
    presence_timeout: Option<u64>,
}

#[derive(Subcommand)]
enum Task {
    /// Starts the stack, plays a client on it, prints the push that arrives, and stops.
    Demo,
}

#[tokio::main]
async fn main() -> Result<()> {
    // `cargo local -- demo` reads as well as `cargo local demo`.
    let arguments = Arguments::parse_from(
        std::env::args()
            .enumerate()
            .filter(|(n, word)| *n != 1 || word != "--")
            .map(|(_, word)| word),
    );
    let service_key = match arguments.service_key.as_deref().map(Keys::parse) {
        None => None,
        Some(Ok(keys)) => Some(keys),
        Some(Err(_)) => bail!("--service-key is neither 64 hex characters nor an nsec"),
    };
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    let options = Options {
        listen: arguments.listen.to_string(),
        relays: arguments.relay,
        relay_address: SocketAddr::from(([127, 0, 0, 1], 7777)),
        service_key,
        data: arguments.data,
        ports: Ports::USUAL,
        apps: std::iter::once("demo".to_owned())
            .chain(arguments.app)
            .map(|app| App {
                presence_timeout: arguments.presence_timeout,
                ..App::named(&app)
            })
            .collect(),
    };
    let starting = async {
        let tools = Tools::install().await?;
        Stack::start(&tools, options).await
    };
    let mut stack = tokio::select! {
        stack = starting => stack?,
        _ = interrupt.recv() => bail!("interrupted while starting"),
        _ = terminate.recv() => bail!("terminated while starting"),
    };
    let aws = stack.aws.environment();
    let variables = [
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_SNS",
        "AWS_REGION",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
    ];
    step(&format!(
        "for pushctl: export {}",
        variables
            .map(|name| format!("{name}={}", aws[name]))
            .join(" ")
    ));
    println!("ready: {}", stack.url);
    if let Some(Task::Demo) = arguments.command {
        let relay = stack.relays.first().cloned().unwrap_or_default();
        let played = demo::play(&stack.url, &relay, &stack.service_pubkey).await;
        stack.stop().await;
        return played;
    }
    let ended = tokio::select! {
        ended = stack.ended() => Some(ended),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
    };
    stack.stop().await;
    step("stopped");
    ended.map_or(Ok(()), |ended| bail!("{ended}"))
}

//! `cargo local`: starts the whole pipeline on this machine.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use nostr::key::Keys;
use nostr_push_core::{Seconds, app::App};
use nostr_push_local::{
    aws::LocalPorts,
    demo,
    stack::{Options, Stack},
    step,
    tools::Tools,
};
use tokio::signal::unix::{SignalKind, signal};

/// The variables that make pushctl use the local stack.
const PUSHCTL_VARIABLES: [&str; 5] = [
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_SNS",
    "AWS_REGION",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
];

/// Runs the whole pipeline on this machine. `sam deploy` deploys the template to a local AWS
/// endpoint, the functions and the listener are the binaries that run on AWS, and a relay is
/// started.
#[derive(Parser)]
#[command(name = "cargo local", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Task>,
    /// The address of the HTTP interface.
    #[arg(long, default_value = "127.0.0.1:8787", global = true)]
    listen: SocketAddr,
    /// A relay to watch (repeatable). Default: a relay is started at `ws://127.0.0.1:7777`.
    #[arg(long, global = true)]
    relay: Vec<String>,
    /// The service's secret key, 64 hex characters or an nsec. Default: the key that the deployment
    /// generated.
    #[arg(
        long,
        global = true,
        hide_env_values = true,
        env = "NOSTR_PUSH_SERVICE_KEY"
    )]
    service_key: Option<String>,
    /// The folder with all state. A second start with the same folder continues with that state.
    #[arg(long, default_value = ".local", global = true)]
    data: PathBuf,
    /// An app in addition to `demo`, with APNs and FCM (repeatable).
    #[arg(long, global = true)]
    app: Vec<String>,
    /// The number of seconds that an app counts as open after its last heartbeat (dialect H).
    /// Default: 210.
    #[arg(long, global = true)]
    presence_timeout: Option<u64>,
}

#[derive(Subcommand)]
enum Task {
    /// Starts the stack, acts as a client, prints the push that arrives, and stops.
    Demo,
}

impl Arguments {
    fn options(self) -> Result<Options> {
        let service_key = self
            .service_key
            .map(|key| Keys::parse(&key))
            .transpose()
            .ok()
            .context("--service-key is neither 64 hex characters nor an nsec")?;
        let presence_timeout = self.presence_timeout.map(Seconds);
        let app = |app: String| App {
            presence_timeout,
            ..App::named(&app)
        };
        let apps = std::iter::once("demo".to_owned()).chain(self.app);
        Ok(Options {
            listen: self.listen.to_string(),
            relays: self.relay,
            relay_address: SocketAddr::from(([127, 0, 0, 1], 7777)),
            service_key,
            data: self.data,
            ports: LocalPorts::DEFAULT,
            apps: apps.map(app).collect(),
        })
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    // `cargo local -- demo` means the same as `cargo local demo`.
    let words = std::env::args().enumerate();
    let words = words.filter(|(n, word)| *n != 1 || word != "--");
    let mut arguments = Arguments::parse_from(words.map(|(_, word)| word));
    let command = arguments.command.take();
    let options = arguments.options()?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let starting = async {
        let tools = Tools::install().await?;
        Stack::start(&tools, options).await
    };
    let mut stack = tokio::select! {
        stack = starting => stack?,
        _ = interrupt.recv() => bail!("interrupted while starting"),
        _ = terminate.recv() => bail!("terminated while starting"),
    };
    print_ready(&stack);
    if let Some(Task::Demo) = command {
        let relay = stack.relays.first().cloned().unwrap_or_default();
        let result = demo::play(&stack.url, &relay, &stack.service_pubkey).await;
        stack.stop().await;
        return result;
    }
    let exited = tokio::select! {
        message = stack.wait_for_exit() => Some(message),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
    };
    stack.stop().await;
    step("stopped");
    exited.map_or(Ok(()), |message| bail!("{message}"))
}

fn print_ready(stack: &Stack) {
    let environment = stack.aws.environment();
    let variables = PUSHCTL_VARIABLES.map(|name| format!("{name}={}", environment[name]));
    step(&format!("for pushctl: export {}", variables.join(" ")));
    println!("ready: {}", stack.url);
}

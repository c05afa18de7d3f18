//! Starts the local stack in order, and stops it.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result};
use aws_sdk_cloudwatchlogs::operation::filter_log_events::FilterLogEventsError;
use nostr::key::Keys;
use nostr_push_aws::clients;
use nostr_push_core::app::{App, Platform};
use nostr_push_testkit::free_port;
use nostr_relay_builder::LocalRelay;
use serde_json::Value;
use tokio::{process::Command, sync::Mutex};

use crate::{
    api::{self, Api},
    aws::{self, Aws, LocalPorts, STACK},
    counters::Counters,
    process::Service,
    proxy::ServiceProxy,
    relay, step,
    tools::Tools,
};

/// The functions of the stack.
pub const FUNCTIONS: [&str; 4] = ["control", "matcher", "deliver", "feedback"];

/// The app of events without an `app` tag. `samconfig.toml` has the same.
const HEARTBEAT_APP: &str = "demo";

/// The most bytes of each log in [`Stack::logs`].
const MAX_LOG: usize = 20_000;

/// The options of a stack.
#[derive(Debug, Clone)]
pub struct Options {
    /// The address of the HTTP interface.
    pub listen: String,
    /// The relays to watch. If empty, a relay is started.
    pub relays: Vec<String>,
    /// The address of that relay.
    pub relay_address: SocketAddr,
    /// The service key. `None` means the key that the deployment generated.
    pub service_key: Option<Keys>,
    /// The folder with all state.
    pub data: PathBuf,
    /// The ports of the AWS endpoint, unless some are stored in `data`.
    pub ports: LocalPorts,
    /// The apps, each with APNs and FCM. `demo` should be one of them: it is the heartbeat app.
    pub apps: Vec<App>,
}

impl Options {
    /// A stack with its own relay and free ports, which can run beside others.
    pub fn anywhere(data: &Path, apps: Vec<App>) -> Self {
        Self {
            listen: "127.0.0.1:0".to_owned(),
            relays: Vec::new(),
            relay_address: SocketAddr::from(([127, 0, 0, 1], free_port(0))),
            service_key: None,
            data: data.to_owned(),
            ports: LocalPorts::ANY,
            apps,
        }
    }
}

/// One process of the listener.
pub struct ListenerProcess {
    service: Service,
    health: SocketAddr,
}

impl ListenerProcess {
    async fn start(command: &mut Command, name: &'static str, logs: &Path) -> Result<Self> {
        let health = SocketAddr::from(([127, 0, 0, 1], free_port(0)));
        let command = command.env("HEALTH_ADDRESS", health.to_string());
        let mut service = Service::start(name, command, logs)?;
        let ready = format!("http://{health}/readyz");
        service.wait_until_ready(|| aws::succeeds(&ready)).await?;
        Ok(Self { service, health })
    }

    /// The response to a GET of `/readyz`.
    ///
    /// # Errors
    /// The listener does not respond.
    pub async fn readiness(&self) -> Result<Value> {
        let response = reqwest::get(format!("http://{}/readyz", self.health)).await?;
        Ok(response.json().await?)
    }

    /// Kills the listener (SIGKILL).
    pub async fn kill(&mut self) {
        self.service.kill().await;
    }

    /// Stops the listener, and waits until it has exited.
    pub async fn stop(self) {
        self.service.stop().await;
    }
}

/// The outputs of the deployed stack.
struct Outputs(BTreeMap<String, String>);

impl Outputs {
    fn get(&self, name: &str) -> Result<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .with_context(|| format!("the stack has no output {name}"))
    }
}

/// The running stack.
pub struct Stack {
    /// The URL of the HTTP interface.
    pub url: String,
    /// The relays that the listener watches.
    pub relays: Vec<String>,
    /// The service's pubkey, in hex.
    pub service_pubkey: String,
    /// The local AWS endpoint.
    pub aws: Aws,
    /// The listener. A test may put another one in its place.
    pub listener: ListenerProcess,
    listener_command: Command,
    logs: PathBuf,
    cloudwatch: aws_sdk_cloudwatchlogs::Client,
    _relay: Option<LocalRelay>,
}

impl Stack {
    /// Starts all parts.
    ///
    /// # Errors
    /// The error of the first step that fails.
    pub async fn start(tools: &Tools, options: Options) -> Result<Self> {
        Self::start_behind(tools, options, None).await
    }

    /// As [`start`](Self::start), with a proxy between the service and AWS.
    ///
    /// # Errors
    /// The error of the first step that fails.
    pub async fn start_behind(
        tools: &Tools,
        options: Options,
        proxy: Option<&ServiceProxy>,
    ) -> Result<Self> {
        fs::create_dir_all(&options.data)?;
        let data = options.data.canonicalize()?;
        let listener_binary = aws::build(tools).await?;
        let aws = Aws::start_behind(tools, &data, options.ports, proxy).await?;
        let outputs = Outputs(aws::deploy(tools, &aws).await?);
        let config = clients::at(&aws.environment(), "AWS_ENDPOINT_URL").await;
        let secret = outputs.get("ServiceKeySecret")?;
        let service_pubkey = service_key(&config, secret, options.service_key.as_ref()).await?;
        let apps: Vec<String> = options.apps.iter().map(|app| app.app.clone()).collect();
        put_apps(&aws, options.apps, outputs.get("EndpointEventsTopic")?).await?;
        let (relays, own_relay) = match options.relays {
            relays if relays.is_empty() => {
                let (url, relay) = start_relay(options.relay_address).await?;
                (vec![url], Some(relay))
            }
            relays => (relays, None),
        };

        step("starting the listener");
        let since = clients::now();
        let binary = data.join("listener");
        // A copy, because a build cannot replace a program while it runs.
        fs::copy(listener_binary, &binary)?;
        let mut listener_command = listener_command(&binary, &aws, &outputs, &relays)?;
        let logs = data.join("logs");
        let listener = ListenerProcess::start(&mut listener_command, "listener", &logs).await?;

        let cloudwatch = aws_sdk_cloudwatchlogs::Client::new(&config);
        let groups = FUNCTIONS.map(log_group).to_vec();
        let listener_log = listener.service.log().to_owned();
        let counters = Counters::new(cloudwatch.clone(), groups, since, listener_log);
        let api = Api {
            service_pubkey: service_pubkey.clone(),
            relays: relays.clone(),
            apps,
            sns: aws.sns.clone(),
            counters: Mutex::new(counters),
        };
        let address = api::serve(api, &options.listen).await?;
        Ok(Self {
            url: format!("http://{address}"),
            relays,
            service_pubkey,
            aws,
            listener,
            listener_command,
            logs,
            cloudwatch,
            _relay: own_relay,
        })
    }

    /// Runs the health check of the listener's container. Returns `true` if it succeeds.
    ///
    /// # Errors
    /// The check cannot be run.
    pub async fn check_listener(&self) -> Result<bool> {
        let program = self.listener_command.as_std().get_program();
        let mut check = Command::new(program);
        check
            .arg("check")
            .env("HEALTH_ADDRESS", self.listener.health.to_string())
            .stderr(Stdio::null());
        Ok(check.status().await?.success())
    }

    /// Starts another process of the listener.
    ///
    /// # Errors
    /// The process is not ready in time.
    pub async fn another_listener(&mut self, name: &'static str) -> Result<ListenerProcess> {
        ListenerProcess::start(&mut self.listener_command, name, &self.logs).await
    }

    /// All log lines of one of the [`FUNCTIONS`]. There are none if it was never invoked.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn function_log(&self, function: &str) -> Result<Vec<String>> {
        let request = self
            .cloudwatch
            .filter_log_events()
            .log_group_name(log_group(function));
        let mut pages = request.into_paginator().send();
        let mut lines = Vec::new();
        while let Some(page) = pages.next().await {
            let events = match page {
                Ok(page) => page.events.unwrap_or_default(),
                Err(error)
                    if error
                        .as_service_error()
                        .is_some_and(FilterLogEventsError::is_resource_not_found_exception) =>
                {
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            let messages = events.into_iter().filter_map(|event| event.message);
            for message in messages {
                lines.extend(message.lines().map(str::to_owned));
            }
        }
        Ok(lines)
    }

    /// All log lines of all listeners, including those that have exited.
    ///
    /// # Errors
    /// The logs cannot be read.
    pub fn listener_log(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for file in fs::read_dir(&self.logs)? {
            let path = file?.path();
            if path.to_string_lossy().contains("listener") {
                lines.extend(fs::read_to_string(path)?.lines().map(str::to_owned));
            }
        }
        Ok(lines)
    }

    /// The end of ministack's log and of the listener's log, for a test that failed.
    pub fn logs(&self) -> String {
        let end = |path: &Path| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let start = text.ceil_char_boundary(text.len().saturating_sub(MAX_LOG));
            format!("--- {}\n{}\n", path.display(), &text[start..])
        };
        [self.aws.ministack.log(), self.listener.service.log()]
            .map(end)
            .concat()
    }

    /// Waits until a part exits, and returns a message about it.
    pub async fn wait_for_exit(&mut self) -> String {
        tokio::select! {
            message = self.listener.service.wait_for_exit() => message,
            message = self.aws.wait_for_exit() => message,
        }
    }

    /// Stops all parts. Their state is written.
    pub async fn stop(self) {
        step("stopping the listener");
        self.listener.stop().await;
        step("stopping the local AWS endpoint");
        self.aws.stop().await;
    }
}

fn log_group(function: &str) -> String {
    format!("/aws/lambda/{STACK}-{function}")
}

/// Stores the given service key, if there is one. Returns the pubkey of the stored key.
async fn service_key(
    config: &clients::SdkConfig,
    secret: &str,
    given: Option<&Keys>,
) -> Result<String> {
    let client = aws_sdk_secretsmanager::Client::new(config);
    if let Some(keys) = given {
        step("storing the given service key");
        client
            .put_secret_value()
            .secret_id(secret)
            .secret_string(keys.secret_key().to_secret_hex())
            .send()
            .await?;
    }
    let stored = nostr_push_aws::secrets::service_keys(config, secret, None).await?;
    Ok(stored.keys.current().public_key().to_hex())
}

/// Configures the apps, each with APNs and FCM.
async fn put_apps(aws: &Aws, apps: Vec<App>, topic: &str) -> Result<()> {
    let environment = aws.environment();
    for app in apps {
        step(&format!("configuring app {} (APNs and FCM)", app.app));
        let platforms = [Platform::Apns, Platform::Fcm];
        let app = aws::put_app(&environment, app, &platforms).await?;
        aws::report_endpoint_events(&environment, &app, topic).await?;
    }
    Ok(())
}

/// Starts a relay. Returns its URL as well.
async fn start_relay(address: SocketAddr) -> Result<(String, LocalRelay)> {
    let url = format!("ws://{address}");
    step(&format!("starting a relay at {url}"));
    Ok((url, relay::start(address).await?))
}

fn listener_command(
    binary: &Path,
    aws: &Aws,
    outputs: &Outputs,
    relays: &[String],
) -> Result<Command> {
    let mut command = Command::new(binary);
    command
        .envs(aws.service_environment())
        .env("RELAYS", relays.join(","))
        .env("TABLE_PREFIX", outputs.get("TablePrefix")?)
        .env("CONTROL_QUEUE_URL", outputs.get("ControlQueueUrl")?)
        .env("EVENT_QUEUE_URL", outputs.get("EventQueueUrl")?)
        .env("PROFILE_QUEUE_URL", outputs.get("ProfileQueueUrl")?)
        .env("SERVICE_KEY_SECRET", outputs.get("ServiceKeySecret")?)
        .env("HEARTBEAT_APP", HEARTBEAT_APP)
        // Here, owners' relays are on this machine as well.
        .env("PRIVATE_RELAYS", "true");
    Ok(command)
}

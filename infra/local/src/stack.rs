//! Starts the local stack, in order, and stops it.

use std::{
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
use tokio::{process::Command, sync::Mutex};

use crate::{
    api::{self, Api},
    aws::{self, Aws, Ports, STACK, answers},
    counters::Counters,
    meter::Meter,
    process::Service,
    relay, step,
    tools::Tools,
};

/// What is to be started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the HTTP interface listens.
    pub listen: String,
    /// Relays to listen to; none: one is started.
    pub relays: Vec<String>,
    /// Where the relay that is started listens.
    pub relay_address: std::net::SocketAddr,
    /// The service key; none: the one that the deployment generated.
    pub service_key: Option<Keys>,
    /// Where all state is kept.
    pub data: PathBuf,
    /// The ports of the AWS endpoint, unless `data` knows its own.
    pub ports: Ports,
    /// The apps, each with APNs and FCM. `demo` should be among them: it is the heartbeat app.
    pub apps: Vec<App>,
}

impl Options {
    /// With a relay of its own, on any ports: beside others on the same machine.
    pub fn anywhere(data: &Path, apps: Vec<App>) -> Self {
        Self {
            listen: "127.0.0.1:0".to_owned(),
            relays: Vec::new(),
            relay_address: SocketAddr::from(([127, 0, 0, 1], free_port(0))),
            service_key: None,
            data: data.to_owned(),
            ports: Ports::ANY,
            apps,
        }
    }
}

/// One process of the listener.
pub struct Listening {
    service: Service,
    health: SocketAddr,
}

impl Listening {
    /// What it says at `/readyz`.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn says(&self) -> Result<serde_json::Value> {
        Ok(reqwest::get(format!("http://{}/readyz", self.health))
            .await?
            .json()
            .await?)
    }

    /// Kills it as nothing can be prepared for (SIGKILL).
    pub async fn kill(&mut self) {
        self.service.kill().await;
    }

    /// Asks it to end, and waits.
    pub async fn stop(self) {
        self.service.stop().await;
    }
}

/// The running stack.
pub struct Stack {
    /// `http://…` of the HTTP interface.
    pub url: String,
    /// The relays listened to.
    pub relays: Vec<String>,
    /// The service's pubkey, in hex.
    pub service_pubkey: String,
    /// Where AWS is.
    pub aws: Aws,
    /// The listener that it started, or that a test did in its place.
    pub listener: Listening,
    listener_command: Command,
    logs: PathBuf,
    cloudwatch: aws_sdk_cloudwatchlogs::Client,
    _relay: Option<LocalRelay>,
}

impl Stack {
    /// Starts everything.
    ///
    /// # Errors
    /// The first step that fails.
    pub async fn start(tools: &Tools, options: Options) -> Result<Self> {
        Self::start_metered(tools, options, None).await
    }

    /// Starts everything, with a meter between the service and AWS.
    ///
    /// # Errors
    /// The first step that fails.
    pub async fn start_metered(
        tools: &Tools,
        options: Options,
        meter: Option<&Meter>,
    ) -> Result<Self> {
        let data = &options.data;
        fs::create_dir_all(data)?;
        let data = &data.canonicalize()?;
        let listener_binary = aws::build(tools).await?;
        let aws = Aws::start_metered(tools, data, options.ports, meter).await?;
        let outputs = aws::deploy(tools, &aws).await?;
        let output = |name: &str| {
            outputs
                .get(name)
                .cloned()
                .with_context(|| format!("the stack has no output {name}"))
        };

        let config = clients::at(&aws.environment(), "AWS_ENDPOINT_URL").await;
        let secret = output("ServiceKeySecret")?;
        let service_pubkey = service_key(&config, &secret, options.service_key.as_ref()).await?;
        let apps = options.apps.iter().map(|app| app.app.clone()).collect();
        for app in options.apps {
            step(&format!("configuring app {} (APNs and FCM)", app.app));
            let app =
                aws::put_app(&aws.environment(), app, &[Platform::Apns, Platform::Fcm]).await?;
            aws::tell(&aws.environment(), &app, &output("EndpointEventsTopic")?).await?;
        }

        let mut relays = options.relays;
        let mut own_relay = None;
        if relays.is_empty() {
            step(&format!(
                "starting a relay at ws://{}",
                options.relay_address
            ));
            own_relay = Some(relay::start(options.relay_address).await?);
            relays.push(format!("ws://{}", options.relay_address));
        }

        step("starting the listener");
        let since = i64::try_from(clients::now())?;
        // A copy: the next build could not replace a program that runs.
        let running = data.join("listener");
        fs::copy(listener_binary, &running)?;
        let mut command = Command::new(running);
        command
            .envs(aws.service_environment())
            .env("RELAYS", relays.join(","))
            .env("TABLE_PREFIX", output("TablePrefix")?)
            .env("CONTROL_QUEUE_URL", output("ControlQueueUrl")?)
            .env("EVENT_QUEUE_URL", output("EventQueueUrl")?)
            .env("SERVICE_KEY_SECRET", secret);
        // Owners' relays are on this machine as well.
        command.env("PRIVATE_RELAYS", "true");
        let logs = data.join("logs");
        let listener = start_listener(&mut command, "listener", &logs).await?;
        let log = listener.service.log().to_owned();

        let groups = ["control", "matcher", "deliver", "feedback"]
            .map(|stage| format!("/aws/lambda/{STACK}-{stage}"))
            .to_vec();
        let cloudwatch = aws_sdk_cloudwatchlogs::Client::new(&config);
        let counters = Counters::new(cloudwatch.clone(), groups, since, log);
        let api = Api {
            service_pubkey: service_pubkey.clone(),
            relays: relays.clone(),
            apps,
            sns: aws.sns.clone(),
            counters: Mutex::new(counters),
        };
        let bound = api::serve(api, &options.listen).await?;
        let url = format!("http://{bound}");
        Ok(Self {
            url,
            relays,
            service_pubkey,
            aws,
            listener,
            listener_command: command,
            logs,
            cloudwatch,
            _relay: own_relay,
        })
    }

    /// What the container's health check says of the listener.
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
    /// It is not ready in time.
    pub async fn another_listener(&mut self, name: &'static str) -> Result<Listening> {
        start_listener(&mut self.listener_command, name, &self.logs).await
    }

    /// All lines that a function has written (`control`, `matcher`, `deliver` or `feedback`). None
    /// if it was never called.
    ///
    /// # Errors
    /// They cannot be read.
    pub async fn function_log(&self, function: &str) -> Result<Vec<String>> {
        let group = format!("/aws/lambda/{STACK}-{function}");
        let mut pages = self
            .cloudwatch
            .filter_log_events()
            .log_group_name(group)
            .into_paginator()
            .send();
        let mut lines = Vec::new();
        while let Some(page) = pages.next().await {
            match page {
                Ok(page) => lines.extend(
                    page.events
                        .unwrap_or_default()
                        .into_iter()
                        .filter_map(|event| event.message),
                ),
                Err(error)
                    if error
                        .as_service_error()
                        .is_some_and(FilterLogEventsError::is_resource_not_found_exception) =>
                {
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(lines
            .iter()
            .flat_map(|message| message.lines())
            .map(str::to_owned)
            .collect())
    }

    /// All lines that the listeners have written, those that are gone included.
    ///
    /// # Errors
    /// They cannot be read.
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

    /// The end of each part's log, for a test that failed.
    pub fn logs(&self) -> String {
        let end = |path: &Path| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let from = text.len().saturating_sub(20_000);
            format!(
                "--- {}\n{}\n",
                path.display(),
                &text[text.ceil_char_boundary(from)..]
            )
        };
        [self.aws.ministack.log(), self.listener.service.log()]
            .map(end)
            .concat()
    }

    /// Waits until a part ends by itself.
    pub async fn ended(&mut self) -> String {
        tokio::select! {
            ended = self.listener.service.ended() => ended,
            ended = self.aws.ended() => ended,
        }
    }

    /// Stops everything, the state written.
    pub async fn stop(self) {
        step("stopping the listener");
        self.listener.stop().await;
        step("stopping the local AWS endpoint");
        self.aws.stop().await;
    }
}

async fn start_listener(
    command: &mut Command,
    name: &'static str,
    logs: &Path,
) -> Result<Listening> {
    let health = SocketAddr::from(([127, 0, 0, 1], free_port(0)));
    let mut service = Service::start(
        name,
        command.env("HEALTH_ADDRESS", health.to_string()),
        logs,
    )?;
    service
        .ready(|| answers(format!("http://{health}/readyz")))
        .await?;
    Ok(Listening { service, health })
}

/// Puts the given key into the secret, or takes the one that is there. Answers its pubkey.
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
    Ok(nostr_push_aws::secrets::service_key(config, secret)
        .await?
        .public_key()
        .to_hex())
}

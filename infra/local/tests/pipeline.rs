//! The whole pipeline, from the relay to SNS, with a client that shares no code with the service:
//! nostr-tools. The assertions on the client's side are in `e2e/*.test.mjs`. The modules below test
//! faults of SNS, several listeners, the logs, and an outage of DynamoDB (`rough`). At the end,
//! every request of all programs is evaluated against the program's role (`permissions`).
//! Meanwhile, a client's tests run on another stack, whose endpoint throttles, delays and repeats
//! (`rough`).
//!
//! There are three relays of different implementations: nostr-relay-builder, `@nostr-relay/core`
//! (`e2e/relay.mjs`), and one for this test (`e2e/strict-relay.mjs`). The last one has low limits
//! and counts the violations. There must be none in the whole test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test panics"
)]

#[path = "pipeline/faults.rs"]
mod faults;
#[path = "pipeline/listeners.rs"]
mod listeners;
#[path = "pipeline/logs.rs"]
mod logs;
#[path = "pipeline/permissions.rs"]
mod permissions;
#[path = "pipeline/phone.rs"]
mod phone;
#[path = "pipeline/rough.rs"]
mod rough;

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use aws_sdk_sqs::types::QueueAttributeName;
use nostr::key::Keys;
use nostr_push_aws::clients;
use nostr_push_core::{
    Seconds,
    admission::Admission,
    app::{App, ContentDetail},
};
use nostr_push_local::{
    aws::STACK,
    process::{Service, run},
    proxy::ServiceProxy,
    relay, root,
    stack::{Options, Stack},
    tools::Tools,
};
use nostr_push_testkit::free_port;
use nostr_relay_builder::LocalRelay;
use tempfile::TempDir;
use tokio::{net::TcpStream, sync::OnceCell, time::sleep};

/// The secret key that signs grants for the app `granted`.
const GRANT_SECRET: &str = "2222222222222222222222222222222222222222222222222222222222222222";

/// The client's tests.
const CLIENT_TESTS: [&str; 6] = [
    "pipeline.test.mjs",
    "heartbeats.test.mjs",
    "delivery.test.mjs",
    "payloads.test.mjs",
    "limits.test.mjs",
    "strangers.test.mjs",
];

#[tokio::test(flavor = "multi_thread")]
async fn pushes_reach_clients_of_both_dialects() {
    let mut pipeline = Box::pin(Pipeline::start()).await;
    let result = tests_of_the_whole_pipeline(&mut pipeline).await;
    pipeline.stop(result).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rough_endpoint_loses_nothing() {
    let pipeline = Box::pin(Pipeline::start()).await;
    let result = tests_on_a_rough_endpoint(&pipeline).await;
    pipeline.stop(result).await;
}

async fn tests_of_the_whole_pipeline(pipeline: &mut Pipeline) -> Result<(), String> {
    pipeline.client.run(&CLIENT_TESTS, false).await?;
    let stack = &mut pipeline.stack;
    faults::each_fault_has_its_outcome(stack).await?;
    faults::registration_enables_endpoint(stack).await?;
    listeners::killed_listener_loses_and_repeats_nothing(stack).await?;
    listeners::three_listeners_share_the_relays(stack).await?;
    every_delivery_is_accounted_for(stack).await?;
    logs::no_line_contains_a_secret(stack).await?;
    logs::one_query_follows_an_event(stack).await?;
    rough::outage_loses_nothing(stack, &pipeline.proxy.faults).await?;
    no_limit_was_violated(pipeline.strict).await?;
    let (tools, requests) = (&pipeline.client.tools, &pipeline.proxy.requests);
    permissions::roles_allow_exactly_what_is_needed(tools, &pipeline.stack, requests).await
}

async fn tests_on_a_rough_endpoint(pipeline: &Pipeline) -> Result<(), String> {
    let (stack, faults) = (&pipeline.stack, &pipeline.proxy.faults);
    rough::nothing_is_lost(stack, faults, &pipeline.client).await?;
    no_limit_was_violated(pipeline.strict).await
}

/// A local stack behind a proxy, its relays, and the client's tests.
struct Pipeline {
    stack: Stack,
    proxy: ServiceProxy,
    client: ClientTests,
    /// The relays that are programs of Node.
    node_relays: [Service; 2],
    /// The address of the relay with low limits.
    strict: SocketAddr,
    /// The other relays, which end when they are dropped.
    _relays: [LocalRelay; 2],
    /// The folder of the stack, with its logs.
    data: TempDir,
}

impl Pipeline {
    async fn start() -> Self {
        let tools = Tools::install().await.unwrap();
        let data = tempfile::tempdir().unwrap();
        let addresses = [(); 4].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port(0))));
        // Only owners name the last relay.
        let [first, second, strict, owners] = addresses;
        let local_relays = [
            relay::start(first).await.unwrap(),
            relay::start(owners).await.unwrap(),
        ];
        install_node_packages(&tools).await;
        let node_relays = [
            start_node_relay(&tools, "relay", second, data.path()).await,
            start_node_relay(&tools, "strict-relay", strict, data.path()).await,
        ];
        let relays = [first, second, strict].map(|address| format!("ws://{address}"));
        let options = Options {
            relays: relays.to_vec(),
            service_key: Some(Keys::generate()),
            ..Options::anywhere(data.path(), apps())
        };
        let proxy = ServiceProxy::default();
        let stack = Stack::start_behind(&tools, options, Some(&proxy)).await;
        let stack = stack.unwrap();
        let variables = vec![
            ("NOSTR_PUSH_URL", stack.url.clone()),
            ("NOSTR_PUSH_RELAYS", relays.join(",")),
            ("NOSTR_PUSH_SERVICE", stack.service_pubkey.clone()),
            ("NOSTR_PUSH_OWNERS_RELAY", format!("ws://{owners}")),
            ("NOSTR_PUSH_STRICT_RELAY", format!("ws://{strict}")),
            (
                "NOSTR_PUSH_AWS",
                stack.aws.environment()["AWS_ENDPOINT_URL"].clone(),
            ),
            ("NOSTR_PUSH_GRANT_SECRET", GRANT_SECRET.to_owned()),
        ];
        Self {
            stack,
            proxy,
            client: ClientTests {
                tools,
                variables,
                report: data.path().join("client-tests.log"),
            },
            node_relays,
            strict,
            _relays: local_relays,
            data,
        }
    }

    /// Stops everything. If the test has failed, fails with the end of the logs, and keeps them.
    /// The cause comes last, where CI shows it.
    async fn stop(self, result: Result<(), String>) {
        // Only a failed test needs the logs, which are long.
        let failure = result.map_err(|error| (error, self.stack.logs()));
        self.stack.stop().await;
        for relay in self.node_relays {
            relay.stop().await;
        }
        if let Err((error, logs)) = failure {
            let folder = self.data.keep();
            panic!("{logs}\nall logs are in {}\n{error}", folder.display());
        }
    }
}

/// Installs the packages once for all tests of this file.
async fn install_node_packages(tools: &Tools) {
    static INSTALLED: OnceCell<()> = OnceCell::const_new();
    let install = async || {
        for folder in ["e2e", "iam"] {
            let mut install = tools.npm().unwrap();
            install
                .current_dir(root().join("infra/local").join(folder))
                .args(["ci", "--silent"]);
            run(&mut install, "npm ci").await.unwrap();
        }
    };
    INSTALLED.get_or_init(install).await;
}

/// Starts `e2e/<name>.mjs`.
async fn start_node_relay(
    tools: &Tools,
    name: &'static str,
    address: SocketAddr,
    logs: &Path,
) -> Service {
    let mut node = tools.node().unwrap();
    node.current_dir(root().join("infra/local/e2e"))
        .args([format!("{name}.mjs"), address.port().to_string()]);
    let mut relay = Service::start(name, &mut node, logs).unwrap();
    let is_ready = async || TcpStream::connect(address).await.is_ok();
    relay.wait_until_ready(is_ready).await.unwrap();
    relay
}

/// The client's tests, and the variables that they need.
struct ClientTests {
    tools: Tools,
    variables: Vec<(&'static str, String)>,
    /// The file to which the results are written.
    report: PathBuf,
}

impl ClientTests {
    /// Runs these files one after another, because they compare the service's counters. `rough` if
    /// the endpoint has faults. The error contains the tests that failed.
    async fn run(&self, files: &[&str], rough: bool) -> Result<(), String> {
        let mut test = self.tools.node().unwrap();
        test.current_dir(root().join("infra/local/e2e"))
            .args(["--test", "--test-concurrency=1"])
            .args(["--test-reporter=spec", "--test-reporter-destination=stdout"])
            .arg("--test-reporter=spec")
            .arg(format!(
                "--test-reporter-destination={}",
                self.report.display()
            ))
            .args(files)
            .envs(self.variables.iter().cloned());
        if rough {
            test.env("NOSTR_PUSH_ROUGH", "1");
        }
        let result = run(&mut test, "node --test").await;
        result.map_err(|error| {
            let report = fs::read_to_string(&self.report).unwrap_or_default();
            let failures = report.find("failing tests:").unwrap_or_default();
            format!("{error}\n{}", &report[failures..])
        })
    }
}

/// The apps of the tests. An app counts as open for 30 s: enough for an event to arrive meanwhile,
/// and short enough for a test to wait.
fn apps() -> Vec<App> {
    let presence_timeout = Some(Seconds(30));
    vec![
        // Some tests send hundreds of events to one phone.
        App {
            presence_timeout,
            max_pushes: Some(1_000),
            ..App::named("demo")
        },
        App {
            presence_timeout,
            max_pushes: Some(3),
            max_mentions: Some(5),
            content: ContentDetail::Minimal,
            ..App::named("second")
        },
        App {
            admission: Admission::Pow,
            pow_difficulty: Some(10),
            ..App::named("work")
        },
        App {
            admission: Admission::Grant,
            grant_key: Some(Keys::parse(GRANT_SECRET).unwrap().public_key()),
            ..App::named("granted")
        },
        App {
            admission: Admission::Closed,
            ..App::named("closed")
        },
    ]
}

/// The relay with low limits has counted no violation by any client, and so none by a listener.
async fn no_limit_was_violated(strict_relay: SocketAddr) -> Result<(), String> {
    let response = reqwest::get(format!("http://{strict_relay}/violations")).await;
    let counts: BTreeMap<String, u64> = response.unwrap().json().await.unwrap();
    let is_violation = |name: &str| name != "connections" && name != "largest_message";
    let violated = counts.iter().any(|(name, n)| is_violation(name) && *n > 0);
    if violated {
        Err(format!("counted by the strict relay: {counts:?}"))
    } else {
        Ok(())
    }
}

/// Every delivery that the matcher queued is completed, dropped, or still in the queue.
async fn every_delivery_is_accounted_for(stack: &Stack) -> Result<(), String> {
    let is_end =
        |name: &str| name == "deliver.accepted.completed" || name.starts_with("deliver.dropped.");
    let mut sums = (0, 0, 0);
    let balanced = wait_until("the deliveries add up", async || {
        let waiting = messages_in(stack, "delivery").await;
        let counters = counters(stack).await;
        let ended = counters.iter().filter(|(name, _)| is_end(name));
        sums = (
            counters["matcher.accepted.matched"],
            ended.map(|(_, n)| n).sum(),
            waiting,
        );
        sums.0 == sums.1 + sums.2
    });
    balanced
        .await
        .map_err(|error| format!("{error}: matched, ended, in the queue: {sums:?}"))
}

/// The number of messages in a queue of the stack, including those in flight and those that wait.
async fn messages_in(stack: &Stack, queue: &str) -> u64 {
    let config = clients::at(&stack.aws.environment(), "AWS_ENDPOINT_URL").await;
    let sqs = aws_sdk_sqs::Client::new(&config);
    let request = sqs.get_queue_url().queue_name(format!("{STACK}-{queue}"));
    let url = request.send().await.unwrap().queue_url.unwrap();
    let request = sqs.get_queue_attributes().queue_url(&url);
    let request = request.attribute_names(QueueAttributeName::All);
    let attributes = request.send().await.unwrap().attributes.unwrap();
    attributes
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("ApproximateNumberOf"))
        .filter_map(|(_, n)| n.parse::<u64>().ok())
        .sum()
}

async fn counters(stack: &Stack) -> BTreeMap<String, u64> {
    let response = reqwest::get(format!("{}/counters", stack.url)).await;
    response.unwrap().json().await.unwrap()
}

/// Waits up to ten minutes for a condition. On a rough endpoint a message whose retry cannot be
/// scheduled comes back after the queue's visibility timeout of three minutes.
async fn wait_until(condition: &str, mut holds: impl AsyncFnMut() -> bool) -> Result<(), String> {
    for _ in 0..3_000 {
        if holds().await {
            return Ok(());
        }
        sleep(Duration::from_millis(200)).await;
    }
    Err(format!("not true after ten minutes: {condition}"))
}

fn now() -> Seconds {
    clients::now().to_seconds()
}

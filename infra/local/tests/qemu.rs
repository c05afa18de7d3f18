//! The programs as built for arm64, which is the default architecture, run under QEMU against the
//! local AWS endpoint: an event of each kind passes through all of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test panics"
)]

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nostr::{event::Event, key::Keys};
use nostr_push_aws::{clients, dynamodb::Store};
use nostr_push_core::{
    Seconds,
    app::{App, Platform},
    ports::Devices,
    token_hasher::TokenHasher,
};
use nostr_push_local::{
    aws::{self, Aws, LocalPorts, STACK, without_package_variables},
    demo::publish,
    packages::{has_package, shell_succeeds},
    process::Service,
    relay, report_skipped, root, step,
    tools::Tools,
};
use nostr_push_testkit::{control_event, event, free_port, runtime_api::Bootstrap};
use serde_json::{Value, json};
use tokio::process::Command;

/// QEMU for one program, and the C library of arm64, to which the functions are linked.
const PACKAGES: &str = "qemu-user-static libc6-arm64-cross libgcc-s1-arm64-cross";

/// The folder with that C library.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu";

const TOKEN: &str = "the-token";

#[tokio::test(flavor = "multi_thread")]
async fn programs_for_arm64_push_an_event() {
    if cfg!(target_arch = "aarch64") {
        return report_skipped("the programs run on arm64 in all other tests");
    }
    if !has_qemu().await {
        let missing =
            format!("arm64 programs need QEMU (Debian, as root: apt-get install {PACKAGES})");
        return report_skipped(&missing);
    }
    let tools = Tools::install().await.unwrap();
    let Some(programs) = build().await else {
        return report_skipped("rustup cannot install the targets of arm64");
    };
    let data = tempfile::tempdir().unwrap();
    let world = World::start(&tools, data.path(), programs).await;
    let listener = world.listener(data.path()).await;

    let owner = Keys::generate();
    let mut control = world.function("control").await;
    for (kind, payload) in [
        (3079, json!({"token": TOKEN})),
        (
            3081,
            json!({"filter": {"kinds": [1], "#p": [owner.public_key()]}}),
        ),
    ] {
        let event = world.control_event(&owner, kind, &payload);
        publish(&world.relay, &event).await.unwrap();
        world.handle_next(&mut control, "control").await;
    }

    let p = owner.public_key().to_hex();
    let tags: [&[&str]; 1] = [&["p", &p]];
    // It is newer than the registration, so that it is pushed even if the relay stores it first.
    let created_at = clients::now().to_seconds() + Seconds(1);
    let note = event(&Keys::generate(), 1, created_at.0, &tags, "hello");
    publish(&world.relay, &note).await.unwrap();
    let mut matcher = world.function("matcher").await;
    world.handle_next(&mut matcher, "event").await;
    let mut deliver = world.function("deliver").await;
    world.handle_next(&mut deliver, "delivery").await;
    let pushes = world.aws.sns.pushes(0);
    let recorded: Vec<(&str, &Value)> = pushes
        .iter()
        .map(|push| {
            let message = &push.message["fcmV1Message"]["message"];
            (push.token.as_str(), &message["data"]["event_id"])
        })
        .collect();
    assert_eq!(recorded, [(TOKEN, &json!(note.id))]);

    let mut feedback = world.function("feedback").await;
    assert_eq!(world.aws.sns.disable(TOKEN).await.unwrap(), 1);
    let disabled = json!({"EventType": "EndpointUpdated", "EndpointArn": world.endpoint().await});
    let failed = feedback
        .batch(&[("disabled", disabled.to_string(), 1)])
        .await;
    assert!(failed.unwrap().is_empty());
    assert_eq!(world.endpoint().await, None);

    listener.stop().await;
    world.aws.stop().await;
}

/// The local AWS endpoint with tables, queues, the app `demo` and the service key; and a relay.
struct World {
    aws: Aws,
    programs: PathBuf,
    relay: String,
    service: Keys,
    sqs: aws_sdk_sqs::Client,
    variables: HashMap<String, String>,
}

impl World {
    async fn start(tools: &Tools, data: &Path, programs: PathBuf) -> Self {
        let aws = Aws::start(tools, data, LocalPorts::ANY).await.unwrap();
        let mut variables = aws.environment();
        aws::create_tables(tools, &variables).await.unwrap();
        aws::put_app(&variables, App::named("demo"), &[Platform::Fcm])
            .await
            .unwrap();
        let config = clients::at(&variables, "AWS_ENDPOINT_URL").await;
        let service = Keys::generate();
        aws_sdk_secretsmanager::Client::new(&config)
            .create_secret()
            .name("key")
            .secret_string(service.secret_key().to_secret_hex())
            .send()
            .await
            .unwrap();
        let sqs = aws_sdk_sqs::Client::new(&config);
        for queue in ["control", "event", "delivery", "feedback", "profile"] {
            let created = sqs.create_queue().queue_name(queue).send().await.unwrap();
            let name = format!("{}_QUEUE_URL", queue.to_uppercase());
            variables.insert(name, created.queue_url.unwrap());
        }
        let address = SocketAddr::from(([127, 0, 0, 1], free_port(0)));
        let relay = format!("ws://{address}");
        // The relay serves until the test ends.
        std::mem::forget(relay::start(address).await.unwrap());
        for (name, value) in [
            ("TABLE_PREFIX", STACK),
            ("SERVICE_KEY_SECRET", "key"),
            ("RELAYS", &relay),
        ] {
            variables.insert(name.to_owned(), value.to_owned());
        }
        Self {
            aws,
            programs,
            relay,
            service,
            sqs,
            variables,
        }
    }

    /// The command that runs a program under QEMU.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new("qemu-aarch64-static");
        command
            .args(["-L", LIBRARIES])
            .arg(self.programs.join(name).join("bootstrap"))
            .envs(&self.variables);
        command
    }

    async fn function(&self, name: &str) -> Bootstrap {
        Bootstrap::run(self.program(name)).await.unwrap()
    }

    async fn listener(&self, logs: &Path) -> Service {
        let health = format!("127.0.0.1:{}", free_port(0));
        let mut command = self.program("listener");
        command.env("HEALTH_ADDRESS", &health);
        let mut listener = Service::start("listener", &mut command, logs).unwrap();
        let ready = format!("http://{health}/readyz");
        let is_ready = || async {
            let response = reqwest::get(&ready).await;
            response.is_ok_and(|response| response.status().is_success())
        };
        listener.wait_until_ready(is_ready).await.unwrap();
        listener
    }

    fn control_event(&self, owner: &Keys, kind: u16, payload: &Value) -> Event {
        let now = clients::now().to_seconds();
        let expiration = (now + Seconds::from_days(1)).to_string();
        let tags: [&[&str]; 2] = [&["app", "demo"], &["expiration", &expiration]];
        let (service, payload) = (self.service.public_key(), payload.to_string());
        control_event(owner, service, kind, now.0, &tags, &payload)
    }

    /// Waits for the next message of a queue, and lets the function handle it.
    async fn handle_next(&self, function: &mut Bootstrap, queue: &str) {
        let url = &self.variables[&format!("{}_QUEUE_URL", queue.to_uppercase())];
        let next = async || {
            let request = self.sqs.receive_message().queue_url(url);
            let received = request.wait_time_seconds(1).send().await.unwrap();
            received.messages.unwrap_or_default().pop()
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                if let Some(message) = next().await {
                    return message;
                }
            }
        });
        let message = waited.await.expect("a message arrives within a minute");
        let failed = function.batch(&[("next", message.body.unwrap(), 1)]).await;
        assert!(failed.unwrap().is_empty(), "{queue}");
        let delete = self.sqs.delete_message().queue_url(url);
        let delete = delete.set_receipt_handle(message.receipt_handle);
        delete.send().await.unwrap();
    }

    /// The endpoint in the device's row.
    async fn endpoint(&self) -> Option<String> {
        let config = clients::at(&self.variables, "AWS_ENDPOINT_URL").await;
        let hasher = TokenHasher::new(self.service.secret_key().as_secret_bytes());
        let id = hasher.device("demo", TOKEN);
        let mut devices = Store::new(&config, STACK).devices(&[id]).await.unwrap();
        devices.pop()?.registration?.endpoint_arn
    }
}

/// Builds the programs. Returns their folder, or `None` if a target cannot be installed.
async fn build() -> Option<PathBuf> {
    let targets = "aarch64-unknown-linux-gnu aarch64-unknown-linux-musl";
    if !shell_succeeds(&format!("rustup target add {targets}")).await {
        return None;
    }
    step("building the programs for arm64 (some minutes the first time)");
    let mut build = Command::new(root().join("infra/local/tools/arm64"));
    let output = without_package_variables(&mut build)
        .stderr(Stdio::inherit())
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "infra/local/tools/arm64 failed");
    let output = String::from_utf8(output.stdout).unwrap();
    output.lines().last().map(PathBuf::from)
}

/// Installs QEMU and the C library if they are absent. Returns `true` if they are there.
async fn has_qemu() -> bool {
    has_package("qemu-aarch64-static", PACKAGES).await
        && shell_succeeds(&format!(
            "test -e {LIBRARIES}/lib/libc.so.6 || apt-get install -y -qq {PACKAGES}"
        ))
        .await
}

//! The real bootstrap against the local AWS endpoint, killed between claim and publish, and
//! between publish and completion.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test panics"
)]

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use nostr::key::Keys;
use nostr_push_aws::{clients, dynamodb::Store, sns::Sns};
use nostr_push_core::{
    Seconds,
    app::{App, Platform},
    device::Registration,
    message::{self, Delivery, DeliveryMessage},
    ports::{Devices, Endpoints, EnsuredEndpoint},
};
use nostr_push_local::{
    aws::{self, Aws, LocalPorts, STACK},
    sns_proxy::Fault,
    tools::Tools,
};
use nostr_push_testkit::{
    builders::{self, APP},
    event, owner, registration,
    runtime_api::Bootstrap,
};
use tokio::sync::Notify;

/// The lease of a claim. It is short, so that the test does not wait a minute for the claim of a
/// killed process, but far longer than an attempt takes.
const LEASE: Seconds = Seconds(5);

struct Fixture {
    aws: Aws,
    delivery: Delivery,
}

impl Fixture {
    async fn start(data: &tempfile::TempDir) -> Self {
        let tools = Tools::install().await.unwrap();
        let aws = Aws::start(&tools, data.path(), LocalPorts::ANY)
            .await
            .unwrap();
        let environment = aws.environment();
        aws::create_tables(&tools, &environment).await.unwrap();
        let app = aws::put_app(&environment, App::named(APP), &[Platform::Apns])
            .await
            .unwrap();
        let store = Store::new(&clients::at(&environment, "AWS_ENDPOINT_URL").await, STACK);
        let sns = Sns::new(&clients::at(&environment, "AWS_ENDPOINT_URL_SNS").await);
        let owner = owner(Keys::generate().public_key());
        let EnsuredEndpoint::Ready(arn) = sns
            .ensure(&app.platforms[&Platform::Apns], "the-token")
            .await
            .unwrap()
        else {
            panic!("SNS refused the token")
        };
        let now = clients::now();
        let registration = Registration {
            platform: Platform::Apns,
            registered_at: now.to_seconds(),
            ..registration(&owner, &arn)
        };
        let device = builders::device("hash", registration);
        let roster = builders::roster(&owner, &[&device]);
        assert!(store.commit(Some(&device), Some(&roster)).await.unwrap());
        let delivery = Delivery {
            app: APP.to_owned(),
            recipient: owner.pubkey,
            reasons: vec!["#p".to_owned()],
            relay: "wss://relay".to_owned(),
            received_at: now,
            cut: false,
            mentions: None,
            zapper: None,
            waited: false,
            event: event(&Keys::generate(), 1, now.to_seconds().0, &[], "once"),
        };
        Self { aws, delivery }
    }

    async fn bootstrap(&self) -> Bootstrap {
        let environment = self.aws.environment();
        let mut variables: Vec<(&str, String)> = environment
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone()))
            .collect();
        variables.push(("TABLE_PREFIX", STACK.to_owned()));
        for queue in [
            "DELIVERY_QUEUE_URL",
            "CONTROL_QUEUE_URL",
            "PROFILE_QUEUE_URL",
        ] {
            let url = format!("{}/0/none", environment["AWS_ENDPOINT_URL"]);
            variables.push((queue, url));
        }
        variables.push(("CLAIM_LEASE_SECONDS", LEASE.to_string()));
        Bootstrap::start(env!("CARGO_BIN_EXE_deliver"), variables)
            .await
            .unwrap()
    }

    fn record(&self, receive_count: u32) -> [(&'static str, String, u32); 1] {
        [(
            "message",
            message::encode(&DeliveryMessage::Event(Box::new(self.delivery.clone()))).unwrap(),
            receive_count,
        )]
    }

    /// Kills a process where `fault` holds its publish, and retries with a new process until the
    /// delivery is completed.
    async fn deliver_despite_kill_at(&self, fault: Fault, reached: Arc<Notify>) {
        self.aws.sns.inject(fault);
        let mut first = self.bootstrap().await;
        let record = self.record(1);
        tokio::select! {
            answer = first.batch(&record) => panic!("not held: {answer:?}"),
            () = reached.notified() => {}
        }
        first.process.kill().await.unwrap();

        let mut second = self.bootstrap().await;
        assert_eq!(
            second.batch(&self.record(2)).await.unwrap(),
            ["message"],
            "the killed process still holds the claim"
        );
        let mut receive_count = 2;
        loop {
            receive_count += 1;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let failed = second.batch(&self.record(receive_count)).await.unwrap();
            if failed.is_empty() {
                break;
            }
            assert!(receive_count < 60, "the claim's lease does not end");
        }
        // The claim is completed, so another receipt is dropped as a duplicate.
        let record = self.record(receive_count + 1);
        assert!(second.batch(&record).await.unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn publishes_once_if_killed_between_claim_and_publish() {
    let data = tempfile::tempdir().unwrap();
    let fixture = Fixture::start(&data).await;
    let reached = Arc::new(Notify::new());
    fixture
        .deliver_despite_kill_at(Fault::HoldBefore(Arc::clone(&reached)), reached)
        .await;
    assert_eq!(fixture.aws.sns.pushes(0).len(), 1);
    fixture.aws.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shows_once_if_killed_between_publish_and_completion() {
    let data = tempfile::tempdir().unwrap();
    let fixture = Fixture::start(&data).await;
    let reached = Arc::new(Notify::new());
    fixture
        .deliver_despite_kill_at(Fault::HoldAfter(Arc::clone(&reached)), reached)
        .await;
    let pushes = fixture.aws.sns.pushes(0);
    assert_eq!(pushes.len(), 2, "SNS cannot report what it has accepted");
    let ids: BTreeSet<_> = pushes
        .iter()
        .map(|push| {
            push.attributes["AWS.SNS.MOBILE.APNS.COLLAPSE_ID"]
                .as_str()
                .unwrap()
        })
        .collect();
    assert_eq!(
        ids,
        BTreeSet::from([fixture.delivery.event.id.to_hex().as_str()]),
        "the second notification replaces the first"
    );
    fixture.aws.stop().await;
}

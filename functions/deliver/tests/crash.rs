//! The real bootstrap, killed at the two worst moments, against the local AWS endpoint.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so when something is wrong"
)]

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use nostr::key::Keys;
use nostr_push_aws::{clients, dynamodb::Store, sns::Sns};
use nostr_push_core::{
    app::{App, Platform},
    device::{Device, DeviceId, Registration, Roster, State},
    message::{self, Delivery, Outgoing},
    order::Order,
    owner::Owner,
    ports::{Devices, Endpoints, Ensured, seconds},
};
use nostr_push_local::{
    aws::{self, Aws, Ports, STACK},
    sns_proxy::Fault,
    tools::Tools,
};
use nostr_push_testkit::{event, runtime_api::Bootstrap};
use tokio::sync::Notify;

/// Short, so that the test need not wait a minute for a dead holder; still far longer than an
/// attempt takes.
const LEASE: Duration = Duration::from_secs(5);

struct Fixture {
    aws: Aws,
    delivery: Delivery,
}

impl Fixture {
    async fn start(data: &tempfile::TempDir) -> Self {
        let tools = Tools::install().await.unwrap();
        let aws = Aws::start(&tools, data.path(), Ports::ANY).await.unwrap();
        let environment = aws.environment();
        aws::create_tables(&tools, &environment).await.unwrap();
        let app = aws::put_app(&environment, App::named("demo"), &[Platform::Apns])
            .await
            .unwrap();
        let store = Store::new(&clients::at(&environment, "AWS_ENDPOINT_URL").await, STACK);
        let sns = Sns::new(&clients::at(&environment, "AWS_ENDPOINT_URL_SNS").await);
        let owner = Owner {
            app: "demo".to_owned(),
            pubkey: Keys::generate().public_key(),
        };
        let Ensured::Endpoint(arn) = sns
            .ensure(&app.platforms[&Platform::Apns], "the-token")
            .await
            .unwrap()
        else {
            panic!("refused")
        };
        let now = seconds(clients::now());
        let registration = Registration {
            owner: owner.clone(),
            order: Order::counter(1),
            platform: Platform::Apns,
            by_settings: false,
            registered_at: now,
            max_mentions: None,
            taken_from: None,
            endpoint_arn: Some(arn),
            state: State::Active,
            valid_until: now + 1_000,
        };
        let id = DeviceId {
            app: "demo".to_owned(),
            token_hash: "hash".to_owned(),
        };
        let device = Device {
            id,
            registration: Some(registration),
            removals: std::collections::BTreeMap::new(),
            expires_at: now + 1_000,
            version: 0,
        };
        let roster = Roster {
            devices: BTreeSet::from(["hash".to_owned()]),
            ..Roster::new(owner.clone())
        };
        assert!(store.commit(Some(&device), Some(&roster)).await.unwrap());
        let delivery = Delivery {
            app: "demo".to_owned(),
            recipient: owner.pubkey,
            reasons: vec!["#p".to_owned()],
            relay: "wss://relay".to_owned(),
            received_at: clients::now(),
            cut: false,
            waited: false,
            event: event(&Keys::generate(), 1, now, &[], "once"),
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
        variables.push((
            "DELIVERY_QUEUE_URL",
            format!("{}/0/none", environment["AWS_ENDPOINT_URL"]),
        ));
        variables.push(("CLAIM_LEASE_SECONDS", LEASE.as_secs().to_string()));
        Bootstrap::start(env!("CARGO_BIN_EXE_deliver"), variables)
            .await
            .unwrap()
    }

    fn record(&self, receive_count: u32) -> [(&'static str, String, u32); 1] {
        [(
            "message",
            message::encode(&Outgoing::Event(Box::new(self.delivery.clone()))).unwrap(),
            receive_count,
        )]
    }

    /// Delivers, is killed where `fault` holds it, and delivers again with a new process until the
    /// queue is content.
    async fn killed_at(&self, fault: Fault, reached: Arc<Notify>) {
        self.aws.sns.inject(fault);
        let mut first = self.bootstrap().await;
        let record = self.record(1);
        tokio::select! {
            answer = first.batch(&record) => panic!("it was not held: {answer:?}"),
            () = reached.notified() => {}
        }
        first.process.kill().await.unwrap();

        let mut second = self.bootstrap().await;
        assert_eq!(
            second.batch(&self.record(2)).await.unwrap(),
            ["message"],
            "the dead one's claim still holds"
        );
        let mut tries = 2;
        loop {
            tries += 1;
            tokio::time::sleep(Duration::from_secs(1)).await;
            if second.batch(&self.record(tries)).await.unwrap().is_empty() {
                break;
            }
            assert!(tries < 60, "the claim never comes free");
        }
        // It is done: what comes now is a duplicate.
        assert!(
            second
                .batch(&self.record(tries + 1))
                .await
                .unwrap()
                .is_empty()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_claim_and_publish_it_is_published_once() {
    let data = tempfile::tempdir().unwrap();
    let fixture = Fixture::start(&data).await;
    let reached = Arc::new(Notify::new());
    fixture
        .killed_at(Fault::HoldBefore(Arc::clone(&reached)), reached)
        .await;
    assert_eq!(fixture.aws.sns.pushes(0).len(), 1);
    fixture.aws.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_publish_and_completion_it_shows_once() {
    let data = tempfile::tempdir().unwrap();
    let fixture = Fixture::start(&data).await;
    let reached = Arc::new(Notify::new());
    fixture
        .killed_at(Fault::HoldAfter(Arc::clone(&reached)), reached)
        .await;
    let pushes = fixture.aws.sns.pushes(0);
    assert_eq!(pushes.len(), 2, "SNS cannot be asked what it has accepted");
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
        "the phone replaces the one by the other"
    );
    fixture.aws.stop().await;
}

//! `pushctl app add` moves devices from an earlier platform application.

use std::{collections::HashMap, time::Duration};

use nostr::key::Keys;
use nostr_push_aws::sns::Sns;
use nostr_push_core::{
    Seconds,
    app::{App, Platform, platform_and_name_of},
    device::{Device, DeviceState},
    ports::{Apps, Devices, Endpoints, EnsuredEndpoint},
};
use nostr_push_testkit::{builders::device, owner, registration};
use serde_json::json;

use crate::{Endpoint, STACK};

/// The name of the platform application after the move.
const NAME: &str = "nostr-push.demo";

/// Devices of an app whose platform application has the name that earlier versions gave.
struct Earlier {
    sns: Sns,
    application: String,
}

impl Earlier {
    async fn create(endpoint: &Endpoint, stacks: &[&str]) -> Self {
        let sns = endpoint.sns().await;
        let credentials = HashMap::from([("PlatformCredential".to_owned(), "old".to_owned())]);
        let application = sns.platform_application("demo", Platform::Fcm, None, credentials);
        let application = application.await.unwrap();
        let app = App {
            platforms: [(Platform::Fcm, application.clone())].into(),
            max_pushes: Some(7),
            ..App::named("demo")
        };
        for stack in stacks {
            endpoint.store(stack).put_app(&app).await.unwrap();
        }
        Self { sns, application }
    }

    async fn endpoint(&self, application: &str, token: &str) -> String {
        match self.sns.ensure(application, token).await.unwrap() {
            EnsuredEndpoint::Ready(arn) => arn,
            EnsuredEndpoint::BadToken => panic!("SNS refuses the token"),
        }
    }

    /// Registers a token as control does: an endpoint of the earlier application, and a row.
    async fn register(&self, endpoint: &Endpoint, token: &str, state: DeviceState) -> Device {
        let arn = self.endpoint(&self.application, token).await;
        let owner = owner(Keys::generate().public_key());
        let mut device = device(token, registration(&owner, &arn));
        device.registration.as_mut().unwrap().state = state;
        device.registration.as_mut().unwrap().proven = true;
        assert!(
            endpoint
                .store(STACK)
                .commit(Some(&device), None)
                .await
                .unwrap()
        );
        device.version = 1;
        device
    }
}

async fn row(endpoint: &Endpoint, device: &Device) -> Device {
    let ids = std::slice::from_ref(&device.id);
    let rows = endpoint.store(STACK).devices(ids).await.unwrap();
    rows.into_iter().next().unwrap()
}

fn arn(device: &Device) -> &str {
    let registration = device.registration.as_ref().unwrap();
    registration.endpoint_arn.as_deref().unwrap()
}

/// The arguments of `app add` with a service account.
fn add(endpoint: &Endpoint, grace: &str) -> Vec<String> {
    let account = endpoint.data.path().join("account.json");
    std::fs::write(&account, r#"{"type": "service_account"}"#).unwrap();
    let account = account.to_str().unwrap();
    let arguments = [
        "app",
        "add",
        "demo",
        "--grace",
        grace,
        "--fcm-service-account",
    ];
    arguments
        .iter()
        .chain([&account])
        .map(|&a| a.to_owned())
        .collect()
}

async fn move_devices(endpoint: &Endpoint, grace: &str) -> (serde_json::Value, String) {
    let arguments = add(endpoint, grace);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (code, output, messages) = endpoint.run(&arguments).await;
    assert_eq!(code, 0, "{messages}");
    (output, messages)
}

/// Asserts that the row has an endpoint of the new application with this token.
async fn assert_moved(endpoint: &Endpoint, earlier: &Earlier, device: &Device, enabled: bool) {
    let row = row(endpoint, device).await;
    let new = arn(&row);
    assert_eq!(platform_and_name_of(new), Some((Platform::Fcm, NAME)));
    let state = earlier.sns.endpoint_state(new).await.unwrap().unwrap();
    assert_eq!(state.token, device.id.token_hash);
    assert_eq!(state.enabled, enabled);
    // Everything else in the row is as it was.
    let mut expected = device.clone();
    let registration = expected.registration.as_mut().unwrap();
    registration.endpoint_arn = Some(new.to_owned());
    expected.version = row.version;
    assert_eq!(row, expected);
}

/// Control registers further tokens with its cached row of the app while devices are moved.
#[tokio::test(flavor = "multi_thread")]
async fn devices_are_moved_while_control_registers_others() {
    let endpoint = Endpoint::start().await;
    let earlier = Earlier::create(&endpoint, &[STACK]).await;
    let mut devices = Vec::new();
    for n in 0..30 {
        let token = format!("token-{n}");
        devices.push(
            earlier
                .register(&endpoint, &token, DeviceState::Active)
                .await,
        );
    }
    let disabled = earlier
        .register(&endpoint, "dead", DeviceState::Active)
        .await;
    earlier.sns.disable(arn(&disabled)).await.unwrap();
    let lost = earlier
        .register(&endpoint, "lost", DeviceState::Active)
        .await;
    earlier.sns.delete(arn(&lost)).await.unwrap();
    let gone = earlier.register(&endpoint, "gone", DeviceState::Gone).await;

    let control = async {
        let mut late = Vec::new();
        for n in 0..20 {
            let token = format!("late-{n}");
            late.push(
                earlier
                    .register(&endpoint, &token, DeviceState::Active)
                    .await,
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        late
    };
    let ((app, _), late) = tokio::join!(move_devices(&endpoint, "5"), control);

    assert_eq!(app["moving_from"], json!(null), "{app}");
    assert_eq!(app["max_pushes"], 7, "options are kept");
    for device in devices.iter().chain(&late).chain([&gone]) {
        assert_moved(&endpoint, &earlier, device, true).await;
    }
    assert_moved(&endpoint, &earlier, &disabled, false).await;
    let lost = row(&endpoint, &lost).await.registration.unwrap();
    assert_eq!(lost.state, DeviceState::Gone);
    let state = earlier.sns.platform_application_state(&earlier.application);
    assert_eq!(
        state.await.unwrap(),
        None,
        "the earlier application is deleted"
    );
    let app = endpoint.store(STACK).app("demo").await.unwrap().unwrap();
    assert!(app.moving_from.is_empty());
    let application = &app.platforms[&Platform::Fcm];
    assert_eq!(
        platform_and_name_of(application),
        Some((Platform::Fcm, NAME))
    );
    // A repeat changes nothing.
    let (again, _) = move_devices(&endpoint, "0").await;
    assert_eq!(again["moved"], 0);
    assert_eq!(again["platforms"]["fcm"], json!(application));
    endpoint.aws.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_move_is_continued_without_credentials() {
    let endpoint = Endpoint::start().await;
    let earlier = Earlier::create(&endpoint, &[STACK]).await;
    // The command stopped after it had created the new application, and had moved one device.
    let credentials = HashMap::from([("PlatformCredential".to_owned(), "new".to_owned())]);
    let new = earlier
        .sns
        .platform_application(NAME, Platform::Fcm, None, credentials);
    let new = new.await.unwrap();
    let app = App {
        platforms: [(Platform::Fcm, new.clone())].into(),
        moving_from: vec![earlier.application.clone()],
        ..App::named("demo")
    };
    endpoint.store(STACK).put_app(&app).await.unwrap();
    let mut moved = earlier
        .register(&endpoint, "moved", DeviceState::Active)
        .await;
    let created = earlier
        .register(&endpoint, "created", DeviceState::Active)
        .await;
    let at_new = earlier.endpoint(&new, "moved").await;
    moved.registration.as_mut().unwrap().endpoint_arn = Some(at_new);
    assert!(
        endpoint
            .store(STACK)
            .commit(Some(&moved), None)
            .await
            .unwrap()
    );
    // It stopped again after it had created an endpoint, and before it had changed the row.
    earlier.endpoint(&new, "created").await;

    let continued = endpoint
        .succeeds(&["app", "add", "demo", "--grace", "0"])
        .await;
    assert_eq!(continued["moved"], 1, "{continued}");
    for device in [&moved, &created] {
        assert_moved(&endpoint, &earlier, device, true).await;
    }
    let state = earlier.sns.platform_application_state(&earlier.application);
    assert_eq!(state.await.unwrap(), None);
    endpoint.aws.stop().await;
}

/// The endpoints of the other stack must stay.
#[tokio::test(flavor = "multi_thread")]
async fn application_of_another_stack_is_kept() {
    let endpoint = Endpoint::start().await;
    endpoint.add_stack("other", "other-tables").await;
    let earlier = Earlier::create(&endpoint, &[STACK, "other-tables"]).await;
    let device = earlier
        .register(&endpoint, "shared", DeviceState::Active)
        .await;
    let (app, messages) = move_devices(&endpoint, "0").await;
    assert!(
        messages.contains("because the stack other uses it"),
        "{messages}"
    );
    assert_eq!(app["moved"], 1);
    assert_moved(&endpoint, &earlier, &device, true).await;
    assert!(earlier.sns.is_enabled(arn(&device)).await.unwrap());

    // The last stack deletes it.
    let removed = ["app", "remove", "demo", "--yes", "--stack", "other"];
    endpoint.succeeds(&removed).await;
    let state = earlier.sns.platform_application_state(&earlier.application);
    assert_eq!(state.await.unwrap(), None);
    endpoint.aws.stop().await;
}

/// The process with the lease deletes the endpoint that it has read. So the device is moved only
/// after the lease. From then on no device has the earlier endpoint, and an event about it removes
/// nothing.
#[tokio::test(flavor = "multi_thread")]
async fn endpoint_with_a_lease_is_not_moved() {
    let endpoint = Endpoint::start().await;
    let earlier = Earlier::create(&endpoint, &[STACK]).await;
    let until = nostr_push_aws::clients::now().to_seconds() + Seconds(3);
    let state = DeviceState::Removing { until };
    let device = earlier.register(&endpoint, "leaving", state).await;
    let (_, messages) = move_devices(&endpoint, "1").await;
    assert!(
        messages.contains("0 devices moved, 0 without an endpoint, 1 to look"),
        "{messages}"
    );
    assert_moved(&endpoint, &earlier, &device, true).await;
    let store = endpoint.store(STACK);
    let found = store.device_of_endpoint(arn(&device)).await.unwrap();
    assert_eq!(found, None, "no device has the earlier endpoint");
    endpoint.aws.stop().await;
}

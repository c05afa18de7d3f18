//! The stage as a whole, on ports in memory.

mod admission;
mod bounds;
mod budgets;
mod checks;
mod device_first;
mod dialect_h;
mod dialect_h_replay;
mod dialect_n;
mod dialect_n_replay;
mod owners_relays;
mod payload_options;
mod rotation;
mod slow;
mod tokens;
mod vectors;

use std::collections::{BTreeMap, BTreeSet};

use nostr::{event::Event, key::Keys};
use nostr_push_core::{
    Millis, Seconds,
    app::{App, Platform},
    device::{DeviceState, Registration},
    message::{ControlInput, ControlMessage},
    order::Order,
    owner::Owner,
    subscription::Subscription,
};
use nostr_push_testkit::{control_event, memory::Memory};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use crate::{
    context::{Limits, Receipt},
    handler::ControlStage,
    outcome::{Applied, Failure},
};

const NOW: u64 = 1_800_000_000;

const DAY: u64 = 24 * 60 * 60;

const BOTH_PLATFORMS: [Platform; 2] = [Platform::Apns, Platform::Fcm];

/// The tokens of the random histories.
const TOKENS: [&str; 3] = ["token-a", "token-b", "token-c"];

struct Fixture {
    stage: ControlStage<Memory, Memory>,
    service: Keys,
}

fn app(name: &str, platforms: &[Platform]) -> App {
    App {
        platforms: platforms
            .iter()
            .map(|platform| (*platform, format!("arn:{name}/{}", platform.as_str())))
            .collect(),
        ..App::named(name)
    }
}

fn fixture() -> Fixture {
    let token_prefixes = vec!["com.oxchat.nostr".to_owned()];
    let apps = [
        App {
            token_prefixes: token_prefixes.clone(),
            ..app("demo", &BOTH_PLATFORMS)
        },
        app("other", &[Platform::Fcm]),
        App {
            contacts_only: true,
            token_prefixes,
            ..app("contacts", &BOTH_PLATFORMS)
        },
        App {
            allow_broad_filters: true,
            ..app("broad", &[Platform::Fcm])
        },
        App {
            triggers: vec![json!({"kinds": [1, 1059], "#p": ["$owner"]})],
            ..app("triggered", &[Platform::Fcm])
        },
    ];
    Fixture::new(Keys::generate(), apps)
}

impl Fixture {
    fn new(service: Keys, apps: impl IntoIterator<Item = App>) -> Self {
        let heartbeat_app = Some("demo".to_owned());
        let store = Memory::with_apps(apps);
        Self {
            stage: ControlStage::new(
                service.clone(),
                heartbeat_app,
                Limits::default(),
                store,
                Memory::default(),
            ),
            service,
        }
    }

    fn event(&self, keys: &Keys, kind: u16, at: u64, tags: &[&[&str]], payload: &Value) -> Event {
        let service = self.service.public_key();
        control_event(keys, service, kind, at, tags, &payload.to_string())
    }

    fn demo(&self, keys: &Keys, kind: u16, at: u64, payload: &Value) -> Event {
        self.in_app("demo", keys, kind, at, payload)
    }

    fn in_app(&self, app: &str, keys: &Keys, kind: u16, at: u64, payload: &Value) -> Event {
        let expiration = (NOW + 30 * DAY).to_string();
        let tags: [&[&str]; 2] = [&["app", app], &["expiration", &expiration]];
        self.event(keys, kind, at, &tags, payload)
    }

    async fn handle_at(&self, event: &Event, now: u64) -> Result<Applied, Failure> {
        self.handle_json(&to_raw_value(event).unwrap(), now).await
    }

    async fn handle_json(&self, event: &RawValue, now: u64) -> Result<Applied, Failure> {
        self.receive(event, now, 1).await
    }

    /// Handles an event for the `count`th time.
    async fn receive(&self, event: &RawValue, now: u64, count: u32) -> Result<Applied, Failure> {
        let now = Seconds(now).to_millis();
        let receipt = Receipt { now, count };
        self.stage.handle(&message(event, now), receipt).await
    }

    /// Handles an event after `tries` failures.
    async fn handle_nth(&self, event: &Event, now: u64, tries: u64) -> Result<Applied, Failure> {
        let count = u32::try_from(tries).unwrap() + 1;
        self.receive(&to_raw_value(event).unwrap(), now, count)
            .await
    }

    /// Handles an event that has been received before.
    async fn handle_again(&self, event: &Event, now: u64) -> Result<Applied, Failure> {
        self.handle_nth(event, now, 1).await
    }

    /// The subscriptions in force, without filters that stay in force without a device because
    /// they became dormant a short time ago.
    fn justified_subscriptions(&self) -> BTreeSet<(Owner, String, u64)> {
        let mut subscriptions = self.subscriptions();
        let state = self.stage.store.state();
        subscriptions.retain(|(owner, ..)| {
            let roster = state.rosters.get(owner);
            roster
                .is_some_and(|r| r.active_until > Seconds(NOW + DAY / 2) || r.dormant_at.is_none())
        });
        subscriptions
    }

    /// Registers a device that no history removes, so that the owner's filters are in force.
    async fn register(&self, app: &str, keys: &Keys) {
        let device = json!({"token": format!("device of {}", keys.public_key())});
        self.accept(&self.in_app(app, keys, 3079, NOW, &device))
            .await;
    }

    async fn handle(&self, event: &Event) -> Result<Applied, Failure> {
        self.handle_at(event, NOW).await
    }

    /// Handles an event that must be accepted.
    async fn accept(&self, event: &Event) {
        self.handle(event).await.unwrap();
    }

    async fn reason(&self, event: &Event) -> String {
        match self.handle(event).await {
            Ok(applied) => applied.reason().to_owned(),
            Err(Failure::Refused(refusal)) => refusal.reason().to_owned(),
            Err(Failure::UnknownKey) => "unknown_key".to_owned(),
            Err(Failure::Unavailable(error)) => error.to_string(),
        }
    }

    /// The active registration of a token under an app.
    fn active_registration(&self, app: &str, token: &str) -> Option<Registration> {
        let id = self.stage.hasher.device(app, token);
        let state = self.stage.store.state();
        let registration = state.devices.get(&id)?.registration.clone()?;
        (registration.state == DeviceState::Active).then_some(registration)
    }

    /// The owners of the tokens in force, by app and token.
    fn active(&self, tokens: &[&str]) -> BTreeMap<(String, String), String> {
        let apps: Vec<String> = self.stage.store.state().apps.keys().cloned().collect();
        let mut active = BTreeMap::new();
        for app in apps {
            for token in tokens {
                let registration = self.active_registration(&app, token);
                if let Some(registration) = registration.filter(|r| r.valid_until > Seconds(NOW)) {
                    let owner = registration.owner.pubkey.to_hex();
                    active.insert((app.clone(), (*token).to_owned()), owner);
                }
            }
        }
        active
    }

    /// The subscriptions in force: owner, identity and end.
    fn subscriptions(&self) -> BTreeSet<(Owner, String, u64)> {
        let state = self.stage.store.state();
        state
            .subscriptions
            .values()
            .filter(|row| row.is_active(Seconds(NOW)))
            .map(|row| (row.owner.clone(), row.identity.clone(), row.valid_until.0))
            .collect()
    }

    /// The filters in force that owners sent.
    fn own(&self) -> Vec<Subscription> {
        let state = self.stage.store.state();
        let rows = state.subscriptions.values();
        rows.filter(|row| row.is_active(Seconds(NOW)) && !row.is_derived())
            .cloned()
            .collect()
    }

    /// The index keys of filters that owners sent.
    fn own_keys(&self) -> Vec<String> {
        let state = self.stage.store.state();
        let rows = state.index.values();
        rows.filter(|row| !row.identity.contains(':'))
            .map(|row| row.index_key.to_string())
            .collect()
    }

    /// The index rows: key, owner and identity.
    fn index(&self) -> BTreeSet<(String, Owner, String)> {
        let state = self.stage.store.state();
        let rows = state.index.values();
        rows.map(|row| {
            let key = row.index_key.to_string();
            (key, row.owner.clone(), row.identity.clone())
        })
        .collect()
    }

    /// The index rows of the subscriptions in force.
    fn expected_index(&self) -> BTreeSet<(String, Owner, String)> {
        let state = self.stage.store.state();
        let active = state
            .subscriptions
            .values()
            .filter(|row| row.is_active(Seconds(NOW)));
        active
            .flat_map(|row| row.index_rows().collect::<Vec<_>>())
            .map(|row| (row.index_key.to_string(), row.owner, row.identity))
            .collect()
    }
}

fn message(event: &RawValue, received_at: Millis) -> ControlInput {
    ControlInput::Event(ControlMessage {
        relay: "wss://relay".to_owned(),
        received_at,
        event: event.to_owned(),
    })
}

fn token(n: u64) -> Value {
    json!({"token": format!("token-{n}")})
}

fn mentions(keys: &Keys) -> Value {
    json!({"filter": {"kinds": [1, 7], "#p": [keys.public_key().to_hex()]}})
}

/// The event that wins over all others.
fn latest<'a>(events: impl IntoIterator<Item = &'a Event>) -> Option<&'a Event> {
    events.into_iter().reduce(|a, b| {
        if Order::of(b).supersedes(&Order::of(a)) {
            b
        } else {
            a
        }
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
}

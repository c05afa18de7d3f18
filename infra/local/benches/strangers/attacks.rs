//! The attacks, and the budgets that bound them.

use std::time::Duration;

use anyhow::Result;
use futures_util::{SinkExt, StreamExt, future::join_all};
use nostr::{
    event::Event,
    key::{Keys, PublicKey},
};
use nostr_push_aws::clients;
use nostr_push_core::Seconds;
use nostr_push_local::stack::Stack;
use nostr_push_testkit::{control_event, dialect_h_event, event};
use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_tungstenite::{connect_async, tungstenite::Message};

use crate::user;

/// How long a sender waits after the relay has ended its connection.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(200);

const DAY: f64 = 86_400.0;

/// The bytes a day of all strangers: the default of `StrangerBytesPerSecond`, and the burst.
const STRANGER_BYTES: f64 = 1_024.0 * (DAY + 16_384.0);

/// The bytes a day of all known owners who are not proven: the default of
/// `NewcomerBytesPerSecond`, and the burst.
const NEWCOMER_BYTES: f64 = 2_048.0 * (DAY + 8_192.0);

/// The write units a day of all strangers: a quarter of the default of `NewcomerWriteUnits`.
const STRANGER_WRITES: f64 = 200_000.0;

/// The write units a day of all known owners who are not proven.
const NEWCOMER_WRITES: f64 = 600_000.0;

/// The default of `NewcomerPushes`.
const NEWCOMER_PUSHES: f64 = 50_000.0;

/// The hits a day on what only newcomers subscribe to, and the burst.
const NEWCOMER_HITS: f64 = 0.5 * DAY + 20_000.0;

/// The mentions a day of one proven owner, and the burst.
const MENTIONS: f64 = 1_440.0 + 240.0;

/// What the listener charges for an event besides its JSON.
const EVENT_OVERHEAD: f64 = 512.0;

const STRANGERS: &str = "control events of strangers";
const NEWCOMERS: &str = "control events of newcomers";
const PUSHES: &str = "pushes to newcomers";
/// Not part of the sum: it grows with the number of proven owners.
pub(crate) const PER_OWNER: &str = "mentions of one proven owner";
const NOTHING: &str = "no budget is needed";

/// The filters or owners of one author that a fan-out reaches.
const READERS: u32 = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attack {
    Registrations,
    WaitingFilters,
    Heartbeats,
    Deletions,
    Settings,
    Filters,
    Removals,
    Turns,
    FanOut,
    Mentions,
    ForgedEvents,
}

impl Attack {
    pub(crate) const ALL: [Self; 11] = [
        Self::Registrations,
        Self::WaitingFilters,
        Self::Heartbeats,
        Self::Deletions,
        Self::Settings,
        Self::Filters,
        Self::Removals,
        Self::FanOut,
        Self::Mentions,
        Self::ForgedEvents,
        // The last one, because some of its messages are received again for minutes.
        Self::Turns,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Registrations => "a new key registers a token",
            Self::WaitingFilters => "a new key sends a filter of 60 KB and no device",
            Self::Heartbeats => "heartbeats of keys without a device",
            Self::Deletions => "deletions of 50 filters that never existed",
            Self::Settings => "settings with 900 new channels from a new key with a token",
            Self::Filters => "filters with 1,000 short values from new keys with a token",
            Self::Removals => "removals of tokens that never existed by keys with a token",
            Self::Turns => "deregistration and registration in turns, with a filter of 900 keys",
            Self::FanOut => "a note that 20 new keys with a token subscribe to",
            Self::Mentions => "a note that mentions one proven user",
            Self::ForgedEvents => "forged control events",
        }
    }

    /// The budget that bounds the attack.
    pub(crate) fn budget(self) -> &'static str {
        match self {
            Self::Registrations | Self::WaitingFilters | Self::Heartbeats | Self::Deletions => {
                STRANGERS
            }
            Self::Settings | Self::Filters | Self::Removals | Self::Turns => NEWCOMERS,
            Self::FanOut => PUSHES,
            Self::Mentions => PER_OWNER,
            Self::ForgedEvents => NOTHING,
        }
    }

    /// How many events are metered.
    pub(crate) fn sample(self) -> u32 {
        match self {
            Self::Settings | Self::Filters => 6,
            Self::WaitingFilters => 10,
            Self::FanOut => 5,
            _ => 40,
        }
    }

    /// The most events of a day, given the bytes of one and the write units of control for it.
    pub(crate) fn events_a_day(self, bytes: f64, writes: f64) -> f64 {
        let bytes = bytes + EVENT_OVERHEAD;
        match self.budget() {
            STRANGERS => (STRANGER_BYTES / bytes).min(STRANGER_WRITES / writes.max(1.0)),
            NEWCOMERS => (NEWCOMER_BYTES / bytes).min(NEWCOMER_WRITES / writes.max(1.0)),
            PUSHES => (NEWCOMER_PUSHES / f64::from(READERS)).min(NEWCOMER_HITS),
            PER_OWNER => MENTIONS,
            // Nothing of them leaves the listener.
            _ => 0.0,
        }
    }
}

/// Sends attacks on one connection.
pub(crate) struct Attacker {
    relay: String,
    service: PublicKey,
    /// Keys with a token.
    registered: Vec<Keys>,
    /// Whom the readers follow.
    author: Keys,
    /// A proven owner.
    victim: PublicKey,
}

impl Attacker {
    pub(crate) fn new(relay: &str, service: PublicKey, victim: PublicKey) -> Self {
        Self {
            relay: relay.to_owned(),
            service,
            registered: Vec::new(),
            author: Keys::generate(),
            victim,
        }
    }

    /// Makes what the attack needs and the bill does not count.
    pub(crate) async fn prepare(&mut self, stack: &Stack, attack: Attack) -> Result<()> {
        let events: Vec<Event> = match attack {
            Attack::Settings | Attack::Filters | Attack::Removals | Attack::Turns => {
                self.registered = (0..attack.sample()).map(|_| Keys::generate()).collect();
                let registrations = self.registered.iter();
                let mut events: Vec<Event> =
                    registrations.map(|keys| self.registration(keys)).collect();
                if attack == Attack::Turns {
                    let filter = json!({"filter": {"kinds": [1], "authors": pubkeys(900)}});
                    let filters = self.registered.iter();
                    events.extend(filters.map(|keys| self.filter(keys, 3081, &filter)));
                }
                events
            }
            Attack::FanOut => {
                let filter = json!({"kinds": [1], "authors": [self.author.public_key()]});
                let readers: Vec<Keys> = (0..READERS).map(|_| Keys::generate()).collect();
                let events = readers.iter().flat_map(|keys| {
                    [
                        self.registration(keys),
                        self.filter(keys, 3081, &json!({"filter": filter})),
                    ]
                });
                events.collect()
            }
            _ => return Ok(()),
        };
        self.publish(events).await?;
        user::wait_until_idle(stack).await
    }

    /// The bytes of an event of this attack.
    pub(crate) fn bytes(&self, attack: Attack) -> f64 {
        let json = json!(self.event(attack, 0)).to_string();
        u32::try_from(json.len()).map_or(f64::MAX, f64::from)
    }

    /// Sends `n` events of this attack.
    pub(crate) async fn send(&self, attack: Attack, n: u32) -> Result<()> {
        self.publish((0..n).map(|n| self.event(attack, n)).collect())
            .await
    }

    async fn publish(&self, events: Vec<Event>) -> Result<()> {
        let (mut socket, _) = connect_async(&self.relay).await?;
        for event in &events {
            let message = json!(["EVENT", event]).to_string();
            socket.send(Message::text(message)).await?;
        }
        for _ in &events {
            socket.next().await.transpose()?;
        }
        Ok(())
    }

    fn event(&self, attack: Attack, n: u32) -> Event {
        let keys = Keys::generate();
        let now = clients::now().to_seconds();
        let registered = || {
            // Two events in turn are of the same key.
            let number = usize::try_from(n / 2).unwrap_or_default();
            let known = self.registered.get(number % self.registered.len().max(1));
            known.cloned().unwrap_or_else(Keys::generate)
        };
        match attack {
            Attack::Registrations => self.registration(&keys),
            Attack::WaitingFilters => {
                let filter = json!({"kinds": [1], "authors": pubkeys(900)});
                self.filter(&keys, 3081, &json!({"filter": filter}))
            }
            Attack::Heartbeats => {
                let payload = json!({"online": 1}).to_string();
                dialect_h_event(&keys, self.service, now.0, &[], &payload)
            }
            Attack::Deletions => {
                let filters: Vec<Value> = pubkeys(50)
                    .into_iter()
                    .map(|author| json!({"authors": [author]}))
                    .collect();
                self.filter(&keys, 3082, &json!({"filters": filters}))
            }
            Attack::Settings => {
                let settings = json!({"deviceId": "", "kinds": [1], "#e": pubkeys(900)});
                let payload = settings.to_string();
                dialect_h_event(&registered(), self.service, now.0, &[], &payload)
            }
            Attack::Filters => {
                let values: Vec<String> = (0..1_000).map(|i| format!("{n:x}-{i:x}")).collect();
                let filter = json!({"kinds": [1], "#t": values});
                self.filter(&registered(), 3081, &json!({"filter": filter}))
            }
            Attack::FanOut => event(&self.author, 1, now.0, &[], &format!("{n}")),
            Attack::Removals => {
                let token = Keys::generate().public_key().to_hex();
                self.filter(&registered(), 3080, &json!({"token": token}))
            }
            Attack::Turns => self.turn(&registered(), n),
            Attack::Mentions => {
                let victim = self.victim.to_hex();
                event(&keys, 1, now.0, &[&["p", &victim]], &format!("{n}"))
            }
            Attack::ForgedEvents => {
                let mut forged = self.registration(&keys);
                forged.sig = self.registration(&Keys::generate()).sig;
                forged
            }
        }
    }

    /// A deregistration or a registration, in turns.
    fn turn(&self, keys: &Keys, n: u32) -> Event {
        if n.is_multiple_of(2) {
            self.filter(keys, 3080, &json!({"token": ""}))
        } else {
            self.registration(keys)
        }
    }

    fn registration(&self, keys: &Keys) -> Event {
        let token = Keys::generate().public_key().to_hex();
        self.filter(keys, 3079, &json!({"token": token}))
    }

    /// A control event of dialect N.
    fn filter(&self, keys: &Keys, kind: u16, payload: &Value) -> Event {
        let now = clients::now().to_seconds();
        let expiration = (now + Seconds::from_days(30)).to_string();
        let tags: [&[&str]; 2] = [&["app", "demo"], &["expiration", &expiration]];
        control_event(keys, self.service, kind, now.0, &tags, &payload.to_string())
    }
}

fn pubkeys(n: usize) -> Vec<String> {
    let pubkey = || Keys::generate().public_key().to_hex();
    (0..n).map(|_| pubkey()).collect()
}

/// Sends all attacks in turn, in several tasks, as fast as the relay accepts them. Never returns.
pub(crate) async fn flood(relay: String, service: PublicKey, victim: PublicKey, senders: usize) {
    let sender = || async {
        loop {
            if let Err(error) = send_all(&relay, service, victim).await {
                eprintln!("the flood continues after: {error:#}");
                sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    };
    let never: Vec<()> = join_all((0..senders).map(|_| sender())).await;
    drop(never);
}

async fn send_all(relay: &str, service: PublicKey, victim: PublicKey) -> Result<()> {
    let mut attacker = Attacker::new(relay, service, victim);
    attacker.registered = (0..6).map(|_| Keys::generate()).collect();
    let registrations = attacker.registered.iter();
    let registrations = registrations.map(|keys| attacker.registration(keys));
    attacker.publish(registrations.collect()).await?;
    for attack in Attack::ALL {
        attacker.send(attack, attack.sample()).await?;
    }
    Ok(())
}

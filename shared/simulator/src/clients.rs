//! Clients: people with phones, who register, subscribe, mute, switch accounts and lose their
//! phones.
//!
//! Two people share a household and its phones, so a token changes owners when one of them signs in
//! where the other was signed in. Clocks of clients are off by up to some minutes.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use nostr::{
    event::Event,
    key::Keys,
    nips::{nip04, nip44},
};
use nostr_push_core::{Millis, service_keys::ServiceKeys, token_hasher::canonical_token};
use nostr_push_testkit::event;
use serde_json::{Value, json};

use crate::{
    authors::{People, TOPIC},
    filters::SimFilter,
    oracle::{Action, What, check::order_of},
    random::Random,
    relays::Relays,
    sns,
    world::{APP_H, APP_N, World},
};

/// A person with a client app.
pub struct Client {
    /// The name in the story.
    pub name: String,
    /// The keys.
    pub keys: Keys,
    /// Seconds by which the clock is off.
    pub skew: i64,
    /// The source of the client's decisions.
    pub random: Random,
    /// The phones of the household.
    pub phones: Arc<Phones>,
    /// The world.
    pub world: Arc<World>,
    /// The relays.
    pub relays: Arc<Relays>,
    /// Everybody else.
    pub people: Arc<People>,
}

/// The phones of a household: the token of the app on each.
pub struct Phones {
    household: String,
    random: Random,
    tokens: Mutex<(u64, Vec<String>)>,
}

impl Phones {
    /// Phones with a fresh app.
    pub fn new(world: &World, household: &str, count: usize) -> Self {
        let phones = Self {
            household: household.to_owned(),
            random: world.random.fork(),
            tokens: Mutex::default(),
        };
        let tokens = (0..count).map(|_| phones.fresh(world)).collect();
        phones.tokens().1 = tokens;
        phones
    }

    /// The tokens now.
    pub fn all(&self) -> Vec<String> {
        self.tokens().1.clone()
    }

    /// A new token. APNs and FCM tokens alternate.
    fn fresh(&self, world: &World) -> String {
        let mut tokens = self.tokens();
        tokens.0 += 1;
        let (household, number) = (&self.household, tokens.0);
        let token = if number.is_multiple_of(2) {
            nostr_push_core::hex::encode(&self.random.bytes::<32>())
        } else {
            format!("{household}{number}:fcm")
        };
        let name = format!("phone {household}{number}");
        let hasher = ServiceKeys::from(world.service.clone()).token_hasher();
        for app in [APP_N, APP_H] {
            let hash = hasher.device(app, &canonical_token(&token)).token_hash;
            world.trace.name(hash, name.clone());
        }
        world.trace.name(&token, name);
        token
    }

    fn tokens(&self) -> std::sync::MutexGuard<'_, (u64, Vec<String>)> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    /// The time that the client's clock shows, in seconds.
    fn clock(&self) -> u64 {
        self.world.seconds().0.saturating_add_signed(self.skew)
    }

    /// Publishes a control event. `valid_for` is in seconds.
    fn act(&self, app: &'static str, what: What, valid_for: u64) {
        let (world, at) = (&self.world, self.clock());
        let expiration = (at + valid_for).to_string();
        let (kind, payload) = self.payload(&what);
        let service = world.service.public_key();
        let (secret, text) = (self.keys.secret_key(), payload.to_string());
        let content = if app == APP_H {
            nip04::encrypt_with_iv(secret, &service, text, self.random.bytes()).ok()
        } else {
            let nonce = nip44::Nonce::V2(self.random.bytes());
            nip44::encrypt_with_nonce(secret, &service, text, nonce).ok()
        };
        let Some(content) = content else { return };
        let service = service.to_hex();
        let tags: [&[&str]; 3] = [
            &["p", &service],
            &["app", app],
            &["expiration", &expiration],
        ];
        let signed = event(&self.keys, kind, at, &tags, &content);
        let id = signed.id.to_hex();
        let words = self.words(&what);
        world.trace.name(&id, format!("\"{} {words}\"", self.name));
        world.tell(|| format!("{} {words} (clock off by {} s)", self.name, self.skew));
        let now = world.now();
        let end = if app == APP_H {
            at + 90 * 86_400
        } else {
            at + valid_for
        };
        world.oracle().acted(Action {
            who: (app, self.keys.public_key()),
            order: order_of(&signed),
            event: id,
            sent_at: now,
            valid_until: Millis(end * 1000),
            is_refused: false,
            accepted_at: None,
            settled_at: None,
            what,
        });
        self.relays.publish(&signed);
    }

    /// The kind and the plaintext of an action.
    fn payload(&self, what: &What) -> (u16, Value) {
        let reversed = self.random.happens(500_000);
        match what {
            What::Register(token) => (3079, json!({"token": token})),
            What::Remove(token) => (3080, json!({"token": token})),
            What::RemoveAll => (3080, json!({})),
            What::Subscribe(filter) => (3081, json!({"filter": filter.to_json(reversed)})),
            What::Unsubscribe(filter) => (3082, json!({"filters": [filter.to_json(reversed)]})),
            What::Settings(Some(token), kinds) => {
                (22456, json!({"deviceId": token, "kinds": kinds}))
            }
            What::Settings(None, _) => (22456, json!({"online": 0, "deviceId": ""})),
            What::Presence(online) => (22456, json!({"online": u8::from(*online)})),
        }
    }

    fn words(&self, what: &What) -> String {
        let name = |token: &String| self.world.trace.name_of(token);
        match what {
            What::Register(token) => format!("registers {}", name(token)),
            What::Remove(token) => format!("removes {}", name(token)),
            What::RemoveAll => "removes all phones".to_owned(),
            What::Subscribe(filter) => format!("subscribes to {}", self.filter_words(filter)),
            What::Unsubscribe(filter) => {
                format!("unsubscribes from {}", self.filter_words(filter))
            }
            What::Settings(Some(token), kinds) => {
                format!("sends settings with {} and kinds {kinds:?}", name(token))
            }
            What::Settings(None, _) => "logs out".to_owned(),
            What::Presence(true) => "sends a heartbeat".to_owned(),
            What::Presence(false) => "goes offline".to_owned(),
        }
    }

    fn filter_words(&self, filter: &SimFilter) -> String {
        let name = |text: &String| self.world.trace.name_of(text);
        let names = |set: &BTreeSet<String>| set.iter().map(name).collect::<Vec<_>>().join(", ");
        let mut words = format!("kinds {:?}", filter.kinds);
        for (label, set) in [
            ("by", &filter.authors),
            ("to", &filter.p),
            ("about", &filter.t),
        ] {
            if !set.is_empty() {
                words = format!("{words} {label} {}", names(set));
            }
        }
        words
    }

    /// The filters that this client may use.
    fn filters(&self) -> Vec<SimFilter> {
        let me: BTreeSet<String> = [self.keys.public_key().to_hex()].into();
        let author = |n: usize| {
            self.people
                .authors
                .get(n)
                .map(|keys| keys.public_key().to_hex())
        };
        vec![
            SimFilter {
                kinds: [1, 7].into(),
                p: me,
                ..SimFilter::default()
            },
            SimFilter {
                kinds: [4, 1059].into(),
                ..SimFilter::default()
            },
            SimFilter {
                kinds: [1].into(),
                authors: author(0).into_iter().chain(author(1)).collect(),
                ..SimFilter::default()
            },
            SimFilter {
                authors: author(2).into_iter().collect(),
                ..SimFilter::default()
            },
            SimFilter {
                kinds: [1].into(),
                t: [TOPIC.to_owned()].into(),
                ..SimFilter::default()
            },
        ]
    }

    fn register(&self, token: String) {
        // Some registrations end soon.
        let valid_for = self.random.uneven(1_800, 30 * 86_400);
        self.act(APP_N, What::Register(token), valid_for + 900);
    }

    /// Publishes a mute list, and sometimes another soon after.
    async fn mute(&self) {
        self.publish_mute_list();
        while self.random.happens(300_000) {
            let time = self.random.uneven_millis(500, 600_000);
            self.world.sleep(time).await;
            self.publish_mute_list();
        }
    }

    fn publish_mute_list(&self) {
        let world = &self.world;
        let muted: Vec<String> = self
            .people
            .authors
            .iter()
            .filter(|_| self.random.happens(300_000))
            .map(|keys| keys.public_key().to_hex())
            .collect();
        let tags: Vec<[&str; 2]> = muted.iter().map(|hex| ["p", hex.as_str()]).collect();
        let tags: Vec<&[&str]> = tags.iter().map(<[&str; 2]>::as_slice).collect();
        let list: Event = event(&self.keys, 10_000, self.clock(), &tags, "");
        let names: Vec<String> = muted.iter().map(|hex| world.trace.name_of(hex)).collect();
        world.trace.name(
            list.id.to_hex(),
            format!("\"{} mutes {names:?}\"", self.name),
        );
        world.tell(|| format!("{} mutes {names:?}", self.name));
        let now = world.now();
        world.oracle().published(&list, now);
        self.relays.publish(&list);
    }

    /// Uninstalls the app on a phone. Installed again, it has a new token.
    fn uninstall(&self, token: &str) {
        let world = &self.world;
        let fresh = self.phones.fresh(world);
        for phone in &mut self.phones.tokens().1 {
            if phone == token {
                phone.clone_from(&fresh);
            }
        }
        world.tell(|| format!("the app on {} is uninstalled", world.trace.name_of(token)));
        world.sns().dead_tokens.insert(token.to_owned());
        let now = world.now();
        world.oracle().uninstalled.insert(token.to_owned(), now);
    }

    /// SNS disables the endpoint of a phone although the app is installed.
    async fn lose_endpoint(&self, token: &str) {
        let arn = {
            let sns = self.world.sns();
            let mut endpoints = sns.endpoints.iter();
            endpoints
                .find(|(_, endpoint)| endpoint.token == token)
                .map(|(arn, _)| arn.clone())
        };
        if let Some(arn) = arn {
            sns::disable(&self.world, &arn).await;
        }
    }

    /// A client of dialect N, for as long as the run lasts.
    pub async fn run_dialect_n(self) {
        let world = Arc::clone(&self.world);
        let random = &self.random;
        world.sleep(random.millis(0, 60_000)).await;
        if let Some(phone) = random.pick(&self.phones.all()) {
            self.register(phone.clone());
        }
        for filter in self.filters() {
            if random.happens(600_000) {
                self.act(APP_N, What::Subscribe(filter), 30 * 86_400);
            }
        }
        loop {
            let time = random.uneven_millis(5_000, 3 * 3_600_000);
            world.sleep(world.at_pace(time)).await;
            if world.faults.is_over() {
                return;
            }
            let phone = random.pick(&self.phones.all()).cloned();
            let filter = random.pick(&self.filters()).cloned();
            let (Some(phone), Some(filter)) = (phone, filter) else {
                return;
            };
            self.act_as_dialect_n(&phone, &filter).await;
            // Some people press buttons several times.
            while random.happens(300_000) {
                world.sleep(random.uneven_millis(1, 3_000)).await;
                self.act_as_dialect_n(&phone, &filter).await;
            }
        }
    }

    async fn act_as_dialect_n(&self, phone: &str, filter: &SimFilter) {
        let random = &self.random;
        let (phone, filter) = (phone.to_owned(), filter.clone());
        match random.between(0, 99) {
            0..35 => self.register(phone),
            35..45 => self.act(APP_N, What::Remove(phone), 86_400),
            45..50 => self.act(APP_N, What::RemoveAll, 86_400),
            50..70 => {
                let valid_for = random.between(1_800, 10 * 86_400);
                self.act(APP_N, What::Subscribe(filter), valid_for);
            }
            70..82 => self.act(APP_N, What::Unsubscribe(filter), 86_400),
            82..90 => self.mute().await,
            90..95 => self.uninstall(&phone),
            _ => self.lose_endpoint(&phone).await,
        }
    }

    /// A client of dialect H, for as long as the run lasts.
    pub async fn run_dialect_h(self) {
        let world = Arc::clone(&self.world);
        let random = &self.random;
        loop {
            let time = random.uneven_millis(2_000, 4 * 3_600_000);
            world.sleep(world.at_pace(time)).await;
            if world.faults.is_over() {
                return;
            }
            let phones = self.phones.all();
            let Some(phone) = random.pick(&phones).cloned() else {
                return;
            };
            let kinds = [1, 4, 7, 1059]
                .into_iter()
                .filter(|_| random.happens(750_000))
                .collect();
            self.act(APP_H, What::Settings(Some(phone.clone()), kinds), 0);
            if random.happens(150_000) {
                // The person changes the settings at once.
                world.sleep(random.uneven_millis(1, 3_000)).await;
                self.act(APP_H, What::Settings(Some(phone.clone()), vec![1]), 0);
            }
            self.stay_open().await;
            match random.between(0, 99) {
                0..70 => self.act(APP_H, What::Presence(false), 0),
                70..78 => self.act(APP_H, What::Settings(None, Vec::new()), 0),
                78..82 => self.uninstall(&phone),
                82..85 => self.lose_endpoint(&phone).await,
                85..90 => self.mute().await,
                // The phone is off without a word.
                _ => {}
            }
        }
    }

    /// The app is open for some minutes, and sends heartbeats.
    async fn stay_open(&self) {
        let (world, random) = (&self.world, &self.random);
        let interval = random.between(30, 180);
        let beats = random.between(0, 15);
        for _ in 0..beats {
            if world.faults.is_over() {
                return;
            }
            self.act(APP_H, What::Presence(true), 0);
            world.pause(interval * 1000, interval * 1000 + 500).await;
        }
    }
}

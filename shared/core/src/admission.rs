//! For which app a control event is, and which pubkeys an app admits as new owners. An owner with
//! an active device stays admitted until the last device ends, so these rules are applied to all
//! others.

use nostr::{
    event::{Event, EventId, Kind, Signature, Tag, Tags},
    key::PublicKey,
    nips::nip13::get_leading_zero_bits,
    types::Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::{Seconds, app::App, tags::tag_values};

/// The kind of the event whose signature is a grant. It is in the ephemeral range, and the event is
/// never published.
pub const GRANT_KIND: u16 = 23_083;

/// The kind of the control events of dialect H, which may have no `app` tag.
const DIALECT_H_KIND: u16 = 22_456;

/// The highest difficulty that an app can ask for. Phones need minutes for more.
pub const MAX_POW_DIFFICULTY: u8 = 32;

/// Who can become an owner under an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Admission {
    /// Everybody.
    #[default]
    Open,
    /// Whoever does the work of [`App::pow_difficulty`].
    Pow,
    /// Whoever has a grant of [`App::grant_key`].
    Grant,
    /// The pubkeys in [`App::allowed`] and [`App::followed`].
    Allow,
    /// Nobody.
    Closed,
}

impl Admission {
    /// The name in options and announcements.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Pow => "pow",
            Self::Grant => "grant",
            Self::Allow => "allow",
            Self::Closed => "closed",
        }
    }
}

/// The id of the app that a control event is for: its only `app` tag, or `heartbeat_app` if an
/// event of dialect H has none. `None` if that is no app id.
pub fn app_of<'a>(event: &'a Event, heartbeat_app: Option<&'a str>) -> Option<&'a str> {
    let mut apps = tag_values(event, "app");
    let app = match (apps.next(), apps.next()) {
        (Some(only), None) => Some(only),
        (None, _) if event.kind.as_u16() == DIALECT_H_KIND => heartbeat_app,
        _ => None,
    };
    app.filter(|app| !app.is_empty())
}

/// Returns `true` if the app admits the author of this event as a new owner.
///
/// The signature need not have been verified, but the id must be right.
pub fn admits(app: &App, event: &Event, now: Seconds) -> bool {
    match app.admission {
        Admission::Open => true,
        Admission::Pow => has_work(event, app.pow_difficulty()),
        Admission::Grant => app
            .grant_key
            .is_some_and(|key| has_grant(event, &app.app, &key, now)),
        Admission::Allow => {
            app.allowed.contains(&event.pubkey) || app.followed.contains(&event.pubkey)
        }
        Admission::Closed => false,
    }
}

/// Returns `true` if the event has the proof of work of NIP-13
/// (<https://github.com/nostr-protocol/nips/blob/master/13.md>): its id begins with `difficulty`
/// zero bits, and its `nonce` tag commits to at least this difficulty.
pub fn has_work(event: &Event, difficulty: u8) -> bool {
    let commits = |tag: &Tag| match tag.as_slice() {
        [name, _, target, ..] if name == "nonce" => target
            .parse::<u8>()
            .is_ok_and(|target| target >= difficulty),
        _ => false,
    };
    get_leading_zero_bits(event.id.as_bytes()) >= difficulty
        && (difficulty == 0 || event.tags.iter().any(commits))
}

/// Returns `true` if a `grant` tag of the event admits its author to the app.
///
/// The tag is `["grant", <expiry>, <signature>]`: a Unix time, and the signature of
/// [`grant_template`] in hex.
fn has_grant(event: &Event, app: &str, grant_key: &PublicKey, now: Seconds) -> bool {
    let is_valid = |tag: &Tag| {
        let [name, expiry, signature, ..] = tag.as_slice() else {
            return false;
        };
        let (Ok(expiry), Ok(signature)) = (expiry.parse(), signature.parse()) else {
            return false;
        };
        name == "grant"
            && Seconds(expiry) > now
            && grant(app, &event.pubkey, grant_key, expiry, signature).verify_signature()
    };
    // One grant is enough. The limit keeps an event with many tags from being expensive.
    let grants = event.tags.iter().filter(|tag| tag.kind() == "grant");
    grants.take(1).any(is_valid)
}

/// The event that a grant signs: its author is the grant key, `created_at` is the expiry, the tags
/// are `["app", <app>]` and `["p", <pubkey>]`, and the content is empty.
fn grant(
    app: &str,
    pubkey: &PublicKey,
    grant_key: &PublicKey,
    expiry: u64,
    signature: Signature,
) -> Event {
    let pubkey = pubkey.to_hex();
    let tags = [["app", app], ["p", &pubkey]];
    let tags = Tags::from_list(
        tags.into_iter()
            .filter_map(|tag| Tag::parse(tag).ok())
            .collect(),
    );
    let (created_at, kind) = (Timestamp::from_secs(expiry), Kind::from_u16(GRANT_KIND));
    let id = EventId::compute(grant_key, &created_at, &kind, &tags, "");
    Event::new(id, *grant_key, created_at, kind, tags, "", signature)
}

#[cfg(test)]
mod tests {
    use nostr::{
        event::{EventBuilder, FinalizeEvent},
        key::Keys,
    };
    use nostr_push_testkit::event;

    use super::*;

    fn app(admission: Admission) -> App {
        App {
            admission,
            ..App::named("demo")
        }
    }

    fn grant_of(key: &Keys, app: &str, pubkey: &PublicKey, expiry: u64) -> String {
        let tags = [
            Tag::parse(["app", app]).unwrap(),
            Tag::parse(["p", &pubkey.to_hex()]).unwrap(),
        ];
        let signed = EventBuilder::new(Kind::from_u16(GRANT_KIND), "")
            .tags(tags)
            .custom_created_at(Timestamp::from_secs(expiry))
            .finalize(key)
            .unwrap();
        signed.sig.to_string()
    }

    #[test]
    fn grant_names_pubkey_app_and_expiry() {
        let (key, keys) = (Keys::generate(), Keys::generate());
        let app = App {
            grant_key: Some(key.public_key()),
            ..app(Admission::Grant)
        };
        let signature = grant_of(&key, "demo", &keys.public_key(), 1_000);
        let with = |keys: &Keys, expiry: &str, signature: &str| {
            event(keys, 3079, 900, &[&["grant", expiry, signature]], "")
        };
        let granted = with(&keys, "1000", &signature);
        assert!(admits(&app, &granted, Seconds(999)));
        assert!(!admits(&app, &granted, Seconds(1_000)));
        assert!(!admits(
            &app,
            &with(&keys, "2000", &signature),
            Seconds(999)
        ));
        assert!(!admits(
            &app,
            &with(&Keys::generate(), "1000", &signature),
            Seconds(999)
        ));
        assert!(!admits(
            &app,
            &event(&keys, 3079, 900, &[], ""),
            Seconds(999)
        ));
        let elsewhere = grant_of(&key, "other", &keys.public_key(), 1_000);
        assert!(!admits(
            &app,
            &with(&keys, "1000", &elsewhere),
            Seconds(999)
        ));
        let forged = grant_of(&Keys::generate(), "demo", &keys.public_key(), 1_000);
        assert!(!admits(&app, &with(&keys, "1000", &forged), Seconds(999)));
    }

    #[test]
    fn work_needs_zero_bits_and_a_commitment() {
        let keys = Keys::generate();
        let mined = |target: &str| {
            (0..100_000)
                .map(|n| event(&keys, 3079, 900, &[&["nonce", &n.to_string(), target]], ""))
                .find(|event| get_leading_zero_bits(event.id.as_bytes()) >= 8)
                .unwrap()
        };
        assert!(has_work(&mined("8"), 8));
        assert!(has_work(&mined("10"), 8));
        assert!(!has_work(&mined("7"), 8), "a lucky id is no commitment");
        assert!(!has_work(&mined("8"), 255));
        assert!(has_work(&event(&keys, 3079, 900, &[], ""), 0));
    }

    #[test]
    fn lists_and_closed_apps_decide_by_pubkey() {
        let (named, followed, other) = (Keys::generate(), Keys::generate(), Keys::generate());
        let allow = App {
            allowed: vec![named.public_key()],
            followed: vec![followed.public_key()],
            ..app(Admission::Allow)
        };
        let admitted =
            |app: &App, keys: &Keys| admits(app, &event(keys, 3079, 900, &[], ""), Seconds(0));
        assert!(admitted(&allow, &named) && admitted(&allow, &followed));
        assert!(!admitted(&allow, &other));
        assert!(admitted(&app(Admission::Open), &other));
        assert!(!admitted(&app(Admission::Closed), &other));
    }
}

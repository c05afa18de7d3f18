//! What an owner asked for by dialect H (kind 22456): one row per owner and app, the latest
//! event's.
//!
//! Settings replace earlier ones whole, the device included. Nothing is worked out from the earlier
//! row: the owner's devices and subscriptions are brought in line with this one alone, whoever
//! comes last. Logging out is settings that ask for nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    DAY, Seconds, app::App, filter::Filter, filter::decode_hex, order::Order, owner::Owner,
};

/// How long settings hold after their event.
pub const LIFETIME: Seconds = 90 * DAY;

/// How many people an event may mention where `enableMaxMentions` is on.
pub const MAX_MENTIONS: u16 = 10;

/// Kinds that somebody else signs for the sender, so that a list of authors says nothing about
/// them: wraps and zap receipts.
const SIGNED_BY_ANOTHER: [u16; 3] = [1059, 9735, 21059];

/// One row of `settings`. Every list is sorted and without repeats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Whose they are.
    pub owner: Owner,
    /// Which event wrote them.
    #[serde(flatten)]
    pub order: Order,
    /// The kinds to push; `None`: the app's default kinds; empty: push is off.
    pub kinds: Option<Vec<u16>>,
    /// Pubkeys whose mentions to push: the owner's alias keys. Empty: the owner.
    pub p: Vec<String>,
    /// Ids of channels, and of groups, whose messages to push.
    pub e: Vec<String>,
    /// The only authors whose mentions to push, where the app wants that (`contacts_only`).
    pub authors: Option<Vec<String>>,
    /// Relays to watch for this owner.
    pub relays: Vec<String>,
    /// The hash of the token to push to, when there is one.
    pub token_hash: Option<String>,
    /// Events that mention more people than this are not to be pushed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_mentions: Option<u16>,
    /// When they end.
    pub valid_until: Seconds,
}

impl Settings {
    /// Settings that ask for nothing: logged out.
    pub fn none(owner: Owner, order: Order) -> Self {
        let valid_until = order.created_at + LIFETIME;
        Self {
            owner,
            order,
            kinds: Some(Vec::new()),
            p: Vec::new(),
            e: Vec::new(),
            authors: None,
            relays: Vec::new(),
            token_hash: None,
            max_mentions: None,
            valid_until,
        }
    }

    /// The filters they stand for, any of which may match: `{kinds, #p}`, and for channels and
    /// groups `{kinds, #e}` with the values that are event ids and `{kinds, #h}` with all values,
    /// because clients put NIP-29 group ids there as well.
    pub fn filters(&self, app: &App) -> Vec<Filter> {
        let kinds = self.kinds.clone().unwrap_or_else(|| app.default_kinds());
        let p = if self.p.is_empty() {
            vec![self.owner.pubkey.to_hex()]
        } else {
            self.p.clone()
        };
        let clause = |kinds: Vec<u16>,
                      letter: char,
                      values: Vec<String>,
                      authors: Option<Vec<[u8; 32]>>| Filter {
            kinds: Some(kinds),
            tags: BTreeMap::from([(letter, values)]),
            authors,
            ids: None,
        };
        let ids: Vec<String> = self
            .e
            .iter()
            .filter(|value| decode_hex(value).is_some())
            .cloned()
            .collect();
        let mut filters = vec![
            clause(kinds.clone(), 'e', ids, None),
            clause(kinds.clone(), 'h', self.e.clone(), None),
        ];
        match &self.authors {
            None => filters.push(clause(kinds, 'p', p, None)),
            Some(authors) => {
                let (by_another, by_sender): (Vec<u16>, Vec<u16>) = kinds
                    .iter()
                    .partition(|kind| SIGNED_BY_ANOTHER.contains(kind));
                let authors = authors
                    .iter()
                    .filter_map(|author| decode_hex(author))
                    .collect();
                filters.push(clause(by_sender, 'p', p.clone(), Some(authors)));
                filters.push(clause(by_another, 'p', p, None));
            }
        }
        // An empty list matches nothing, and an empty filter everything.
        let matches_something = |filter: &Filter| {
            let lists = [
                filter.kinds.as_ref().map(Vec::len),
                filter.authors.as_ref().map(Vec::len),
            ];
            lists
                .into_iter()
                .flatten()
                .chain(filter.tags.values().map(Vec::len))
                .all(|length| length > 0)
        };
        filters.retain(matches_something);
        filters
    }
}

#[cfg(test)]
mod tests {
    use nostr::key::Keys;
    use serde_json::{Value, json};

    use super::*;

    fn filters(app: &App, change: impl FnOnce(&mut Settings)) -> Vec<Value> {
        let owner = Owner {
            app: "demo".to_owned(),
            pubkey: Keys::parse(&"11".repeat(32)).unwrap().public_key(),
        };
        let mut settings = Settings {
            kinds: Some(vec![1, 1059, 9735]),
            ..Settings::none(owner, Order::counter(1))
        };
        change(&mut settings);
        settings
            .filters(app)
            .iter()
            .map(|filter| serde_json::from_str(&filter.to_json()).unwrap())
            .collect()
    }

    fn me() -> String {
        Keys::parse(&"11".repeat(32)).unwrap().public_key().to_hex()
    }

    #[test]
    fn channels_and_groups_are_asked_for_by_both_tags_and_only_ids_by_e() {
        let id = "ab".repeat(32);
        let asked = filters(&App::default(), |settings| {
            settings.e = vec![id.clone(), "group".to_owned()]
        });
        let kinds = [1, 1059, 9735];
        assert_eq!(
            asked,
            [
                json!({"kinds": kinds, "#e": [id]}),
                json!({"kinds": kinds, "#h": [id, "group"]}),
                json!({"kinds": kinds, "#p": [me()]})
            ]
        );
        let groups = filters(&App::default(), |settings| {
            settings.e = vec!["group".to_owned()]
        });
        assert_eq!(
            groups,
            [
                json!({"kinds": kinds, "#h": ["group"]}),
                json!({"kinds": kinds, "#p": [me()]})
            ]
        );
    }

    #[test]
    fn alias_keys_stand_in_for_the_owner() {
        let alias = "cd".repeat(32);
        assert_eq!(
            filters(&App::default(), |settings| settings.p = vec![alias.clone()]),
            [json!({"kinds": [1, 1059, 9735], "#p": [alias]})]
        );
    }

    #[test]
    fn authors_restrict_what_the_sender_signs_and_never_wraps_and_zaps() {
        let contact = "ef".repeat(32);
        let asked = filters(&App::default(), |settings| {
            settings.authors = Some(vec![contact.clone()])
        });
        assert_eq!(
            asked,
            [
                json!({"kinds": [1], "#p": [me()], "authors": [contact]}),
                json!({"kinds": [1059, 9735], "#p": [me()]})
            ]
        );
        let nobody = filters(&App::default(), |settings| {
            settings.authors = Some(Vec::new())
        });
        assert_eq!(nobody, [json!({"kinds": [1059, 9735], "#p": [me()]})]);
    }

    #[test]
    fn no_kinds_is_off_and_absent_kinds_are_the_apps() {
        assert!(
            filters(&App::default(), |settings| settings.kinds =
                Some(Vec::new()))
            .is_empty()
        );
        let app = App {
            default_kinds: Some(vec![7]),
            ..App::default()
        };
        assert_eq!(
            filters(&app, |settings| settings.kinds = None),
            [json!({"kinds": [7], "#p": [me()]})]
        );
        assert_eq!(
            filters(&App::default(), |settings| settings.kinds = None)[0]["kinds"],
            json!([1, 4, 6, 7, 1059, 9735])
        );
    }
}

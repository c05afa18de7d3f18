//! Settings of dialect H (kind 22456): one row per owner and app, written by the latest event.
//!
//! Settings replace earlier settings as a whole, the device included. Nothing is derived from the
//! earlier row: the owner's devices and subscriptions are reconciled with the stored row alone, by
//! every process that handles a settings event. A logout is stored as settings without kinds and
//! device.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    Seconds, app::App, filter::Filter, hex, index_key::TagValue, order::Order, owner::Owner,
};

/// How long settings are valid after their event.
pub const SETTINGS_LIFETIME: Seconds = Seconds::from_days(90);

/// The most people that an event may mention and still be pushed, if `enableMaxMentions` is on.
pub const MAX_MENTIONS: u16 = 10;

/// Kinds that another key signs for the sender: wraps and zap receipts. A list of authors cannot
/// restrict them.
const SIGNED_BY_ANOTHER: [u16; 3] = [1059, 9735, 21059];

/// One row of `settings`. Every list is sorted and has no duplicates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The owner.
    pub owner: Owner,
    /// The order of the event that wrote the row.
    #[serde(flatten)]
    pub order: Order,
    /// The kinds to push. `None` means the app's default kinds; an empty list turns push off.
    pub kinds: Option<Vec<u16>>,
    /// Pubkeys whose mentions to push: the owner's alias keys. If empty, the owner's own pubkey.
    #[serde(with = "hex::list")]
    pub p: Vec<[u8; 32]>,
    /// Ids of channels and groups whose messages to push.
    pub e: Vec<TagValue>,
    /// The only authors whose mentions to push, if the app has `contacts_only`.
    #[serde(default, with = "hex::optional_list")]
    pub authors: Option<Vec<[u8; 32]>>,
    /// Relays to watch for this owner.
    pub relays: Vec<String>,
    /// The hash of the token to push to, if there is one.
    pub token_hash: Option<String>,
    /// Events that mention more people than this are not pushed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_mentions: Option<u16>,
    /// When the settings end.
    pub valid_until: Seconds,
}

impl Settings {
    /// The settings of an owner who has logged out.
    pub fn logged_out(owner: Owner, order: Order) -> Self {
        let valid_until = order.created_at + SETTINGS_LIFETIME;
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

    /// The filters that the settings expand to. An event matches the settings if it matches one.
    ///
    /// They are `{kinds, #p}` and, for channels and groups, `{kinds, #e}` with the values that are
    /// event ids and `{kinds, #h}` with all values: clients put the ids of NIP-29 groups
    /// (<https://github.com/nostr-protocol/nips/blob/master/29.md>) into `#e` as well.
    pub fn filters(&self, app: &App) -> Vec<Filter> {
        let kinds = self.kinds.clone().unwrap_or_else(|| app.default_kinds());
        let clause = |kinds: Vec<u16>, letter: char, values: Vec<TagValue>| Filter {
            kinds: Some(kinds),
            tags: BTreeMap::from([(letter, values)]),
            ..Filter::default()
        };
        let is_id = |value: &&TagValue| matches!(value, TagValue::Hex(_));
        let ids: Vec<TagValue> = self.e.iter().filter(is_id).cloned().collect();
        let mut filters = vec![
            clause(kinds.clone(), 'e', ids),
            clause(kinds.clone(), 'h', self.e.clone()),
        ];
        let own = [*self.owner.pubkey.as_bytes()];
        let mentioned = if self.p.is_empty() { &own } else { &*self.p };
        let p: Vec<TagValue> = mentioned.iter().copied().map(TagValue::Hex).collect();
        match &self.authors {
            None => filters.push(clause(kinds, 'p', p)),
            Some(authors) => {
                let (by_another, by_sender): (Vec<u16>, Vec<u16>) = kinds
                    .iter()
                    .partition(|kind| SIGNED_BY_ANOTHER.contains(kind));
                filters.push(Filter {
                    authors: Some(authors.clone()),
                    ..clause(by_sender, 'p', p.clone())
                });
                filters.push(clause(by_another, 'p', p));
            }
        }
        filters.retain(has_no_empty_list);
        filters
    }
}

/// Returns `true` if no list of the filter is empty. An empty list matches nothing, and the index
/// has no key for it.
fn has_no_empty_list(filter: &Filter) -> bool {
    let kinds = filter.kinds.as_ref().map(Vec::len);
    let authors = filter.authors.as_ref().map(Vec::len);
    let tags = filter.tags.values().map(Vec::len);
    let mut lengths = kinds.into_iter().chain(authors).chain(tags);
    lengths.all(|length| length > 0)
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
            ..Settings::logged_out(owner, Order::counter(1))
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
    fn asks_for_groups_by_h_and_for_channels_by_e_and_h() {
        let id = "ab".repeat(32);
        let asked = filters(&App::default(), |settings| {
            settings.e = vec![id.as_str().into(), "group".into()];
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
            settings.e = vec!["group".into()];
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
    fn alias_keys_replace_the_owner() {
        let alias = "cd".repeat(32);
        assert_eq!(
            filters(&App::default(), |settings| settings.p = vec![[0xcd; 32]]),
            [json!({"kinds": [1, 1059, 9735], "#p": [alias]})]
        );
    }

    #[test]
    fn authors_do_not_restrict_wraps_and_zaps() {
        let contact = "ef".repeat(32);
        let asked = filters(&App::default(), |settings| {
            settings.authors = Some(vec![[0xef; 32]]);
        });
        assert_eq!(
            asked,
            [
                json!({"kinds": [1], "#p": [me()], "authors": [contact]}),
                json!({"kinds": [1059, 9735], "#p": [me()]})
            ]
        );
        let nobody = filters(&App::default(), |settings| {
            settings.authors = Some(Vec::new());
        });
        assert_eq!(nobody, [json!({"kinds": [1059, 9735], "#p": [me()]})]);
    }

    #[test]
    fn empty_kinds_mean_off_and_absent_kinds_the_default() {
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

//! Which REQs the interest asks of a relay: narrow, by the index keys in use.

use std::collections::BTreeMap;

use nostr_push_core::{
    DAY, PRIVATE_KINDS, Seconds,
    filter::hex,
    index_key::{IndexKey, TagValue},
    interest::Interest,
    is_private,
};
use serde_json::{Value, json};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Values per filter, and filters per REQ: what relays that say nothing (NIP-11) are known to take.
const VALUES: usize = 500;
const FILTERS: usize = 10;

/// NIP-59 wraps are backdated up to two days, and `since` holds for live events too.
const BACKDATED: Seconds = 2 * DAY;

/// The REQs a relay shall hold, by subscription id. The same filters have the same id, whenever they are planned.
pub type Plan = BTreeMap<String, Vec<Value>>;

/// Plans the content REQs: filters without `since`, which [`resumed`] adds when a REQ is sent.
pub fn narrow(interest: &Interest) -> Plan {
    let mut dimensions: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut keys: Vec<&IndexKey> = interest.keys().collect();
    keys.sort_unstable();
    for key in keys {
        let (field, value) = match key {
            IndexKey::Id(id) => ("ids".to_owned(), json!(hex(id))),
            IndexKey::Author(author) => ("authors".to_owned(), json!(hex(author))),
            IndexKey::Tag(letter, TagValue::Hex(bytes)) => (format!("#{letter}"), json!(hex(bytes))),
            IndexKey::Tag(letter, TagValue::Text(text)) => (format!("#{letter}"), json!(text)),
            IndexKey::Kind(kind) => ("kinds".to_owned(), json!(kind)),
        };
        dimensions.entry(field).or_default().push(value);
    }
    let kinds = interest.kinds();
    let filters: Vec<Value> = dimensions
        .iter()
        .flat_map(|(field, values)| values.chunks(VALUES).map(move |chunk| (field, chunk)))
        .flat_map(|(field, values)| split(field, values, kinds.as_deref()))
        .collect();
    filters.chunks(FILTERS).map(|filters| (id(filters), filters.to_vec())).collect()
}

/// One filter for the kinds that are not backdated and one for those that are: they are resumed from different times.
fn split(field: &str, values: &[Value], kinds: Option<&[u16]>) -> Vec<Value> {
    if field == "kinds" {
        return vec![json!({"kinds": values})];
    }
    let (private, public): (Vec<u16>, Vec<u16>) = kinds.unwrap_or_default().iter().partition(|kind| is_private(**kind));
    match kinds {
        None => vec![json!({field: values}), json!({field: values, "kinds": PRIVATE_KINDS})],
        Some(_) => {
            [public, private].into_iter().filter(|kinds| !kinds.is_empty()).map(|kinds| json!({field: values, "kinds": kinds})).collect()
        }
    }
}

/// The filters with their `since`.
pub fn resumed(filters: &[Value], from: Seconds) -> Vec<Value> {
    let with_since = |filter: &Value| {
        let mut filter = filter.clone();
        let private = filter["kinds"]
            .as_array()
            .is_some_and(|kinds| kinds.iter().all(|kind| kind.as_u64().and_then(|k| u16::try_from(k).ok()).is_some_and(is_private)));
        filter["since"] = json!(if private { from.saturating_sub(BACKDATED) } else { from });
        filter
    };
    filters.iter().map(with_since).collect()
}

fn id(filters: &[Value]) -> String {
    let mut hasher = DefaultHasher::new();
    for filter in filters {
        filter.to_string().hash(&mut hasher);
    }
    format!("content-{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use nostr_push_core::owner::Owner;
    use nostr_push_testkit::subscription;

    use super::*;

    fn interest(filters: &[Value]) -> Interest {
        let mut interest = Interest::default();
        let owner = Owner { app: "demo".to_owned(), pubkey: nostr::key::Keys::generate().public_key() };
        for filter in filters {
            interest.apply(&subscription(&owner, filter), 1);
        }
        interest
    }

    #[test]
    fn private_kinds_are_asked_for_from_further_back() {
        let p = "ab".repeat(32);
        let plan = narrow(&interest(&[json!({"kinds": [1, 1059], "#p": [p]})]));
        let filters = resumed(plan.values().next().unwrap(), 1_000_000);
        assert_eq!(
            filters,
            [json!({"#p": [p], "kinds": [1], "since": 1_000_000}), json!({"#p": [p], "kinds": [1059], "since": 1_000_000 - BACKDATED})]
        );
    }

    #[test]
    fn a_large_interest_is_cut_into_filters_and_reqs_a_relay_takes() {
        let authors: Vec<String> = (0..6_001).map(|n| format!("{n:064x}")).collect();
        let filters: Vec<Value> = authors.chunks(1_000).map(|authors| json!({"kinds": [1], "authors": authors})).collect();
        let interest = interest(&filters);
        let plan = narrow(&interest);
        assert_eq!(plan.len(), 2);
        let lengths: Vec<usize> = plan.values().flatten().map(|filter| filter["authors"].as_array().unwrap().len()).collect();
        assert_eq!(lengths.iter().sum::<usize>(), 6_001);
        assert!(lengths.iter().all(|length| *length <= VALUES) && plan.values().all(|filters| filters.len() <= FILTERS));
        assert_eq!(plan, narrow(&interest));
    }

    #[test]
    fn no_interest_asks_for_nothing() {
        assert!(narrow(&Interest::default()).is_empty());
    }
}

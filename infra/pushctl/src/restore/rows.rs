//! Tables whose rows are copied as they are.

use std::collections::HashMap;

use anyhow::{Context, Result};
use aws_sdk_dynamodb::{
    error::ProvideErrorMetadata,
    types::AttributeValue::{self, N, S},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use nostr_push_aws::{
    clients,
    dynamodb::{EXPIRES_AT, SUPERSEDES},
};
use nostr_push_core::subscription::{MUTE_LIST_PREFIX, SETTINGS_PREFIX, TRIGGER_PREFIX};

use super::{CONCURRENCY, Counts, Outcome, Restore};

/// One row.
type Item = HashMap<String, AttributeValue>;

/// Rows of `relays` that the listener counts and leases anew.
const TRANSIENT_RELAYS: [&str; 2] = ["usage", "members"];

/// The name of the change feed's sort key: the time of the write.
const CHANGED_AT: &str = "changed_at";

/// When the stack's row is as new or newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// If there is one.
    Exists,
    /// If its event is the same or wins over the event of the row to copy.
    Order,
    /// If its cursor is the same or larger.
    Cursor,
}

/// Copies the rows of a table.
pub(super) async fn restore(restore: &Restore<'_>, table: &str) -> Result<Counts> {
    let mut counts = Counts::default();
    let scan = restore.dynamodb.scan();
    let scan = scan.table_name(format!("{}-{table}", restore.from));
    let mut pages = scan.consistent_read(true).into_paginator().send();
    while let Some(page) = pages.next().await {
        let items = page
            .with_context(|| format!("cannot read {}-{table}", restore.from))?
            .items
            .unwrap_or_default();
        let items = items.into_iter().filter(|item| !is_transient(table, item));
        let copies = stream::iter(items).map(|item| copy(restore, table, item));
        let mut copies = copies.buffer_unordered(CONCURRENCY);
        while let Some(outcome) = copies.try_next().await? {
            counts.add(outcome);
        }
        restore.report(table, &counts);
    }
    Ok(counts)
}

/// Copies one row, unless the stack's row is as new or newer.
async fn copy(restore: &Restore<'_>, table: &str, mut item: Item) -> Result<Outcome> {
    if number(&item, EXPIRES_AT).is_some_and(|end| end <= restore.now.0) {
        return Ok(Outcome::Expired);
    }
    let rule = rule(table, &item);
    let name = format!("{}-{table}", restore.context.prefix);
    if restore.is_dry_run {
        let key = key(table, &item);
        let request = restore.dynamodb.get_item().table_name(&name);
        let request = request.set_key(Some(key)).consistent_read(true);
        let stored = request.send().await?.item;
        let kept = stored.is_some_and(|stored| is_as_new(rule, &stored, &item));
        return Ok(if kept { Outcome::Kept } else { Outcome::Copied });
    }
    restore.pace.wait(1).await;
    if table == "subscriptions" {
        stamp(&mut item);
    }
    let mut put = restore.dynamodb.put_item().table_name(&name);
    put = match rule {
        Rule::Exists => put
            .condition_expression("attribute_not_exists(#key)")
            .expression_attribute_names("#key", keys(table)[0]),
        Rule::Order => put
            .condition_expression(SUPERSEDES)
            .set_expression_attribute_values(Some(values(&item, &["created_at", "event_id"]))),
        Rule::Cursor => put
            .condition_expression("attribute_not_exists(#cursor) OR #cursor < :cursor")
            .expression_attribute_names("#cursor", "cursor")
            .set_expression_attribute_values(Some(values(&item, &["cursor"]))),
    };
    match put.set_item(Some(item)).send().await {
        Ok(_) => Ok(Outcome::Copied),
        Err(error) if error.code() == Some("ConditionalCheckFailedException") => Ok(Outcome::Kept),
        Err(error) => Err(error).with_context(|| format!("cannot write {name}")),
    }
}

/// The names of a table's key attributes.
fn keys(table: &str) -> &'static [&'static str] {
    match table {
        "apps" => &["app"],
        "claims" => &["claim"],
        "mute-lists" => &["pubkey"],
        "profiles" => &["profile"],
        "rates" => &["rate"],
        "relays" => &["relay"],
        "subscriptions" => &["owner", "subscription"],
        _ => &["owner"],
    }
}

fn key(table: &str, item: &Item) -> Item {
    let keys = keys(table).iter();
    keys.filter_map(|&name| Some((name.to_owned(), item.get(name)?.clone())))
        .collect()
}

/// The rule for a row. No event orders the rows of derived subscriptions: control counts their
/// writes, and begins again with 1 if the row is lost.
fn rule(table: &str, item: &Item) -> Rule {
    let is_derived = |identity: &str| {
        [TRIGGER_PREFIX, SETTINGS_PREFIX, MUTE_LIST_PREFIX]
            .iter()
            .any(|prefix| identity.starts_with(prefix))
    };
    match table {
        "apps" | "claims" | "rates" | "profiles" => Rule::Exists,
        "relays" => Rule::Cursor,
        "subscriptions" if text(item, "subscription").is_some_and(is_derived) => Rule::Exists,
        _ => Rule::Order,
    }
}

/// Returns `true` if the stack's row is as new as the row to copy, or newer.
fn is_as_new(rule: Rule, stored: &Item, item: &Item) -> bool {
    match rule {
        Rule::Exists => true,
        Rule::Cursor => number(stored, "cursor") >= number(item, "cursor"),
        Rule::Order => {
            let (at, stored_at) = (number(item, "created_at"), number(stored, "created_at"));
            let is_smaller_id = text(item, "event_id") < text(stored, "event_id");
            let wins = at > stored_at || (at == stored_at && is_smaller_id);
            stored_at.is_some() && !wins
        }
    }
}

/// Stamps a subscription with the time of this write. The listener finds it in the change feed
/// within seconds. Rows of earlier versions have their only time in the stamp.
fn stamp(item: &mut Item) {
    let earlier = item.insert(CHANGED_AT.to_owned(), N(clients::now().0.to_string()));
    if let Some(earlier) = earlier {
        item.entry("processed_at".to_owned()).or_insert(earlier);
    }
}

fn is_transient(table: &str, item: &Item) -> bool {
    table == "relays" && text(item, "relay").is_some_and(|relay| TRANSIENT_RELAYS.contains(&relay))
}

/// The values of these attributes, as values of a condition.
fn values(item: &Item, names: &[&str]) -> Item {
    let names = names.iter();
    names
        .filter_map(|&name| Some((format!(":{name}"), item.get(name)?.clone())))
        .collect()
}

fn number(item: &Item, name: &str) -> Option<u64> {
    match item.get(name)? {
        N(n) => n.parse().ok(),
        _ => None,
    }
}

fn text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    match item.get(name)? {
        S(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(created_at: u64, event_id: &str) -> Item {
        [
            ("created_at", N(created_at.to_string())),
            ("event_id", S(event_id.to_owned())),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    #[test]
    fn newer_event_and_same_event_are_kept() {
        let as_new = |stored, item| is_as_new(Rule::Order, &stored, &item);
        assert!(as_new(row(2, "b"), row(1, "a")));
        assert!(as_new(row(1, "a"), row(1, "a")));
        assert!(as_new(row(1, "a"), row(1, "b")), "the smaller id wins");
        assert!(!as_new(row(1, "b"), row(1, "a")));
        assert!(!as_new(row(1, "a"), row(2, "b")));
        assert!(!as_new(Item::new(), row(1, "a")), "only marks, no event");
    }

    #[test]
    fn derived_subscription_is_kept_whatever_its_counter() {
        let of = |identity: String| [("subscription".to_owned(), S(identity))].into();
        let own = of("0a".to_owned());
        assert_eq!(rule("subscriptions", &own), Rule::Order);
        let derived = of(format!("{TRIGGER_PREFIX}0a"));
        assert_eq!(rule("subscriptions", &derived), Rule::Exists);
    }

    #[test]
    fn stamp_keeps_the_only_time_of_earlier_versions() {
        let mut item = Item::from([(CHANGED_AT.to_owned(), N("7".to_owned()))]);
        stamp(&mut item);
        assert_eq!(number(&item, "processed_at"), Some(7));
        assert!(number(&item, CHANGED_AT) > Some(7));
        stamp(&mut item);
        assert_eq!(number(&item, "processed_at"), Some(7));
    }
}

//! `pushctl app follows`: the follow lists (kind 3, NIP-02,
//! <https://github.com/nostr-protocol/nips/blob/master/02.md>) of the pubkeys in `follow_lists`.

use std::collections::BTreeSet;

use anyhow::{Result, anyhow, bail, ensure};
use futures_util::future::join_all;
use nostr::{event::Event, key::PublicKey};
use nostr_push_core::tags::tag_values;
use serde_json::json;

use crate::{context::CommandContext, key::npub, options::check_pubkeys, relay};

const FOLLOW_LIST_KIND: u16 = 3;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The app's id.
    app: String,
    /// A relay to read from (repeatable). Default: the relays that the stack watches.
    #[arg(long)]
    relay: Vec<String>,
}

/// Stores whom the lists name. If a list is missing, nothing is stored, so that a relay that is
/// down locks nobody out.
pub(crate) async fn run(context: &CommandContext, arguments: &Arguments) -> Result<()> {
    let app = context.app(&arguments.app).await?;
    ensure!(
        !app.follow_lists.is_empty(),
        "{} has no follow_lists: see pushctl app set",
        app.app
    );
    let relays = if arguments.relay.is_empty() {
        context.deployed().await?.relays()
    } else {
        arguments.relay.clone()
    };
    ensure!(
        !relays.is_empty(),
        "the stack watches no relays: use --relay"
    );
    let events = read(&relays, &app.follow_lists).await;
    let followed = followed(&app.follow_lists, &events)?;
    check_pubkeys(&app, followed.len())?;
    ensure!(
        context.store.set_followed(&app.app, &followed).await?,
        "there is no app {}",
        app.app
    );
    let (new, old) = (
        BTreeSet::from_iter(&followed),
        app.followed.iter().collect(),
    );
    let (added, removed) = (new.difference(&old).count(), old.difference(&new).count());
    context.print(
        &json!({"followed": followed.len(), "added": added, "removed": removed}),
        format_args!(
            "{}: {} pubkeys are followed, {added} of them new; {removed} are not followed any more",
            app.app,
            followed.len()
        ),
    );
    Ok(())
}

/// The follow lists that the relays have.
async fn read(relays: &[String], authors: &[PublicKey]) -> Vec<Event> {
    let filter = json!({"kinds": [FOLLOW_LIST_KIND], "authors": authors});
    let requests = relays.iter().map(|url| relay::stored(url, &filter));
    let mut events = Vec::new();
    for (url, result) in relays.iter().zip(join_all(requests).await) {
        match result {
            Ok(stored) => events.extend(stored),
            Err(error) => eprintln!("{url}: {error:#}"),
        }
    }
    events
}

/// The pubkeys on the newest list of each author.
///
/// # Errors
/// An author has no list, or an empty one. Some clients publish an empty list by mistake.
fn followed(authors: &[PublicKey], events: &[Event]) -> Result<Vec<PublicKey>> {
    let mut followed = BTreeSet::new();
    for author in authors {
        let lists = events
            .iter()
            .filter(|event| event.pubkey == *author && event.kind.as_u16() == FOLLOW_LIST_KIND);
        // On a tie the smaller id wins, as for all replaceable events (NIP-01).
        let newest = lists.max_by(|a, b| (a.created_at, b.id).cmp(&(b.created_at, a.id)));
        let newest = newest.ok_or_else(|| {
            anyhow!(
                "no relay has the follow list of {}: nothing is changed",
                npub(author)
            )
        })?;
        let pubkeys: Vec<PublicKey> = tag_values(newest, "p")
            .filter_map(|value| PublicKey::from_hex(value).ok())
            .collect();
        if pubkeys.is_empty() {
            bail!(
                "the follow list of {} is empty: nothing is changed",
                npub(author)
            );
        }
        followed.extend(pubkeys);
    }
    Ok(followed.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use nostr::key::Keys;
    use nostr_push_testkit::event;

    use super::*;

    fn list(author: &Keys, created_at: u64, names: &[&Keys]) -> Event {
        let hex: Vec<String> = names
            .iter()
            .map(|keys| keys.public_key().to_hex())
            .collect();
        let tags: Vec<[&str; 2]> = hex.iter().map(|hex| ["p", hex]).collect();
        let tags: Vec<&[&str]> = tags.iter().map(|tag| &tag[..]).collect();
        event(author, FOLLOW_LIST_KIND, created_at, &tags, "")
    }

    #[test]
    fn newest_list_of_each_author_counts() {
        let [one, two, a, b, c, stranger] = [(); 6].map(|()| Keys::generate());
        let events = [
            list(&one, 20, &[&a]),
            list(&one, 10, &[&c]),
            list(&two, 5, &[&a, &b]),
            list(&stranger, 30, &[&c]),
            event(&one, 1, 40, &[&["p", &c.public_key().to_hex()]], ""),
        ];
        let authors = [one.public_key(), two.public_key()];
        let mut expected = vec![a.public_key(), b.public_key()];
        expected.sort();
        assert_eq!(followed(&authors, &events).unwrap(), expected);
    }

    #[test]
    fn missing_or_empty_list_changes_nothing() {
        let [one, two, a] = [(); 3].map(|()| Keys::generate());
        let authors = [one.public_key(), two.public_key()];
        let missing = followed(&authors, &[list(&one, 1, &[&a])]).unwrap_err();
        assert!(missing.to_string().contains(&npub(&two.public_key())));
        let events = [
            list(&one, 1, &[&a]),
            list(&two, 1, &[&a]),
            list(&two, 2, &[]),
        ];
        let empty = followed(&authors, &events).unwrap_err();
        assert!(empty.to_string().contains("empty"), "{empty}");
    }
}

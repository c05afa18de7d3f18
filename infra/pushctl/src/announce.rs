//! `pushctl announce`: who the service is, published under its own key to the relays it watches.

use anyhow::{Result, ensure};
use nostr::event::{Event, EventBuilder, FinalizeEvent, Kind, Tag};
use nostr::key::Keys;
use serde_json::json;

use crate::{key::npub, operator::Operator, relay};

/// The kinds that the service serves.
const KINDS: [u16; 5] = [3079, 3080, 3081, 3082, 22456];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The service's name.
    #[arg(long, default_value = "Push notifications")]
    name: String,
    /// What people should know of it.
    #[arg(long, default_value = "Wakes phones for Nostr apps.")]
    about: String,
    /// The URL of a picture.
    #[arg(long)]
    picture: Option<String>,
    /// Where to publish (repeatable). Default: the relays that the stack watches.
    #[arg(long)]
    relay: Vec<String>,
}

pub(crate) async fn run(operator: &Operator, arguments: Arguments) -> Result<()> {
    let watched = operator.deployed().await?.relays();
    let keys = operator.service_key().await?;
    let relays = if arguments.relay.is_empty() {
        watched.clone()
    } else {
        arguments.relay.clone()
    };
    ensure!(!relays.is_empty(), "the stack names no relays: say --relay");
    let events = events(
        &keys,
        &arguments,
        if watched.is_empty() {
            &relays
        } else {
            &watched
        },
    )?;
    let mut results = Vec::new();
    for url in &relays {
        for event in &events {
            let result = relay::publish(url, event)
                .await
                .map_err(|error| format!("{error:#}"));
            eprintln!(
                "{url}: kind {}: {}",
                event.kind.as_u16(),
                result.as_ref().err().map_or("taken", String::as_str)
            );
            results.push(json!({"relay": url, "kind": event.kind.as_u16(), "taken": result.is_ok(), "error": result.err()}));
        }
    }
    let taken = results
        .iter()
        .filter(|result| result["taken"] == true)
        .count();
    operator.answer(
        &json!({"pubkey": keys.public_key(), "results": results}),
        format!(
            "{} announced: {taken} of {} taken",
            npub(&keys.public_key()),
            results.len()
        ),
    );
    ensure!(taken > 0, "no relay took anything");
    Ok(())
}

/// Kind 0 (NIP-01), 10002 (NIP-65) and 31990 (NIP-89).
fn events(keys: &Keys, arguments: &Arguments, watched: &[String]) -> Result<Vec<Event>> {
    let mut profile = json!({"name": arguments.name, "about": arguments.about, "bot": true});
    if let Some(picture) = &arguments.picture {
        profile["picture"] = json!(picture);
    }
    let profile = profile.to_string();
    let event = |kind: u16, tags: Vec<Vec<String>>, content: &str| -> Result<Event> {
        let tags = tags.into_iter().filter_map(|tag| Tag::parse(tag).ok());
        Ok(EventBuilder::new(Kind::from_u16(kind), content)
            .tags(tags)
            .finalize(keys)?)
    };
    let relays = watched
        .iter()
        .map(|url| vec!["r".to_owned(), url.clone()])
        .collect();
    let kinds = KINDS
        .iter()
        .map(|kind| vec!["k".to_owned(), kind.to_string()]);
    let handler = std::iter::once(vec!["d".to_owned(), "nostr-push".to_owned()])
        .chain(kinds)
        .collect();
    Ok(vec![
        event(0, Vec::new(), &profile)?,
        event(10_002, relays, "")?,
        event(31_990, handler, &profile)?,
    ])
}

//! `pushctl announce`: publishes the service's profile, relay list and handler information, signed
//! with its key, to the relays that it watches.

use anyhow::{Result, ensure};
use nostr::{
    event::{Event, EventBuilder, FinalizeEvent, Kind, Tag},
    key::Keys,
};
use nostr_push_core::{
    admission::Admission,
    announcement::{AnnouncedApp, SERVICE, announcement},
    app::App,
};
use serde_json::{Value, json};

use crate::{
    context::CommandContext,
    key::{KEY_VERSION, npub},
    relay,
};

/// The kinds that the service handles.
const HANDLED_KINDS: [u16; 5] = [3079, 3080, 3081, 3082, 22456];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The service's name.
    #[arg(long, default_value = "Push notifications")]
    name: String,
    /// A description of the service.
    #[arg(long, default_value = "Wakes phones for Nostr apps.")]
    about: String,
    /// The URL of a picture.
    #[arg(long)]
    picture: Option<String>,
    /// A relay to publish to (repeatable). Default: the relays that the stack watches.
    #[arg(long)]
    relay: Vec<String>,
}

pub(crate) async fn run(context: &CommandContext, arguments: Arguments) -> Result<()> {
    let deployed = context.deployed().await?;
    let watched = deployed.relays();
    // A new key is announced once it is deployed.
    let stored = context
        .service_keys(deployed.parameter(KEY_VERSION))
        .await?;
    let keys = stored.keys.current();
    let relays = if arguments.relay.is_empty() {
        &watched
    } else {
        &arguments.relay
    };
    ensure!(
        !relays.is_empty(),
        "the stack watches no relays: use --relay"
    );
    let listed = if watched.is_empty() { relays } else { &watched };
    let apps = context.store.all_apps().await?;
    let events = events(keys, &arguments, listed, &apps)?;
    let mut results = Vec::new();
    for url in relays {
        for event in &events {
            results.push(publish(url, event).await);
        }
    }
    let accepted = results.iter().filter(|result| result["taken"] == true);
    let accepted = accepted.count();
    context.print(
        &json!({"pubkey": keys.public_key(), "results": results}),
        format_args!(
            "announced {}: {accepted} of {} events were accepted",
            npub(&keys.public_key()),
            results.len()
        ),
    );
    ensure!(accepted > 0, "no relay accepted an event");
    Ok(())
}

/// Publishes one event to one relay, prints the result, and returns it for the output.
async fn publish(url: &str, event: &Event) -> Value {
    let kind = event.kind.as_u16();
    let error = relay::publish(url, event).await.err();
    let error = error.map(|error| format!("{error:#}"));
    let result = error.as_deref().unwrap_or("accepted");
    eprintln!("{url}: kind {kind}: {result}");
    json!({"relay": url, "kind": kind, "taken": error.is_none(), "error": error})
}

/// The events:
/// - kind 0, the profile (NIP-01, <https://github.com/nostr-protocol/nips/blob/master/01.md>)
/// - kind 10002, the relay list (NIP-65,
///   <https://github.com/nostr-protocol/nips/blob/master/65.md>)
/// - kind 31990, the handled kinds (NIP-89,
///   <https://github.com/nostr-protocol/nips/blob/master/89.md>), and what each app asks of new
///   owners
fn events(
    keys: &Keys,
    arguments: &Arguments,
    relays: &[String],
    apps: &[App],
) -> Result<Vec<Event>> {
    let mut profile = json!({"name": arguments.name, "about": arguments.about, "bot": true});
    if let Some(picture) = &arguments.picture {
        profile["picture"] = json!(picture);
    }
    let profile = profile.to_string();
    let apps: Vec<AnnouncedApp> = apps.iter().map(announced).collect();
    let event = |kind: u16, tags: Vec<Vec<String>>, content: &str| -> Result<Event> {
        let tags = tags.into_iter().filter_map(|tag| Tag::parse(tag).ok());
        let builder = EventBuilder::new(Kind::from_u16(kind), content).tags(tags);
        Ok(builder.finalize(keys)?)
    };
    let tag = |name: &str, value: String| vec![name.to_owned(), value];
    let relays = relays.iter().map(|url| tag("r", url.clone()));
    Ok(vec![
        event(0, Vec::new(), &profile)?,
        event(10_002, relays.collect(), "")?,
        announcement(SERVICE, &profile, &HANDLED_KINDS, &apps).finalize(keys)?,
    ])
}

/// What clients are told about an app. The listener tells them when an open app asks for work.
fn announced(app: &App) -> AnnouncedApp {
    let difficulty = (app.admission == Admission::Pow).then(|| app.pow_difficulty());
    AnnouncedApp::new(app, difficulty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_apps_that_always_ask_for_work_have_a_difficulty() {
        let difficulty = |admission| {
            let app = App {
                admission,
                pow_difficulty: Some(9),
                ..App::named("demo")
            };
            announced(&app).difficulty
        };
        assert_eq!(difficulty(Admission::Open), None);
        assert_eq!(difficulty(Admission::Pow), Some(9));
        assert_eq!(difficulty(Admission::Closed), None);
    }
}

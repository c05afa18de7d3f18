//! `pushctl owner show`: what is stored of a pubkey, under each app. Tokens are not: they are in
//! SNS alone.

use anyhow::Result;
use nostr::key::PublicKey;
use nostr_push_aws::clients;
use nostr_push_core::{
    device,
    owner::Owner,
    ports::{MuteLists, OwnerSettings, Presences, Subscriptions, seconds},
};
use serde_json::{Value, json};

use crate::operator::{Operator, pubkey};

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Shows devices, subscriptions, settings and presence.
    Show(Show),
}

#[derive(clap::Args)]
pub(crate) struct Show {
    /// In hex or as npub.
    #[arg(value_parser = pubkey)]
    pubkey: PublicKey,
    /// Under this app alone.
    #[arg(long)]
    app: Option<String>,
}

pub(crate) async fn run(operator: &Operator, command: &Command) -> Result<()> {
    let Command::Show(arguments) = command;
    let store = &operator.store;
    let now = seconds(clients::now());
    let mut apps = Vec::new();
    for app in store.all_apps().await?.into_iter().filter(|app| {
        arguments
            .app
            .as_ref()
            .is_none_or(|wanted| *wanted == app.app)
    }) {
        let owner = Owner {
            app: app.app.clone(),
            pubkey: arguments.pubkey,
        };
        let view = device::view(store, &owner).await?;
        let devices: Vec<Value> = view
            .of_owner()
            .map(|(device, registration)| {
                json!({
                    "device": device.id.token_hash.get(..8), "platform": registration.platform, "state": registration.state,
                    "ended": registration.valid_until <= now, "valid_until": registration.valid_until, "by_settings": registration.by_settings,
                })
            })
            .collect();
        let subscriptions: Vec<Value> = store
            .of_owner(&owner)
            .await?
            .iter()
            .filter(|row| row.is_active(now))
            .map(
                |row| json!({"subscription": row.subscription, "filter": row.filter, "relays": row.relays, "valid_until": row.valid_until}),
            )
            .collect();
        let settings = store.settings(&owner).await?;
        let presence = store.presence(&owner).await?.map(|presence| {
            let open = presence.online && presence.last_seen + app.presence_timeout() > now;
            json!({"looks_open": open, "online": presence.online, "last_seen": presence.last_seen})
        });
        apps.push(json!({"app": app.app, "devices": devices, "subscriptions": subscriptions, "settings": settings, "presence": presence}));
    }
    let muted = store
        .mute_list(&arguments.pubkey)
        .await?
        .map_or(0, |list| list.entries.len());
    let answer = json!({"pubkey": arguments.pubkey, "muted": muted, "apps": apps});
    operator.answer(&answer, serde_json::to_string_pretty(&answer)?);
    Ok(())
}

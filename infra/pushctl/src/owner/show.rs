//! `pushctl owner show`: what is stored about a pubkey, under each app. Tokens are only in SNS and
//! are not shown.

use anyhow::Result;
use nostr::key::PublicKey;
use nostr_push_aws::clients;
use nostr_push_core::{
    Seconds,
    app::App,
    device::{Device, Registration},
    device_store::owner_devices,
    owner::Owner,
    ports::{MuteLists, OwnerSettings, Presences, Subscriptions},
    presence::Presence,
    subscription::Subscription,
};
use serde_json::{Value, json};

use super::apps;
use crate::context::{CommandContext, pubkey};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The pubkey: hex or npub.
    #[arg(value_parser = pubkey)]
    pubkey: PublicKey,
    /// Shows this app only.
    #[arg(long)]
    app: Option<String>,
}

pub(crate) async fn run(context: &CommandContext, arguments: &Arguments) -> Result<()> {
    let Arguments { pubkey, app } = arguments;
    let apps = apps(context, app.as_deref()).await?;
    let now = clients::now().to_seconds();
    let mut shown = Vec::new();
    for app in &apps {
        shown.push(show(context, app, *pubkey, now).await?);
    }
    let mute_list = context.store.mute_list(pubkey).await?;
    let muted = mute_list.map_or(0, |list| list.entries.len());
    let blocked = context.store.blocked().await?.contains(&pubkey.to_hex());
    context.print_json(&json!({
        "pubkey": pubkey, "blocked": blocked, "muted": muted, "apps": shown,
    }));
    Ok(())
}

/// What is stored under one app.
async fn show(
    context: &CommandContext,
    app: &App,
    pubkey: PublicKey,
    now: Seconds,
) -> Result<Value> {
    let store = &context.store;
    let owner = Owner {
        app: app.app.clone(),
        pubkey,
    };
    let stored = owner_devices(store, &owner).await?;
    let devices = stored
        .of_owner()
        .map(|(device, registration)| show_device(device, registration, now));
    let rows = store.of_owner(&owner).await?;
    let shown = rows
        .iter()
        .filter(|row| row.is_active(now) || row.is_dormant(now));
    let presence = store.presence(&owner).await?;
    Ok(json!({
        "app": app.app,
        "devices": devices.collect::<Vec<_>>(),
        "subscriptions": shown.map(show_subscription).collect::<Vec<_>>(),
        "settings": store.settings(&owner).await?,
        "presence": presence.map(|presence| show_presence(&presence, app, now)),
    }))
}

fn show_device(device: &Device, registration: &Registration, now: Seconds) -> Value {
    json!({
        "device": device.id.token_hash.get(..8),
        "platform": registration.platform,
        "state": registration.state,
        "ended": registration.valid_until <= now,
        "valid_until": registration.valid_until,
        "by_settings": registration.by_settings,
        "proven": registration.proven,
    })
}

fn show_subscription(row: &Subscription) -> Value {
    json!({
        "subscription": row.identity,
        "filter": row.filter,
        "relays": row.relays,
        "state": row.state,
        "valid_until": row.valid_until,
    })
}

fn show_presence(presence: &Presence, app: &App, now: Seconds) -> Value {
    let looks_open = presence.online && presence.last_seen + app.presence_timeout() > now;
    json!({
        "looks_open": looks_open,
        "online": presence.online,
        "last_seen": presence.last_seen,
    })
}

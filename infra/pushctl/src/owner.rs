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

use crate::context::{CommandContext, pubkey};

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Shows devices, subscriptions, settings and presence.
    Show(Show),
}

#[derive(clap::Args)]
pub(crate) struct Show {
    /// The pubkey: hex or npub.
    #[arg(value_parser = pubkey)]
    pubkey: PublicKey,
    /// Shows this app only.
    #[arg(long)]
    app: Option<String>,
}

pub(crate) async fn run(context: &CommandContext, command: &Command) -> Result<()> {
    let Command::Show(Show { pubkey, app }) = command;
    let mut apps = context.store.all_apps().await?;
    if let Some(app) = app {
        apps.retain(|row| row.app == *app);
    }
    let now = clients::now().to_seconds();
    let mut shown = Vec::new();
    for app in &apps {
        shown.push(show(context, app, *pubkey, now).await?);
    }
    let mute_list = context.store.mute_list(pubkey).await?;
    let muted = mute_list.map_or(0, |list| list.entries.len());
    context.print_json(&json!({"pubkey": pubkey, "muted": muted, "apps": shown}));
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
    let active = rows.iter().filter(|row| row.is_active(now));
    let presence = store.presence(&owner).await?;
    Ok(json!({
        "app": app.app,
        "devices": devices.collect::<Vec<_>>(),
        "subscriptions": active.map(show_subscription).collect::<Vec<_>>(),
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

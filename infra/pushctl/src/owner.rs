//! `pushctl owner`: what is stored about a pubkey, what owners cost, and what to do about it.
//!
//! - [`show`]: what is stored
//! - [`top`]: the owners who cost the most
//! - [`block`]: pubkeys whose control events are refused
//! - [`evict`]: removes everything of an owner

mod block;
mod evict;
mod show;
mod top;

use anyhow::{Result, ensure};
use nostr_push_core::app::App;

use crate::context::CommandContext;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Shows devices, subscriptions, settings and presence of a pubkey.
    Show(show::Arguments),
    /// Lists the owners who cost the most today.
    Top(top::Arguments),
    /// Refuses all control events of a pubkey. What the pubkey has registered stays in force: see
    /// `evict`.
    Block(block::Arguments),
    /// Accepts control events of a blocked pubkey again.
    Unblock(block::Arguments),
    /// Lists the blocked pubkeys.
    Blocked,
    /// Removes the devices, filters, settings and presence of a pubkey. The pubkey can register
    /// again, unless it is blocked.
    Evict(evict::Arguments),
}

pub(crate) async fn run(context: &CommandContext, command: &Command) -> Result<()> {
    match command {
        Command::Show(arguments) => show::run(context, arguments).await,
        Command::Top(arguments) => top::run(context, arguments).await,
        Command::Block(arguments) => block::run(context, arguments, true).await,
        Command::Unblock(arguments) => block::run(context, arguments, false).await,
        Command::Blocked => block::list(context).await,
        Command::Evict(arguments) => evict::run(context, arguments).await,
    }
}

/// The app with this id, or all apps.
async fn apps(context: &CommandContext, id: Option<&str>) -> Result<Vec<App>> {
    let mut apps = context.store.all_apps().await?;
    if let Some(id) = id {
        apps.retain(|app| app.app == id);
        ensure!(!apps.is_empty(), "there is no app {id}");
    }
    Ok(apps)
}

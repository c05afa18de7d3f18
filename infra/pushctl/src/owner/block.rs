//! `pushctl owner block`, `unblock` and `blocked`: the pubkeys whose control events are refused as
//! `not_admitted`.

use anyhow::{Result, ensure};
use nostr::key::PublicKey;
use serde_json::json;

use crate::{
    context::{CommandContext, pubkey},
    key::npub,
    options::MAX_PUBKEYS,
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The pubkey: hex or npub.
    #[arg(value_parser = pubkey)]
    pubkey: PublicKey,
}

/// Blocks a pubkey, or no longer blocks it.
pub(crate) async fn run(
    context: &CommandContext,
    arguments: &Arguments,
    blocked: bool,
) -> Result<()> {
    let Arguments { pubkey } = arguments;
    if blocked {
        // The list is one row, which DynamoDB limits to 400 KB.
        let others = context.store.blocked().await?.len();
        ensure!(
            others < MAX_PUBKEYS,
            "{others} pubkeys are blocked, and the list has room for {MAX_PUBKEYS}"
        );
    }
    context.store.set_blocked(pubkey, blocked).await?;
    let state = if blocked { "blocked" } else { "not blocked" };
    context.print(
        &json!({"pubkey": pubkey, "blocked": blocked}),
        format_args!("{} is {state}; control knows within a minute", npub(pubkey)),
    );
    Ok(())
}

/// Lists the blocked pubkeys.
pub(crate) async fn list(context: &CommandContext) -> Result<()> {
    let blocked = context.store.blocked().await?;
    let lines: Vec<&str> = blocked.iter().map(String::as_str).collect();
    let text = if lines.is_empty() {
        "no pubkey is blocked".to_owned()
    } else {
        lines.join("\n")
    };
    context.print(&json!(blocked), text);
    Ok(())
}

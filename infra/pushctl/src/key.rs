//! `pushctl key`: the service's key in Secrets Manager. The secret key is never printed.

use anyhow::{Context, Result, ensure};
use nostr::{
    key::{Keys, PublicKey},
    nips::nip19::ToBech32,
};
use serde_json::json;

use crate::context::CommandContext;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Prints the service's pubkey, which client developers need.
    Show,
    /// Creates a new key. A new key means a new service: all clients must learn the new pubkey and
    /// register again.
    New {
        /// Confirms that all clients must register again.
        #[arg(long)]
        yes: bool,
    },
}

pub(crate) async fn run(context: &CommandContext, command: &Command) -> Result<()> {
    let pubkey = match command {
        Command::Show => context.service_key().await?.public_key(),
        Command::New { yes } => {
            ensure!(
                yes,
                "all clients must learn the new pubkey and register again: confirm with --yes"
            );
            create(context).await?
        }
    };
    let npub = npub(&pubkey);
    context.print(
        &json!({"pubkey": pubkey, "npub": npub}),
        format_args!("{npub}\n{pubkey}"),
    );
    Ok(())
}

/// Stores a new key, and returns its pubkey.
async fn create(context: &CommandContext) -> Result<PublicKey> {
    let keys = Keys::generate();
    let client = aws_sdk_secretsmanager::Client::new(&context.aws);
    let request = client
        .put_secret_value()
        .secret_id(context.secret())
        .secret_string(keys.secret_key().to_secret_hex());
    request.send().await.context("cannot write the secret")?;
    eprintln!(
        "The new key is stored. Restart the listener and the functions: see \
         \"Rotating credentials\" in docs/operations.md"
    );
    Ok(keys.public_key())
}

/// The pubkey as an npub (NIP-19, <https://github.com/nostr-protocol/nips/blob/master/19.md>).
pub(crate) fn npub(pubkey: &PublicKey) -> String {
    // 32 bytes can always be encoded.
    pubkey.to_bech32().unwrap_or_default()
}

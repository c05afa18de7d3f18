//! `pushctl key`: the service's key, in Secrets Manager. It is never printed.

use anyhow::{Context, Result, ensure};
use nostr::{
    key::{Keys, PublicKey},
    nips::nip19::ToBech32,
};
use serde_json::json;

use crate::operator::Operator;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Prints the service's pubkey, which client developers need.
    Show,
    /// Makes a new key. A new key is a new service: all clients must learn its pubkey and register
    /// again.
    New {
        /// Yes, a new service.
        #[arg(long)]
        yes: bool,
    },
}

pub(crate) async fn run(operator: &Operator, command: &Command) -> Result<()> {
    let pubkey = match command {
        Command::Show => operator.service_key().await?.public_key(),
        Command::New { yes } => {
            ensure!(
                yes,
                "all clients must learn the new pubkey and register again: say --yes"
            );
            let keys = Keys::generate();
            let client = aws_sdk_secretsmanager::Client::new(&operator.aws);
            let request = client
                .put_secret_value()
                .secret_id(operator.secret())
                .secret_string(keys.secret_key().to_secret_hex());
            request
                .send()
                .await
                .context("the secret cannot be written")?;
            eprintln!(
                "stored. Restart the listener and the functions: docs/operations.md, \"Rotating credentials\""
            );
            keys.public_key()
        }
    };
    let npub = npub(&pubkey);
    operator.answer(
        &json!({"pubkey": pubkey, "npub": npub}),
        format!("{npub}\n{pubkey}"),
    );
    Ok(())
}

/// The pubkey as people pass it on.
pub(crate) fn npub(pubkey: &PublicKey) -> String {
    // Never fails: 32 bytes always encode.
    pubkey.to_bech32().unwrap_or_default()
}

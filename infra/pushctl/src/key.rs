//! `pushctl key`: the service's key in Secrets Manager. The secret key is never printed.

use anyhow::{Context, Result, ensure};
use nostr::{
    key::{Keys, PublicKey},
    nips::nip19::ToBech32,
};
use nostr_push_aws::{clients, secrets::StoredKeys};
use nostr_push_core::{Seconds, service_keys::ServiceKeys};
use serde_json::json;

use crate::context::CommandContext;

/// The parameter of the stack that names the version of the secret.
pub(crate) const KEY_VERSION: &str = "KeyVersion";

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Prints the service's pubkey, which client developers need.
    Show,
    /// Creates a new key. For some days the service accepts events to the old key as well. All
    /// clients must learn the new pubkey in this time. Devices and filters stay registered.
    New {
        /// For how many days the old key is accepted. 0: not at all, for a key that has leaked.
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(..=400))]
        overlap_days: u16,
        /// Confirms that all clients must learn the new pubkey.
        #[arg(long)]
        yes: bool,
    },
}

pub(crate) async fn run(context: &CommandContext, command: &Command) -> Result<()> {
    let stored = match command {
        Command::Show => context.service_keys(None).await?,
        Command::New { overlap_days, yes } => rotate(context, *overlap_days, *yes).await?,
    };
    let pubkey = stored.keys.current().public_key();
    let npub = npub(&pubkey);
    let previous = stored.keys.previous();
    let shown = json!({
        "pubkey": pubkey, "npub": npub, "version": stored.version,
        "previous": previous.map(|(pubkey, _)| pubkey),
        "previous_until": previous.map(|(_, until)| until),
    });
    context.print(&shown, format_args!("{npub}\n{pubkey}"));
    Ok(())
}

/// Stores a new key.
async fn rotate(context: &CommandContext, overlap_days: u16, yes: bool) -> Result<StoredKeys> {
    let stored = context.service_keys(None).await?;
    let now = clients::now().to_seconds();
    let ending = warning(&stored.keys, now);
    if let Some(ending) = &ending {
        eprintln!("{ending}");
    }
    ensure!(
        yes,
        "all clients must learn the new pubkey within {overlap_days} days: confirm with --yes"
    );
    check_deployed(context, &stored.version, overlap_days).await?;
    let until = now + Seconds::from_days(overlap_days.into());
    let until = (overlap_days > 0).then_some(until);
    let keys = stored.keys.rotated(Keys::generate(), until);
    let client = aws_sdk_secretsmanager::Client::new(&context.aws);
    let request = client
        .put_secret_value()
        .secret_id(context.secret())
        .secret_string(keys.to_secret_text());
    let response = request.send().await.context("cannot write the secret")?;
    let version = response.version_id.unwrap_or_default();
    eprintln!(
        "The new key is stored. Deploy it with infra/deploy {KEY_VERSION}={version} and then run \
         pushctl announce: see \"Rotating credentials\" in docs/operations.md"
    );
    Ok(StoredKeys { keys, version })
}

/// What a rotation ends at once, besides the current key.
fn warning(keys: &ServiceKeys, now: Seconds) -> Option<String> {
    let (pubkey, until) = keys.previous().filter(|(_, until)| *until > now)?;
    let days = (until - now).0.div_ceil(Seconds::from_days(1).0);
    Some(format!(
        "Warning: the key before the current one, {}, is still accepted for {days} days. With \
         another new key it ends as soon as that is deployed, and clients that still use it are \
         not served",
        npub(&pubkey)
    ))
}

/// Checks that the stack uses the current version of the secret. Otherwise a new version would
/// leave the stack with one that Secrets Manager may delete, because no label names it.
///
/// Before the first rotation the stack names no version. Its programs then read the current one
/// when they start, so a new key takes effect before it is deployed. This is safe if the new key is
/// the second one, and if the old key is accepted for a time.
async fn check_deployed(context: &CommandContext, version: &str, overlap_days: u16) -> Result<()> {
    let deployed = context.deployed().await?;
    let is_deployed = match deployed.parameter(KEY_VERSION) {
        Some(deployed) => deployed == version,
        None => overlap_days > 0 && !has_previous_version(context).await?,
    };
    ensure!(
        is_deployed,
        "the stored key is not deployed yet: run infra/deploy {KEY_VERSION}={version} first"
    );
    Ok(())
}

/// Returns `true` if the secret has had another version before the current one.
async fn has_previous_version(context: &CommandContext) -> Result<bool> {
    let client = aws_sdk_secretsmanager::Client::new(&context.aws);
    let request = client.describe_secret().secret_id(context.secret());
    let response = request.send().await.context("cannot describe the secret")?;
    let versions = response.version_ids_to_stages.unwrap_or_default();
    Ok(versions
        .values()
        .flatten()
        .any(|stage| stage == "AWSPREVIOUS"))
}

/// The pubkey as an npub (NIP-19, <https://github.com/nostr-protocol/nips/blob/master/19.md>).
pub(crate) fn npub(pubkey: &PublicKey) -> String {
    // 32 bytes can always be encoded.
    pubkey.to_bech32().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warns_of_a_key_that_a_second_rotation_would_end() {
        let [first, second] = [(); 2].map(|()| Keys::generate());
        let keys = ServiceKeys::from(first.clone());
        assert_eq!(warning(&keys, Seconds(0)), None);
        let until = Seconds::from_days(30);
        let rotated = keys.rotated(second, Some(until));
        let text = warning(&rotated, Seconds::from_days(20)).unwrap();
        assert!(text.contains(&npub(&first.public_key())) && text.contains("10 days"));
        assert_eq!(warning(&rotated, until), None);
    }
}

//! `pushctl app grant`: makes a grant, as a backend does it. `docs/protocol.md` explains the
//! format.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use nostr::{
    event::{Event, EventBuilder, FinalizeEvent, Kind, Tag},
    key::{Keys, PublicKey},
    types::Timestamp,
};
use nostr_push_aws::clients;
use nostr_push_core::{Seconds, admission::GRANT_KIND};
use serde_json::json;

use crate::context::{CommandContext, pubkey};

/// The environment variable with the secret key that signs grants.
const KEY_VARIABLE: &str = "NOSTR_PUSH_GRANT_KEY";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The app's id.
    app: String,
    /// The pubkey to admit: hex or npub.
    #[arg(value_parser = pubkey)]
    pubkey: PublicKey,
    /// For how many days the pubkey can register with the grant.
    #[arg(long, default_value_t = 7)]
    days: u64,
    /// A file with the secret key that signs grants, in hex or as an nsec. Default: the environment
    /// variable `NOSTR_PUSH_GRANT_KEY`.
    #[arg(long)]
    key_file: Option<PathBuf>,
}

pub(crate) async fn run(context: &CommandContext, arguments: &Arguments) -> Result<()> {
    let app = context.app(&arguments.app).await?;
    let key = read_key(arguments)?;
    ensure!(
        app.grant_key == Some(key.public_key()),
        "the key is not the grant_key of {}: pushctl app set {} grant_key={}",
        app.app,
        app.app,
        key.public_key()
    );
    let expiry = clients::now().to_seconds() + Seconds::from_days(arguments.days);
    let signed = sign(&key, &app.app, &arguments.pubkey, expiry)?;
    let tag = json!(["grant", expiry.to_string(), signed.sig]);
    context.print(&tag, &tag);
    Ok(())
}

/// Reads the key from the file or the environment. It is not an argument, because other users of
/// the machine can see the arguments of a process.
fn read_key(arguments: &Arguments) -> Result<Keys> {
    let secret = match &arguments.key_file {
        Some(file) => std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}", file.display()))?,
        None => std::env::var(KEY_VARIABLE)
            .with_context(|| format!("set {KEY_VARIABLE}, or use --key-file"))?,
    };
    Keys::parse(secret.trim()).context("the grant key is neither 64 hex characters nor an nsec")
}

/// The event whose signature is the grant.
fn sign(key: &Keys, app: &str, pubkey: &PublicKey, expiry: Seconds) -> Result<Event> {
    let tags = [
        Tag::parse(["app", app])?,
        Tag::parse(["p", &pubkey.to_hex()])?,
    ];
    let event = EventBuilder::new(Kind::from_u16(GRANT_KIND), "")
        .tags(tags)
        .custom_created_at(Timestamp::from_secs(expiry.0))
        .finalize(key)?;
    Ok(event)
}

#[cfg(test)]
mod tests {
    use nostr_push_core::{
        admission::{Admission, admits},
        app::App,
    };
    use nostr_push_testkit::event;
    use serde_json::Value;

    use super::*;

    fn app(id: &str, grant_key: PublicKey) -> App {
        App {
            admission: Admission::Grant,
            grant_key: Some(grant_key),
            ..App::named(id)
        }
    }

    #[test]
    fn signed_grant_admits_until_its_expiry() {
        let (key, keys) = (Keys::generate(), Keys::generate());
        let signed = sign(&key, "demo", &keys.public_key(), Seconds(2_000)).unwrap();
        let signature = signed.sig.to_string();
        let granted = event(&keys, 3079, 1_000, &[&["grant", "2000", &signature]], "");
        let app = app("demo", key.public_key());
        assert!(admits(&app, &granted, Seconds(1_999)));
        assert!(!admits(&app, &granted, Seconds(2_000)));
    }

    /// The vectors are for the developers of backends in other languages.
    #[test]
    fn documented_vectors_hold() {
        let vectors: Value =
            serde_json::from_str(include_str!("../../../../docs/grants.json")).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let key = Keys::parse(&text(&vectors["grant_secret_key"])).unwrap();
        assert_eq!(text(&vectors["grant_key"]), key.public_key().to_hex());
        let grants = vectors["grants"].as_array().unwrap();
        for grant in grants {
            let about = text(&grant["about"]);
            let signer = Keys::parse(&text(&grant["secret_key"])).unwrap();
            let tag: Vec<String> = serde_json::from_value(grant["tag"].clone()).unwrap();
            let tag: Vec<&str> = tag.iter().map(String::as_str).collect();
            let at = grant["at"].as_u64().unwrap();
            let control = event(&signer, 3079, at, &[&tag], "");
            assert_eq!(text(&grant["pubkey"]), control.pubkey.to_hex(), "{about}");
            let app = app(&text(&grant["app"]), key.public_key());
            let admitted = admits(&app, &control, Seconds(at));
            assert_eq!(grant["admitted"], admitted, "{about}");
        }
        let signed = &vectors["signed_event"];
        let event: Event = serde_json::from_value(signed.clone()).unwrap();
        event.verify().unwrap();
        let pubkey = PublicKey::from_hex(&text(&grants[0]["pubkey"])).unwrap();
        let again = sign(
            &key,
            &text(&grants[0]["app"]),
            &pubkey,
            event.created_at.into(),
        );
        assert_eq!(
            again.unwrap().id,
            event.id,
            "the id does not depend on the signature"
        );
        assert_eq!(grants[0]["tag"][2], json!(event.sig));
    }
}

//! `pushctl send-test`: a push to all devices of a pubkey. It bypasses all filters and limits.

use anyhow::{Result, ensure};
use deliver::{
    names::Names,
    notice::Notice,
    push::{self, publish_to},
};
use nostr::{
    event::{EventBuilder, FinalizeEvent, Kind},
    key::{Keys, PublicKey},
};
use nostr_push_aws::clients;
use nostr_push_core::{
    app::{App, ContentDetail},
    device_store::owner_devices,
    message::Delivery,
    owner::Owner,
    ports::PublishOutcome,
};
use serde_json::{Value, json};

use crate::context::{CommandContext, pubkey};

/// The result of a push that SNS accepted.
const ACCEPTED: &str = "accepted by SNS";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The app's id.
    app: String,
    /// The pubkey: hex or npub.
    #[arg(value_parser = pubkey)]
    pubkey: PublicKey,
    /// The text of the push.
    #[arg(long, default_value = "This is a test.")]
    text: String,
}

pub(crate) async fn run(context: &CommandContext, arguments: &Arguments) -> Result<()> {
    let app = context.app(&arguments.app).await?;
    let owner = Owner {
        app: app.app.clone(),
        pubkey: arguments.pubkey,
    };
    let now = clients::now().to_seconds();
    let delivery = delivery(&owner, &arguments.text)?;
    // The text of the test is shown in any case.
    let app = App {
        content: ContentDetail::Rich,
        ..app
    };
    let notice = Notice::of_event(&app, &delivery, Names::default(), now);
    let mut results = Vec::new();
    for (device, registration) in owner_devices(&context.store, &owner).await?.active(now) {
        let push = push::build(&notice, device, registration);
        let outcome = publish_to(&context.sns, registration, &push).await;
        results.push(json!({
            "device": device.id.token_hash.get(..8),
            "platform": registration.platform,
            "result": describe(outcome),
        }));
    }
    ensure!(
        !results.is_empty(),
        "this pubkey has no device under {}: see pushctl owner show {}",
        arguments.app,
        arguments.pubkey
    );
    let lines: Vec<String> = results.iter().map(line).collect();
    context.print(&json!(results), lines.join("\n"));
    let is_accepted = |result: &Value| result["result"] == ACCEPTED;
    ensure!(results.iter().any(is_accepted), "SNS accepted no push");
    Ok(())
}

/// A delivery of a note by a new key, so that no app attributes it to a known person.
fn delivery(owner: &Owner, text: &str) -> Result<Delivery> {
    let event = EventBuilder::new(Kind::from_u16(1), text).finalize(&Keys::generate())?;
    Ok(Delivery {
        app: owner.app.clone(),
        recipient: owner.pubkey,
        reasons: vec!["test".to_owned()],
        relay: String::new(),
        received_at: clients::now(),
        cut: false,
        mentions: None,
        zapper: None,
        waited: false,
        event,
    })
}

fn describe(outcome: PublishOutcome) -> String {
    match outcome {
        PublishOutcome::Delivered => ACCEPTED.to_owned(),
        PublishOutcome::Gone => "the endpoint is disabled or deleted".to_owned(),
        PublishOutcome::Retry { reason, .. } => format!("failed temporarily: {}", reason.reason()),
        PublishOutcome::Rejected { why, .. } => format!("rejected: {why}"),
    }
}

/// One line of output.
fn line(result: &Value) -> String {
    let text = |field: &str| result[field].as_str().unwrap_or_default();
    format!(
        "{} ({}): {}",
        text("device"),
        text("platform"),
        text("result")
    )
}

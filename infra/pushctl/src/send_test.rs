//! `pushctl send-test`: a push to all devices of a pubkey, past every filter and limit.

use anyhow::{Result, ensure};
use deliver::{apns, fcm, text::Text};
use nostr::{
    event::{EventBuilder, FinalizeEvent, Kind},
    key::{Keys, PublicKey},
};
use nostr_push_aws::clients;
use nostr_push_core::{
    app::{Content, Platform},
    device,
    message::Delivery,
    owner::Owner,
    ports::{Outcome, Publisher, seconds},
};
use serde_json::json;

use crate::operator::{Operator, pubkey};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The app's id.
    app: String,
    /// In hex or as npub.
    #[arg(value_parser = pubkey)]
    pubkey: PublicKey,
    /// What it says.
    #[arg(long, default_value = "This is a test.")]
    text: String,
}

pub(crate) async fn run(operator: &Operator, arguments: &Arguments) -> Result<()> {
    let app = operator.app(&arguments.app).await?;
    let owner = Owner {
        app: app.app.clone(),
        pubkey: arguments.pubkey,
    };
    let now = seconds(clients::now());
    let view = device::view(&operator.store, &owner).await?;
    // Signed by nobody that anybody knows: no app shall take it for a note of somebody's.
    let event = EventBuilder::new(Kind::from_u16(1), &arguments.text).finalize(&Keys::generate())?;
    let delivery = Delivery {
        app: owner.app,
        recipient: owner.pubkey,
        reasons: vec!["test".to_owned()],
        relay: String::new(),
        received_at: clients::now(),
        cut: false,
        waited: false,
        event,
    };
    let text = Text::of(&delivery, Content::Rich);
    let mut results = Vec::new();
    for (device, registration) in view.active(now) {
        let push = match registration.platform {
            Platform::Apns => apns::push("APNS", &app, &delivery, &text, now),
            Platform::ApnsSandbox => apns::push("APNS_SANDBOX", &app, &delivery, &text, now),
            Platform::Fcm => fcm::push(&delivery, &text, now),
        };
        let outcome = match &registration.endpoint_arn {
            Some(arn) => operator.sns.publish(arn, &push).await,
            None => Outcome::Gone,
        };
        let result = match outcome {
            Outcome::Delivered => "accepted by SNS".to_owned(),
            Outcome::Gone => "SNS says that the device is gone".to_owned(),
            Outcome::Retry { reason, .. } => format!("failed for now: {reason}"),
            Outcome::Rejected { why, .. } => format!("rejected: {why}"),
        };
        results.push(json!({"device": device.id.token_hash.get(..8), "platform": registration.platform, "result": result}));
    }
    ensure!(
        !results.is_empty(),
        "this pubkey has no device under {}: pushctl owner show {}",
        arguments.app,
        arguments.pubkey
    );
    let lines: Vec<String> = results
        .iter()
        .map(|result| {
            format!(
                "{} ({}): {}",
                result["device"].as_str().unwrap_or_default(),
                result["platform"].as_str().unwrap_or_default(),
                result["result"].as_str().unwrap_or_default()
            )
        })
        .collect();
    operator.answer(&json!(results), lines.join("\n"));
    ensure!(
        results
            .iter()
            .any(|result| result["result"] == "accepted by SNS"),
        "no device got it"
    );
    Ok(())
}

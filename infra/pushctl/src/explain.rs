//! `pushctl explain`: runs the code of matcher and deliver on the stored rows, without writing or
//! sending anything. So it explains exactly what the functions would do.

use std::{collections::HashSet, io::Read as _, path::PathBuf};

use anyhow::{Context, Result, ensure};
use aws_sdk_secretsmanager::primitives::{DateTime, DateTimeFormat};
use deliver::{claim::Attempt, outcome::DeliveryOutcome};
use matcher::{
    handler::{Matcher, notifies_until},
    outcome::{MatchDropReason, MatchOutcome},
};
use nostr::event::Event;
use nostr_push_aws::clients;
use nostr_push_core::{
    Millis, Seconds,
    index_key::{KeyRef, keys_of},
    message::{ContentMessage, DeliveryMessage},
};
use serde_json::{Value, json};

use crate::{context::CommandContext, dry_run::DryRun};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A file with the event as JSON. `-` reads standard input.
    event: PathBuf,
    /// Treats the event as stored: as if the relay had sent it before EOSE.
    #[arg(long)]
    backfill: bool,
    /// Treats the event as one that only this relay of owners has sent.
    #[arg(long, value_name = "URL")]
    owners_relay: Option<String>,
}

pub(crate) async fn run(context: &CommandContext, arguments: &Arguments) -> Result<()> {
    let event = read_event(arguments)?;
    let now = clients::now();
    let dry_run = DryRun::new(&context.store);
    let message = content_message(event.clone(), arguments, now);
    let (matches, deliveries) = run_matcher(&dry_run, message, now).await?;
    let mut recipients = Vec::new();
    for message in &deliveries {
        recipients.push(run_deliver(&dry_run, message, now).await?);
    }
    let sum = |count: fn(&MatchOutcome) -> u64| matches.iter().map(count).sum::<u64>();
    let dropped = matches.iter().find_map(|outcome| outcome.dropped);
    context.print_json(&json!({
        "event": event.id,
        "kind": event.kind.as_u16(),
        "notifies_until": date(notifies_until(&event)),
        "dropped": dropped.map(MatchDropReason::reason),
        "own_event": sum(|outcome| outcome.own_events),
        "before_subscription": sum(|outcome| outcome.before_subscription_matches),
        "relay_not_named": sum(|outcome| outcome.relay_not_named_matches),
        "too_many_rows": sum(|outcome| outcome.too_many_rows),
        "no_device": sum(|outcome| outcome.no_device),
        "recipients": recipients,
    }));
    Ok(())
}

/// The time as `2026-11-25T21:30:05Z`. A time after the year 9999 is a Unix time.
fn date(time: Seconds) -> String {
    let seconds = i64::try_from(time.0).unwrap_or(i64::MAX);
    DateTime::from_secs(seconds)
        .fmt(DateTimeFormat::DateTime)
        .unwrap_or_else(|_| time.to_string())
}

fn read_event(arguments: &Arguments) -> Result<Event> {
    let mut text = String::new();
    if arguments.event.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text)?;
    } else {
        text = std::fs::read_to_string(&arguments.event)
            .with_context(|| format!("cannot read {}", arguments.event.display()))?;
    }
    let event: Event = serde_json::from_str(&text).context("not a Nostr event")?;
    ensure!(
        event.verify().is_ok(),
        "the id or the signature is wrong: the listener would drop the event (bad_signature)"
    );
    Ok(event)
}

/// The message for the matcher, as if all index keys of the event were in use.
fn content_message(event: Event, arguments: &Arguments, now: Millis) -> ContentMessage {
    let owners_relay = arguments.owners_relay.as_deref();
    let mut seen = HashSet::new();
    let hits = keys_of(&event)
        .map(KeyRef::to_owned)
        .filter(|key| seen.insert(key.to_string()))
        .collect();
    ContentMessage {
        relay: owners_relay.unwrap_or("wss://explain.invalid").to_owned(),
        received_at: now,
        backfill: arguments.backfill,
        from_owners_relay: owners_relay.is_some(),
        hits,
        position: None,
        event,
    }
}

/// Runs the matcher on the event, and on each rest of its fan-out. Returns the outcomes and the
/// deliveries.
async fn run_matcher(
    dry_run: &DryRun<'_>,
    content: ContentMessage,
    now: Millis,
) -> Result<(Vec<MatchOutcome>, Vec<DeliveryMessage>)> {
    let (mut outcomes, mut deliveries) = (Vec::new(), Vec::new());
    let matcher = Matcher::new(u64::MAX);
    let mut next = Some(content);
    while let Some(content) = next {
        let outcome = matcher.handle(dry_run, dry_run, &content, || now).await?;
        outcomes.push(outcome);
        deliveries.extend(dry_run.take_deliveries());
        next = dry_run.take_rest();
    }
    Ok((outcomes, deliveries))
}

/// Runs deliver on one delivery, and describes the result.
async fn run_deliver(
    dry_run: &DryRun<'_>,
    message: &DeliveryMessage,
    now: Millis,
) -> Result<Value> {
    let attempt = Attempt {
        holder: "explain".to_owned(),
        now,
        lease: Seconds::from_minutes(1),
    };
    let budgets = deliver::profile_requests::RequestBudgets::default();
    let result =
        deliver::handler::handle(dry_run, dry_run, dry_run, &budgets, message, &attempt).await?;
    let (outcome, reason) = describe(&result);
    let owner = message.owner();
    let found_by = match message {
        DeliveryMessage::Event(delivery) => delivery.reasons.clone(),
        DeliveryMessage::Summary(_) => Vec::new(),
    };
    let title = dry_run
        .take_pushes()
        .first()
        .and_then(|push| serde_json::from_str::<Value>(&push.message).ok())
        .map(|message| message["default"].clone());
    Ok(json!({
        "app": owner.app,
        "recipient": owner.pubkey,
        "found_by": found_by,
        "outcome": outcome,
        "reason": reason,
        "title": title,
    }))
}

fn describe(outcome: &DeliveryOutcome) -> (&'static str, String) {
    match outcome {
        DeliveryOutcome::Dropped(reason) => ("dropped", reason.reason().to_owned()),
        DeliveryOutcome::Waiting(time) => {
            ("waits", format!("the app looks open: {} s", time.as_secs()))
        }
        DeliveryOutcome::Completed(devices) => ("pushed", format!("to {} devices", devices.len())),
        DeliveryOutcome::Retry { reason, .. } => ("again", reason.reason().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_readable_and_never_fail() {
        assert_eq!(date(Seconds(1_795_642_205)), "2026-11-25T21:30:05Z");
        assert_eq!(date(Seconds(u64::MAX)), u64::MAX.to_string());
    }
}

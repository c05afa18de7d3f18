//! What happens to each message of the relay.

use std::time::Duration;

use nostr::event::Event;
use nostr_push_core::Seconds;
use serde_json::value::RawValue;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Error;

use super::{Session, SessionEnd};
use crate::{
    counter::{DropReason, RelayReason},
    frame::Incoming,
    gate::{IncomingEvent, Verdict, parse_event},
    penalty::{CHALLENGE_POINTS, COMPLAINT_POINTS, points},
    relay_message::RelayMessage,
};

/// How often a complaint of a relay is logged. All are counted.
const COMPLAINT_LOG_INTERVAL: Duration = Duration::from_secs(60);

impl Session<'_> {
    /// Handles one frame or message.
    pub(super) async fn on_frame(&mut self, frame: Incoming) -> Result<(), SessionEnd> {
        match frame {
            Incoming::Text(text) => self.on_message(&text).await,
            Incoming::NotText => self.drop_event(DropReason::MalformedFrame),
            Incoming::TooLarge {
                subscription,
                created_at,
            } => self.on_large_message(subscription.as_deref(), created_at),
            Incoming::Close => Err(Error::ConnectionClosed.into()),
            Incoming::Progress | Incoming::Ping(_) | Incoming::Pong => Ok(()),
        }
    }

    async fn on_message(&mut self, text: &str) -> Result<(), SessionEnd> {
        let now = self.now();
        let (commands, points) = match RelayMessage::parse(text) {
            RelayMessage::Event {
                subscription,
                event,
            } => return self.on_event(&subscription, event).await,
            RelayMessage::Eose(subscription) => (self.requests.on_eose(&subscription, now), 0),
            RelayMessage::Closed {
                subscription,
                reason,
            } => {
                self.log_complaint(&format!("CLOSED {subscription:.64}: {reason:.256}"));
                let reason = RelayReason::of_closed(&reason);
                let commands = self.requests.on_closed(&subscription, reason, now);
                (commands, COMPLAINT_POINTS)
            }
            RelayMessage::Notice(text) => {
                self.log_complaint(&format!("NOTICE {text:.256}"));
                (self.requests.on_notice(now), COMPLAINT_POINTS)
            }
            RelayMessage::Auth(challenge) => (self.requests.on_auth(&challenge), CHALLENGE_POINTS),
            RelayMessage::Ok {
                id,
                accepted,
                reason,
            } => (self.on_ok(&id, accepted, &reason), 0),
            RelayMessage::Malformed => return self.drop_event(DropReason::MalformedFrame),
        };
        self.execute(commands).await?;
        self.add_points(points)
    }

    /// A message was skipped because it is too large. If its event belongs to a page, the page goes
    /// on.
    fn on_large_message(
        &mut self,
        subscription: Option<&str>,
        created_at: Option<Seconds>,
    ) -> Result<(), SessionEnd> {
        if let Some(subscription) = subscription {
            self.requests
                .on_event(subscription, created_at, self.time.now());
        }
        self.drop_event(DropReason::TooLarge)
    }

    async fn on_event(&mut self, subscription: &str, json: &RawValue) -> Result<(), SessionEnd> {
        let parsed = parse_event(json);
        let created_at: Option<Seconds> = match &parsed {
            Ok(event) => Some(event.created_at.into()),
            Err(refused) => refused.created_at,
        };
        let backfill = self
            .requests
            .on_event(subscription, created_at, self.time.now());
        match (parsed, backfill) {
            (Err(refused), _) => self.drop_event(refused.reason),
            (Ok(_), None) => self.drop_event(DropReason::Unrequested),
            (Ok(event), Some(backfill)) => self.forward(event, json, backfill).await,
        }
    }

    /// Passes an event to the gate, and from there to a buffer. When the buffer is full, this
    /// waits, and the socket is not read.
    async fn forward(
        &mut self,
        event: Event,
        json: &RawValue,
        backfill: bool,
    ) -> Result<(), SessionEnd> {
        let verdict = self.context.gate.classify(IncomingEvent {
            relay: self.relay,
            json,
            event,
            backfill,
            received_at: (self.context.clock)(),
        });
        let waiting = Instant::now();
        let mut hits = 0;
        match verdict {
            Verdict::Control(message) => {
                self.context.control.send(message, json.get().len()).await;
            }
            Verdict::Waits { dropped: events } | Verdict::OverBudget { events } => {
                self.context.count_over_budget(events);
            }
            Verdict::Content(message) => {
                hits = message.hits.len();
                self.context.content.send(*message, json.get().len()).await;
            }
            Verdict::Drop(reason) if reason.was_verified() => {
                self.spend_budget(hits);
                return self.drop_event(reason);
            }
            Verdict::Drop(reason) => return self.drop_event(reason),
        }
        self.time.record_blocked(waiting.elapsed());
        self.spend_budget(hits);
        Ok(())
    }

    /// Spends the budget of a relay that only owners named. When it is used up, the socket is not
    /// read for a while.
    fn spend_budget(&mut self, hits: usize) {
        if let Some(pause) = self.relay.spend_budget(hits) {
            self.context.count_relay(RelayReason::OverBudget);
            self.time.begin_pause(pause, Instant::now());
        }
    }

    /// Counts a dropped event or frame.
    fn drop_event(&mut self, reason: DropReason) -> Result<(), SessionEnd> {
        self.context.count_dropped(reason);
        self.add_points(points(reason))
    }

    fn add_points(&mut self, points: u32) -> Result<(), SessionEnd> {
        if self.penalty.add(points) {
            Err(SessionEnd::Misbehaving)
        } else {
            Ok(())
        }
    }

    /// Records a complaint of the relay as its status, and logs it unless one was logged a short
    /// time ago.
    pub(super) fn log_complaint(&mut self, complaint: &str) {
        self.relay.set_status(complaint);
        let now = self.time.now();
        let is_recent = |logged_at| now < logged_at + COMPLAINT_LOG_INTERVAL;
        if self.complaint_logged_at.is_some_and(is_recent) {
            return;
        }
        self.complaint_logged_at = Some(now);
        tracing::warn!(
            stage = "listener",
            relay = self.relay.url,
            "relay {} sent {complaint}",
            self.relay.url
        );
    }
}

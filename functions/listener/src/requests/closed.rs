//! The subscriptions that were closed a short time ago. Their events may still arrive.

use std::collections::VecDeque;

use nostr_push_core::Seconds;
use serde_json::json;

use super::Command;

/// The number of closed subscriptions that are remembered.
const MAX_RECENTLY_CLOSED: usize = 64;

/// The subscriptions that were closed last, each with the time at which it was opened.
#[derive(Debug, Default)]
pub(super) struct RecentlyClosed(VecDeque<(String, Seconds)>);

impl RecentlyClosed {
    /// Closes a subscription.
    pub(super) fn close(&mut self, id: String, sent_at: Seconds) -> Command {
        let message = json!(["CLOSE", id]).to_string();
        if self.0.len() == MAX_RECENTLY_CLOSED {
            self.0.pop_front();
        }
        self.0.push_back((id, sent_at));
        Command::Send(message)
    }

    /// When the subscription was opened, if it was closed a short time ago.
    pub(super) fn sent_at(&self, id: &str) -> Option<Seconds> {
        let mut closed = self.0.iter();
        let (_, sent_at) = closed.find(|(closed, _)| closed == id)?;
        Some(*sent_at)
    }
}

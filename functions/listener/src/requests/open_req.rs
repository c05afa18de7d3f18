//! One REQ, from the moment in which the plan has it.

use std::{sync::Arc, time::Duration};

use nostr_push_core::{Seconds, ports::backoff};

use super::Now;
use crate::req::{Missed, Req};

/// How long a REQ must have been live for its earlier refusals to be forgotten.
const STABLE_REQ_AGE: Duration = Duration::from_secs(60);

/// A REQ of the plan, or one that the plan no longer has, or the control REQ.
#[derive(Debug)]
pub(super) struct OpenReq {
    pub(super) req: Arc<Req>,
    pub(super) state: ReqState,
    /// When it was last sent.
    pub(super) sent_at: Option<Seconds>,
    /// How often it was sent before. It is part of the subscription id, so that a late answer to an
    /// earlier REQ is not taken for one to a later REQ.
    pub(super) resent: u32,
    /// The stored events that it needs once it is live. `None` if other REQs or debts cover them.
    pub(super) missed: Option<Missed>,
    /// When the plan got it.
    pub(super) planned_at: Seconds,
    pub(super) refusals: u32,
}

/// The state of a REQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReqState {
    /// It waits for a free subscription.
    Waiting,
    /// It was sent. EOSE has not come.
    Sent { at: Duration },
    /// EOSE has not come in time. Live events may come, but nothing is certain. It is sent again at
    /// this time.
    Overdue { retry_at: Duration },
    /// EOSE has come.
    Live { since: Duration },
    /// The relay refused or ended it. It is sent again at this time.
    Refused { retry_at: Duration },
}

impl OpenReq {
    /// A REQ that has not been sent.
    pub(super) fn new(req: Arc<Req>, missed: Option<Missed>, now: Seconds) -> Self {
        Self {
            req,
            state: ReqState::Waiting,
            sent_at: None,
            resent: 0,
            missed,
            planned_at: now,
            refusals: 0,
        }
    }

    pub(super) fn is_live(&self) -> bool {
        matches!(self.state, ReqState::Live { .. })
    }

    /// Returns `true` if the relay may have it open.
    pub(super) fn is_open(&self) -> bool {
        !matches!(self.state, ReqState::Waiting | ReqState::Refused { .. })
    }

    /// Returns `true` if it covers its keys, unless the relay refuses it.
    pub(super) fn is_covering(&self) -> bool {
        matches!(self.state, ReqState::Live { .. } | ReqState::Sent { .. })
    }

    /// Since when its events are needed.
    pub(super) fn needed_at(&self) -> Seconds {
        self.sent_at.unwrap_or(self.planned_at)
    }

    pub(super) fn add_missed(&mut self, missed: Missed) {
        self.missed = Some(self.missed.map_or(missed, |earlier| earlier.or(missed)));
    }

    /// The subscription id under which it was last sent.
    pub(super) fn subscription_id(&self, id: &str) -> String {
        match self.resent {
            0 => id.to_owned(),
            resent => format!("{id}.{resent}"),
        }
    }

    /// Schedules it to be sent again.
    pub(super) fn refused(&mut self, now: Now) {
        if let ReqState::Live { since } = self.state
            && since + STABLE_REQ_AGE < now.reading
        {
            self.refusals = 0;
        }
        self.refusals += 1;
        let retry_at = now.reading + backoff(self.refusals, 0.0);
        self.state = ReqState::Refused { retry_at };
    }
}

/// The stored events that a REQ missed which the plan no longer has. They are requested once the
/// REQs that replace it are live.
#[derive(Debug)]
pub(super) struct Debt {
    pub(super) req: Arc<Req>,
    pub(super) missed: Missed,
    /// Since when its events were needed.
    pub(super) needed_at: Seconds,
}

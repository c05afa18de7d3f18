//! The claim of one attempt: the record that the message is being, or has been, delivered.

use nostr_push_core::{
    Millis, Seconds,
    message::DeliveryMessage,
    ports::{ClaimResult, Claims, PortResult},
};

use crate::outcome::{DeliveryOutcome, DeliveryRetryReason};

/// The time between the end of another attempt's lease and the retry.
const RETRY_MARGIN: Millis = Millis(1_000);

/// One attempt to deliver a message.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// A name that is different for every receipt of every message.
    pub holder: String,
    /// The current time.
    pub now: Millis,
    /// How long the attempt holds the claim. It is longer than the function can run.
    pub lease: Seconds,
}

impl Attempt {
    /// The attempt of one receipt of an SQS message. The receive count makes every receipt a
    /// different holder, so a retry never inherits the claim of a crashed attempt.
    pub fn of(message_id: &str, receive_count: u32, now: Millis, lease: Seconds) -> Self {
        Self {
            holder: format!("{message_id}/{receive_count}"),
            now,
            lease,
        }
    }
}

/// The claim of an attempt on a message.
#[derive(Debug)]
pub struct Claim<'a> {
    id: String,
    attempt: &'a Attempt,
}

impl<'a> Claim<'a> {
    /// The claim, not acquired yet.
    pub fn new(message: &DeliveryMessage, attempt: &'a Attempt) -> Self {
        Self {
            id: format!("{}#{}", message.owner(), message.id()),
            attempt,
        }
    }

    /// Acquires the claim for the time of the lease.
    ///
    /// # Errors
    /// The store failed.
    pub async fn acquire(&self, store: &impl Claims) -> PortResult<ClaimResult> {
        let Attempt { holder, now, lease } = self.attempt;
        let until = *now + lease.to_millis();
        store.acquire(&self.id, holder, *now, until).await
    }

    /// Records that the device is done.
    ///
    /// # Errors
    /// The store failed.
    pub async fn mark_done(&self, store: &impl Claims, token_hash: &str) -> PortResult<()> {
        // If the lease has ended, there is nothing to do: the push is published already.
        store
            .done(&self.id, &self.attempt.holder, token_hash)
            .await
            .map(drop)
    }

    /// Ends the lease. If `completed`, the claim cannot be acquired again.
    ///
    /// # Errors
    /// The store failed.
    pub async fn release(&self, store: &impl Claims, completed: bool) -> PortResult<()> {
        store
            .release(&self.id, &self.attempt.holder, completed)
            .await
    }
}

/// The outcome if another attempt holds the claim until this time. The message is not dropped: the
/// other attempt may have crashed, and then this message must take over.
pub fn retry_after(until: Millis, now: Millis) -> DeliveryOutcome {
    DeliveryOutcome::Retry {
        after: Some((until - now + RETRY_MARGIN).to_duration()),
        reason: DeliveryRetryReason::Claimed,
        devices: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_receipt_is_a_different_holder() {
        let holder = |receive_count| {
            let (now, lease) = (Millis(1), Seconds(60));
            Attempt::of("message", receive_count, now, lease).holder
        };
        assert_eq!(holder(1), "message/1");
        assert_eq!(holder(2), "message/2");
    }
}

//! How several tasks of the listener share the relays. Each relay is watched by the task with the
//! highest hash for this relay (rendezvous hashing), so a task that joins or leaves moves only its
//! own relays.

use std::time::Duration;

use nostr_push_core::{Seconds, ports::Members};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

/// How long a task counts as alive after it has renewed its membership.
const MEMBERSHIP_LEASE: Seconds = Seconds(30);

/// How often a task renews its membership.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(10);

/// The membership of this task.
pub struct Membership<S> {
    store: S,
    /// The name of this task.
    member: String,
    /// All tasks, as last read.
    members: Vec<String>,
    renewed_at: Option<Instant>,
}

impl<S: Members> Membership<S> {
    /// A membership that has not begun. Until it is renewed, the task owns all relays.
    pub fn new(store: S, member: String) -> Self {
        Self {
            store,
            member,
            members: Vec::new(),
            renewed_at: None,
        }
    }

    /// Renews the membership and reads all members, if it is time to.
    pub async fn renew_if_due(&mut self, now: Seconds) {
        if self
            .renewed_at
            .is_some_and(|renewed_at| renewed_at.elapsed() < RENEWAL_INTERVAL)
        {
            return;
        }
        let joined = self.store.join(&self.member, now, now + MEMBERSHIP_LEASE);
        match joined.await {
            Ok(members) => self.members = members,
            // The last known members stay valid. Two tasks that watch the same relay do no harm,
            // but a relay without a task would lose events.
            Err(error) => tracing::warn!(
                stage = "listener",
                dependency = error.dependency,
                "members not read: {error}"
            ),
        }
        self.renewed_at = Some(Instant::now());
    }

    /// Returns `true` if this task must watch the relay.
    pub fn owns(&self, relay: &str) -> bool {
        has_highest_hash(relay, &self.member, &self.members)
    }

    /// Ends the membership, so that the other tasks take over the relays at once.
    pub async fn leave(&self) {
        if let Err(error) = self.store.leave(&self.member).await {
            tracing::warn!(
                stage = "listener",
                dependency = error.dependency,
                "membership not ended, its lease will expire: {error}"
            );
        }
    }
}

/// Returns `true` if `member` has the highest hash for the relay among `members`. A member that is
/// alone has the highest hash for all relays.
fn has_highest_hash(relay: &str, member: &str, members: &[String]) -> bool {
    let hash = |member: &str| -> [u8; 32] {
        Sha256::new()
            .chain_update(member)
            .chain_update([0])
            .chain_update(relay)
            .finalize()
            .into()
    };
    let own_hash = hash(member);
    members
        .iter()
        .filter(|other| *other != member)
        .all(|other| hash(other) < own_hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_relay_has_one_task_and_few_move_when_a_task_leaves() {
        let members: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
        let relays: Vec<String> = (0..300).map(|n| format!("wss://r{n}")).collect();
        let watcher = |relay: &str, members: &[String]| {
            let watchers: Vec<String> = members
                .iter()
                .filter(|member| has_highest_hash(relay, member, members))
                .cloned()
                .collect();
            assert_eq!(watchers.len(), 1);
            watchers[0].clone()
        };
        let mut moved = 0;
        for relay in &relays {
            let (before, after) = (watcher(relay, &members), watcher(relay, &members[..2]));
            assert!(before == "c" || before == after);
            moved += usize::from(before != after);
        }
        assert!((60..140).contains(&moved), "{moved} of 300");
        assert!(
            has_highest_hash("wss://r", "a", &[]),
            "a task that knows no others owns all relays"
        );
    }
}

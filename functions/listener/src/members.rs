//! Several listener tasks share the relays out: each relay is watched by the task that it ranks
//! first (rendezvous hashing), so a task that comes or goes moves only its own relays.

use nostr_push_core::Seconds;
use sha2::{Digest, Sha256};

/// How long a task counts as alive after it last said so, and how often it says so.
pub const LEASE: Seconds = 30;
/// See [`LEASE`].
pub const RENEW: Seconds = 10;

/// Whether `me` is to watch the relay, among these members. Alone, it watches all.
pub fn is_mine(relay: &str, me: &str, members: &[String]) -> bool {
    let rank = |member: &str| -> [u8; 32] {
        Sha256::new()
            .chain_update(member)
            .chain_update([0])
            .chain_update(relay)
            .finalize()
            .into()
    };
    let mine = rank(me);
    members
        .iter()
        .filter(|member| *member != me)
        .all(|member| rank(member) < mine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_relay_has_one_watcher_and_only_those_of_a_task_that_goes_move() {
        let members: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
        let relays: Vec<String> = (0..300).map(|n| format!("wss://r{n}")).collect();
        let watcher = |relay: &str, members: &[String]| {
            let watchers: Vec<String> = members
                .iter()
                .filter(|me| is_mine(relay, me, members))
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
            is_mine("wss://r", "a", &[]),
            "alone, even when the table does not answer"
        );
    }
}

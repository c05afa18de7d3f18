//! The TTL of DynamoDB, which deletes rows days late.

use std::sync::Arc;

use nostr_push_core::Seconds;

use crate::{tables::retire, world::World};

/// How long the row of a presence is kept after its event.
const PRESENCE: Seconds = Seconds::from_days(1);

/// Deletes ended rows from time to time, for as long as the run lasts.
pub async fn run(world: Arc<World>) {
    while !world.faults.is_over() {
        world.pause(3_600_000, 24 * 3_600_000).await;
        let late = Seconds(world.random.between(0, 2 * 86_400));
        sweep(&world, late);
    }
}

/// Deletes the rows that ended this long ago.
pub fn sweep(world: &Arc<World>, late: Seconds) {
    let before = world.seconds() - late;
    let mut state = world.memory.state();
    state.rosters.retain(|_, row| row.expires_at > before);
    state
        .subscriptions
        .retain(|_, row| row.expires_at() > before);
    state.index.retain(|_, row| row.valid_until > before);
    state
        .presences
        .retain(|_, row| row.order.created_at + PRESENCE > before);
    let is_ended = |row: &nostr_push_core::device::Device| row.expires_at <= before;
    let ended: Vec<_> = state
        .devices
        .values()
        .filter(|row| is_ended(row))
        .cloned()
        .collect();
    state.devices.retain(|_, row| !is_ended(row));
    drop(state);
    for row in ended {
        let registration = row.registration.filter(|r| r.endpoint_arn.is_some());
        if let Some(registration) = registration {
            world.tell(|| "DynamoDB deletes the row of an ended device".to_owned());
            retire(world, &row.id, registration);
        }
    }
}

//! A listener that is killed, and several listeners.

use std::time::Duration;

use nostr::event::Event;
use nostr_push_core::Seconds;
use nostr_push_local::{
    demo::publish,
    stack::{ListenerProcess, Stack},
};
use tokio::time::{Instant, sleep};

use crate::{now, phone::Phone, wait_until};

/// How long listeners may take to learn of each other. They renew their membership every 10 s.
const JOIN_TIME: Duration = Duration::from_secs(15);

/// How soon another listener must watch the relays of a killed one.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(60);

/// The listener is killed (SIGKILL) while events arrive. After its restart each event has been
/// pushed exactly once. An owner who registers then gets no pushes for earlier events, not even for
/// wraps.
pub(crate) async fn killed_listener_loses_and_repeats_nothing(
    stack: &mut Stack,
) -> Result<(), String> {
    let (alice, carol) = (Phone::new(), Phone::new());
    alice.subscribe(stack).await;
    let first = alice.event(1, now(), "the first");
    publish(&stack.relays[0], &first).await.unwrap();
    alice
        .wait_for_pushes(stack, std::slice::from_ref(&first))
        .await?;
    let mut notes = vec![first];
    for n in 0..120 {
        let note = alice.event(1, now(), &n.to_string());
        publish_to_some(stack, n, &note).await;
        notes.push(note);
        if n == 60 {
            let is_healthy = stack.check_listener().await.unwrap();
            assert!(is_healthy, "the listener is healthy");
            stack.listener.kill().await;
            let is_healthy = stack.check_listener().await.unwrap();
            assert!(!is_healthy, "the listener is killed");
        }
        if n % 10 == 0 {
            let yesterday = now() - Seconds::from_days(1);
            let early = carol.event(1059, yesterday, "before carol registers");
            publish(&stack.relays[0], &early).await.unwrap();
        }
    }
    stack.listener = stack.another_listener("listener").await.unwrap();
    alice.wait_for_pushes(stack, &notes).await?;
    carol.subscribe(stack).await;
    let late = carol.first_note();
    publish(&stack.relays[0], &late).await.unwrap();
    carol.wait_for_pushes(stack, &[late]).await?;
    let repeated = alice.repeated(stack).await;
    let early = carol.pushes(stack).await.len() - 1;
    if repeated.is_empty() && early == 0 {
        Ok(())
    } else {
        Err(format!(
            "pushed more than once: {repeated:?}; pushed although earlier: {early}"
        ))
    }
}

/// Publishes the `n`th note to some of the relays. Consecutive notes go through all combinations,
/// from each relay alone to all of them.
async fn publish_to_some(stack: &Stack, n: usize, note: &Event) {
    let combinations = (1 << stack.relays.len()) - 1;
    let combination = n % combinations + 1;
    for (i, relay) in stack.relays.iter().enumerate() {
        if combination >> i & 1 == 1 {
            publish(relay, note).await.unwrap();
        }
    }
}

/// Of three listeners, exactly one watches each relay. If that one is killed, another one watches
/// the relay within a minute.
pub(crate) async fn three_listeners_share_the_relays(stack: &mut Stack) -> Result<(), String> {
    let second = stack.another_listener("second-listener").await.unwrap();
    let third = stack.another_listener("third-listener").await.unwrap();
    sleep(JOIN_TIME).await;
    // The client's tests have made the service watch an owner's relay as well.
    let relays = stack.relays.len() as u64 + 1;
    wait_until("each relay is watched once", async || {
        let watched = [
            relays_watched(&stack.listener).await,
            relays_watched(&second).await,
            relays_watched(&third).await,
        ];
        watched.iter().sum::<u64>() == relays
    })
    .await?;
    let dora = Phone::new();
    dora.subscribe(stack).await;
    let note = dora.first_note();
    publish(&stack.relays[1], &note).await.unwrap();
    dora.wait_for_pushes(stack, std::slice::from_ref(&note))
        .await?;

    let first = std::mem::replace(&mut stack.listener, second);
    let mut others = vec![first, third];
    kill_one_that_watches(stack, &mut others).await;
    let killed_at = Instant::now();
    let mut notes = vec![note];
    for n in 0..10 {
        for relay in &stack.relays {
            let note = dora.event(1, now(), &format!("{n} at {relay}"));
            publish(relay, &note).await.unwrap();
            notes.push(note);
        }
    }
    dora.wait_for_pushes(stack, &notes).await?;
    let elapsed = killed_at.elapsed();
    let repeated = dora.repeated(stack).await;
    for listener in others {
        listener.stop().await;
    }
    // Ephemeral events that come while no listener watches their relay are lost.
    wait_until("the remaining listener watches all relays", async || {
        relays_watched(&stack.listener).await == relays
    })
    .await?;
    if repeated.is_empty() && elapsed < TAKEOVER_LIMIT {
        Ok(())
    } else {
        Err(format!(
            "after {elapsed:?}, pushed more than once: {repeated:?}"
        ))
    }
}

/// Kills one of the others that watches a relay. If none of them does, kills the stack's listener
/// and puts one of the others in its place.
async fn kill_one_that_watches(stack: &mut Stack, others: &mut Vec<ListenerProcess>) {
    for listener in others.iter_mut() {
        if relays_watched(listener).await > 0 {
            return listener.kill().await;
        }
    }
    let replacement = others.pop().unwrap();
    let mut watching = std::mem::replace(&mut stack.listener, replacement);
    watching.kill().await;
}

async fn relays_watched(listener: &ListenerProcess) -> u64 {
    let readiness = listener.readiness().await.unwrap_or_default();
    readiness["relays_watched"].as_u64().unwrap_or_default()
}

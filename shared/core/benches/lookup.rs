//! The lookups that the listener does for every event, compared with verifying a signature.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use nostr::key::Keys;
use nostr_push_core::{
    Seconds, index_key::keys_of, interest::Interest, subscription::Subscription,
};
use nostr_push_testkit::{event, owner, subscription};
use serde_json::json;

/// An interest with this many subscriptions, none of which matches the event.
fn interest(subscriptions: u64) -> Interest {
    let owner = owner(Keys::generate().public_key());
    let mut interest = Interest::default();
    for n in 0..subscriptions {
        let key = format!("{n:064x}");
        let filter = if n % 2 == 0 {
            json!({"kinds": [1, 7], "#p": [key]})
        } else {
            json!({"kinds": [1], "authors": [key]})
        };
        let row = Subscription {
            identity: n.to_string(),
            ..subscription(&owner, &filter)
        };
        interest.apply(&row, Seconds(1));
    }
    interest
}

fn lookups(criterion: &mut Criterion) {
    let hex: Vec<String> = (0..8)
        .map(|_| Keys::generate().public_key().to_hex())
        .collect();
    let tags: Vec<Vec<&str>> = hex
        .iter()
        .enumerate()
        .map(|(n, hex)| vec![if n < 4 { "p" } else { "e" }, hex])
        .chain([vec!["t", "nostr"], vec!["r", "https://example.com"]])
        .collect();
    let note = event(
        &Keys::generate(),
        1,
        1,
        &tags.iter().map(Vec::as_slice).collect::<Vec<_>>(),
        "a note with ten tags",
    );
    let interest = interest(100_000);
    assert!(interest.hits(&note).is_empty());

    criterion.bench_function("index keys of an event with 10 tags", |b| {
        b.iter(|| keys_of(black_box(&note)).map(black_box).count());
    });
    criterion.bench_function("interest check of a non-matching event", |b| {
        b.iter(|| black_box(&interest).hits(black_box(&note)));
    });
    criterion.bench_function("verify id and signature", |b| {
        b.iter(|| black_box(&note).verify().is_ok());
    });
}

criterion_group!(benches, lookups);
criterion_main!(benches);

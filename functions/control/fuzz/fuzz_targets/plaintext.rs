//! Whatever a client has encrypted: never a panic, and what is accepted is within its limits and
//! canonical.
#![no_main]

use control::payload;
use libfuzzer_sys::fuzz_target;
use nostr::key::PublicKey;
use nostr_push_core::{
    app::{App, Platform},
    filter::Filter,
    order::Order,
    owner::Owner,
    subscription::MAX_INDEX_KEYS,
};

fuzz_target!(|text: &str| {
    let platforms = [
        (Platform::Apns, String::new()),
        (Platform::Fcm, String::new()),
    ]
    .into();
    let app = App {
        platforms,
        ..App::default()
    };
    let _ = payload::registration(text, &app);
    let _ = payload::deregistration(text);
    let owner = PublicKey::from_slice(&[1; 32]).unwrap();
    let asked = payload::settings(
        text,
        &app,
        &Owner {
            app: "demo".to_owned(),
            pubkey: owner,
        },
        Order::counter(1),
    );
    for filter in asked
        .into_iter()
        .filter_map(|asked| asked.settings)
        .flat_map(|replacement| replacement.settings.filters(&app))
    {
        assert!((1..=MAX_INDEX_KEYS).contains(&filter.index_keys().len()));
        let again = Filter::from_json(&serde_json::from_str(&filter.to_json()).unwrap()).unwrap();
        assert_eq!(again, filter);
    }
    for (identity, filter) in payload::filters(text, &app, owner)
        .into_iter()
        .flat_map(|filters| filters.by_identity)
    {
        assert!((1..=MAX_INDEX_KEYS).contains(&filter.index_keys().len()));
        let again = Filter::from_json(&serde_json::from_str(&filter.to_json()).unwrap()).unwrap();
        assert_eq!((again.identity(), &again), (identity, &filter));
        for key in filter.index_keys() {
            assert_eq!(key.to_string().parse().ok(), Some(key));
        }
    }
});

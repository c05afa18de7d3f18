//! Any plaintext from a client: no panic, accepted filters are within their limits and canonical,
//! and accepted registrations ask for payloads that the device can get.
#![no_main]

use control::payload::{self, TokenRegistration};
use libfuzzer_sys::fuzz_target;
use nostr::key::PublicKey;
use nostr_push_core::{
    app::{App, Platform},
    filter::Filter,
    order::Order,
    subscription::{MAX_FILTER_KINDS, MAX_INDEX_KEYS},
};
use nostr_push_testkit::owner;

fn check(filter: &Filter) {
    assert!((1..=MAX_INDEX_KEYS).contains(&filter.index_keys().len()));
    assert!(filter.kinds.as_ref().is_none_or(|kinds| kinds.len() <= MAX_FILTER_KINDS));
    let json = serde_json::from_str(&filter.to_json()).unwrap();
    assert_eq!(Filter::from_json(&json).unwrap(), *filter);
}

fn check_options(registration: &TokenRegistration) {
    let TokenRegistration { platform, payload, .. } = registration;
    assert!(payload.shape.is_none_or(|shape| shape.fits(*platform, payload.os)));
    assert!(payload.encrypt_to.is_none_or(|key| key.xonly().is_ok()));
}

fuzz_target!(|text: &str| {
    let platforms = [Platform::Apns, Platform::Fcm].map(|platform| (platform, String::new()));
    let app = App {
        platforms: platforms.into(),
        ..App::default()
    };
    let removed = payload::deregistration(text);
    if let Ok(registration) = payload::registration(text, &app) {
        check_options(&registration);
        assert_eq!(removed.unwrap(), Some(registration.token));
    }
    let pubkey = PublicKey::from_slice(&[1; 32]).unwrap();
    let request = payload::settings(text, &app, &owner(pubkey), Order::counter(1));
    if let Some(update) = request.ok().and_then(|request| request.settings) {
        update.settings.filters(&app).iter().for_each(check);
        update.token.iter().for_each(check_options);
    }
    let to_delete = payload::filters_to_delete(text, &app, pubkey);
    let Ok(filters) = payload::filters(text, &app, pubkey) else {
        return;
    };
    assert_eq!(to_delete.unwrap().by_identity, filters.by_identity);
    for (identity, filter) in filters.by_identity {
        check(&filter);
        assert_eq!(filter.identity(), identity);
        for key in filter.index_keys() {
            assert_eq!(key.to_string().parse().ok(), Some(key));
        }
    }
});

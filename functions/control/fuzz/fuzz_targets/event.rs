//! Whatever stands in the queue or comes from a relay: never a panic.
#![no_main]

use std::sync::LazyLock;

use control::handler::Control;
use libfuzzer_sys::fuzz_target;
use nostr::key::Keys;
use nostr_push_core::message;
use nostr_push_testkit::memory::Memory;

static CONTROL: LazyLock<Control<Memory, Memory>> =
    LazyLock::new(|| Control::new(Keys::generate(), None, Memory::default(), Memory::default()));

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let _ = message::decode::<message::Control>(text);
    let Ok(event) = serde_json::from_str::<Box<serde_json::value::RawValue>>(text) else {
        return;
    };
    let message = message::Control {
        relay: String::new(),
        received_at: 1_800_000_000_000,
        event,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    assert!(
        runtime
            .block_on(CONTROL.handle(&message, 1_800_000_000_000))
            .is_err()
    );
});

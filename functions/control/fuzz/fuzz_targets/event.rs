//! Any text from the queue or a relay: no panic, and no event is accepted.
#![no_main]

use std::sync::LazyLock;

use control::handler::ControlStage;
use libfuzzer_sys::fuzz_target;
use nostr::key::Keys;
use nostr_push_core::{
    Millis,
    message::{self, ControlMessage},
};
use nostr_push_testkit::memory::Memory;
use serde_json::value::RawValue;

const NOW: Millis = Millis(1_800_000_000_000);

static STAGE: LazyLock<ControlStage<Memory, Memory>> = LazyLock::new(|| {
    ControlStage::new(Keys::generate(), None, Memory::default(), Memory::default())
});

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let _ = message::decode::<ControlMessage>(text);
    let Ok(event) = serde_json::from_str::<Box<RawValue>>(text) else {
        return;
    };
    let message = ControlMessage {
        relay: String::new(),
        received_at: NOW,
        event,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    assert!(runtime.block_on(STAGE.handle(&message, NOW)).is_err());
});

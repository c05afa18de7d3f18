//! Any text from the queue or a relay: no panic, and no event is accepted.
#![no_main]

use std::sync::LazyLock;

use control::{
    context::{Limits, Receipt},
    handler::ControlStage,
};
use libfuzzer_sys::fuzz_target;
use nostr::key::Keys;
use nostr_push_core::{
    Millis,
    message::{ControlInput, ControlMessage},
};
use nostr_push_testkit::memory::Memory;
use serde_json::value::RawValue;

const NOW: Millis = Millis(1_800_000_000_000);

static STAGE: LazyLock<ControlStage<Memory, Memory>> = LazyLock::new(|| {
    let limits = Limits::default();
    ControlStage::new(Keys::generate(), None, limits, Memory::default(), Memory::default())
});

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let _ = ControlInput::read(text);
    let Ok(event) = serde_json::from_str::<Box<RawValue>>(text) else {
        return;
    };
    let message = ControlInput::Event(ControlMessage {
        relay: String::new(),
        received_at: NOW,
        event,
    });
    let receipt = Receipt { now: NOW, count: 1 };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    assert!(runtime.block_on(STAGE.handle(&message, receipt)).is_err());
});

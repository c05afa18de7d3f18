//! Any bytes from a relay, in any pieces: no panic, the decoder stays within its memory, what it
//! returns does not depend on the pieces, and the messages can be parsed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use listener::{
    frame::{FrameDecoder, Incoming, MAX_HELD_BYTES, MAX_MESSAGE_BYTES},
    gate::parse_event,
    relay_message::RelayMessage,
};

/// The most bytes of one input: more than two of the largest messages.
const MAX_INPUT_BYTES: usize = 3 * MAX_MESSAGE_BYTES;

/// Decodes `input` in pieces of these sizes, again and again. Returns what comes, without the
/// progress, and whether it ended with a protocol error.
fn decode(mut input: &[u8], sizes: &[u16]) -> (Vec<Incoming>, bool) {
    let (mut decoder, mut returned) = (FrameDecoder::default(), Vec::new());
    let mut sizes = sizes.iter().cycle();
    loop {
        loop {
            let decoded = decoder.decode();
            assert!(decoder.held_bytes() <= MAX_HELD_BYTES);
            match decoded {
                Ok(Some(Incoming::Progress)) => {}
                Ok(Some(incoming)) => returned.push(incoming),
                Ok(None) => break,
                Err(_) => return (returned, true),
            }
        }
        if input.is_empty() {
            return (returned, false);
        }
        let buffer = decoder.buffer();
        let room = buffer.capacity() - buffer.len();
        assert!(room > 0);
        let size = sizes
            .next()
            .map_or(usize::MAX, |size| usize::from(*size) + 1);
        let (piece, rest) = input.split_at(size.min(room).min(input.len()));
        buffer.extend_from_slice(piece);
        input = rest;
    }
}

// Each part of the input is repeated, so that messages become large enough to be skipped.
fuzz_target!(|input: (Vec<u16>, Vec<(Vec<u8>, u16)>)| {
    let (sizes, parts) = input;
    let mut bytes = Vec::new();
    for (part, repeats) in parts {
        for _ in 0..=repeats {
            if part.is_empty() || bytes.len() + part.len() > MAX_INPUT_BYTES {
                break;
            }
            bytes.extend_from_slice(&part);
        }
    }
    let (returned, is_error) = decode(&bytes, &sizes);
    for incoming in &returned {
        let Incoming::Text(text) = incoming else {
            continue;
        };
        assert!(text.len() <= MAX_MESSAGE_BYTES);
        if let RelayMessage::Event { event, .. } = RelayMessage::parse(text) {
            let _ = parse_event(event);
        }
    }
    assert!((returned, is_error) == decode(&bytes, &[]));
});

use proptest::prelude::*;

use super::*;

const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CONTINUATION: u8 = 0x0;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;
const FINAL: u8 = 0x80;

/// A frame with this first byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len();
    let mut frame = vec![first];
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(length @ ..126), _) => frame.push(length),
        (_, Ok(length)) => {
            frame.push(126);
            frame.extend(length.to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(payload);
    frame
}

fn text_frame(text: &str) -> Vec<u8> {
    frame(FINAL | TEXT, text.as_bytes())
}

/// Feeds `input` in pieces of these sizes, again and again. Returns what comes, without the
/// progress.
fn decode_in(input: &[u8], sizes: &[usize]) -> Result<Vec<Incoming>, Error> {
    let mut decoder = FrameDecoder::default();
    let (mut rest, mut returned) = (input, Vec::new());
    let mut sizes = sizes.iter().cycle();
    loop {
        while let Some(incoming) = decoder.decode()? {
            assert!(decoder.held_bytes() <= MAX_HELD_BYTES);
            if incoming != Incoming::Progress {
                returned.push(incoming);
            }
        }
        assert!(decoder.held_bytes() <= MAX_HELD_BYTES);
        if rest.is_empty() {
            return Ok(returned);
        }
        let buffer = decoder.buffer();
        let room = buffer.capacity() - buffer.len();
        let (piece, after) = rest.split_at((*sizes.next().unwrap()).min(room).min(rest.len()));
        assert!(!piece.is_empty());
        buffer.extend_from_slice(piece);
        rest = after;
    }
}

fn decode(input: &[u8]) -> Result<Vec<Incoming>, Error> {
    decode_in(input, &[usize::MAX])
}

fn text(text: &str) -> Incoming {
    Incoming::Text(text.into())
}

fn too_large(subscription: Option<&str>, created_at: Option<u64>) -> Incoming {
    Incoming::TooLarge {
        subscription: subscription.map(ToOwned::to_owned),
        created_at: created_at.map(Seconds),
    }
}

fn protocol_error(input: &[u8]) -> ProtocolError {
    match decode(input) {
        Err(Error::Protocol(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn messages_up_to_the_limit_are_returned() {
    for length in [
        0,
        1,
        125,
        126,
        65_535,
        65_536,
        READ_BUFFER_BYTES - 5,
        READ_BUFFER_BYTES - 4,
        READ_BUFFER_BYTES - 3,
        READ_BUFFER_BYTES,
        MAX_MESSAGE_BYTES,
    ] {
        let content = "x".repeat(length);
        for size in [1, 7, 4_000, usize::MAX] {
            let returned = decode_in(&text_frame(&content), &[size]).unwrap();
            assert!(returned == [text(&content)], "{length} {size}");
        }
    }
    let content = "x".repeat(MAX_MESSAGE_BYTES + 1);
    assert_eq!(
        decode(&text_frame(&content)).unwrap(),
        [too_large(None, None)]
    );
}

#[test]
fn small_messages_are_not_copied() {
    let mut decoder = FrameDecoder::default();
    let buffer = decoder.buffer();
    buffer.extend_from_slice(&text_frame("small"));
    let payload = buffer[2..].as_ptr();
    let Some(Incoming::Text(text)) = decoder.decode().unwrap() else {
        panic!("no text")
    };
    assert_eq!(text.as_str().as_ptr(), payload);
}

#[test]
fn the_buffer_is_used_again() {
    let mut decoder = FrameDecoder::default();
    let first = decoder.buffer().as_ptr();
    let mut reused = 0;
    for _ in 0..20_000 {
        let buffer = decoder.buffer();
        reused += usize::from(buffer.as_ptr() == first);
        buffer.extend_from_slice(&text_frame("a message"));
        assert_eq!(decoder.decode().unwrap(), Some(text("a message")));
    }
    assert!(reused > 5, "{reused}");
    assert_eq!(decoder.held_bytes(), READ_BUFFER_BYTES);
}

#[test]
fn fragments_are_assembled_and_control_frames_come_between() {
    let input = [
        frame(TEXT, "é".as_bytes().split_at(1).0),
        frame(FINAL | PING, b"payload"),
        frame(CONTINUATION, &[]),
        frame(FINAL | PONG, &[]),
        frame(FINAL | CONTINUATION, "é".as_bytes().split_at(1).1),
        frame(FINAL | CLOSE, &1000_u16.to_be_bytes()),
    ]
    .concat();
    let expected = [
        Incoming::Ping(b"payload".to_vec()),
        Incoming::Pong,
        text("é"),
        Incoming::Close,
    ];
    for size in 1..=input.len() {
        assert_eq!(decode_in(&input, &[size]).unwrap(), expected);
    }
}

#[test]
fn what_is_not_text_does_not_end_the_connection() {
    let large = vec![0xff; 2 * MAX_MESSAGE_BYTES];
    let input = [
        frame(FINAL | BINARY, b"binary"),
        frame(FINAL | BINARY, &large),
        frame(BINARY, b"fragmented"),
        frame(FINAL | CONTINUATION, b" binary"),
        frame(FINAL | TEXT, &[0xff]),
        frame(TEXT, &large[..MAX_MESSAGE_BYTES / 2]),
        frame(FINAL | CONTINUATION, &[]),
        text_frame("text"),
    ]
    .concat();
    let not_text = [const { Incoming::NotText }; 5].to_vec();
    let expected = [not_text, vec![text("text")]].concat();
    assert_eq!(decode(&input).unwrap(), expected);
}

#[test]
fn protocol_errors_end_the_connection() {
    for (input, error) in [
        (
            frame(FINAL | 0x40 | TEXT, b"x"),
            ProtocolError::NonZeroReservedBits,
        ),
        (
            vec![FINAL | TEXT, 0x81, 0, 0, 0, 0, b'x'],
            ProtocolError::MaskedFrameFromServer,
        ),
        (frame(FINAL | 0x3, b"x"), ProtocolError::InvalidOpcode(0x3)),
        (frame(FINAL | 0xb, b"x"), ProtocolError::InvalidOpcode(0xb)),
        (
            frame(FINAL | PING, &[0; 126]),
            ProtocolError::ControlFrameTooBig,
        ),
        (frame(PING, b""), ProtocolError::FragmentedControlFrame),
        (
            frame(FINAL | CONTINUATION, b"x"),
            ProtocolError::UnexpectedContinueFrame,
        ),
        (
            [frame(TEXT, b"x"), text_frame("y")].concat(),
            ProtocolError::ExpectedFragment(Data::Text),
        ),
    ] {
        assert_eq!(protocol_error(&input), error);
    }
}

#[test]
fn large_messages_name_their_subscription_and_time() {
    let filler = "x".repeat(MAX_MESSAGE_BYTES);
    let escaped = r#"\"created_at\":7,"#;
    for (start, end, expected) in [
        (
            r#"["EVENT","content-1",{"created_at":1700000000,"content":""#,
            r#""}]"#,
            too_large(Some("content-1"), Some(1_700_000_000)),
        ),
        (
            r#" [ "EVENT" , "a\u0062" , {"content":""#,
            r#"","created_at" : 12 }]"#,
            too_large(Some("ab"), Some(12)),
        ),
        (
            r#"["EVENT","a",{"tags":[["created_at",""#,
            r#""]],"created_at":3}]"#,
            too_large(Some("a"), Some(3)),
        ),
        (
            &format!(r#"["EVENT","a",{{"content":"{escaped}"#),
            r#"","created_at":4}]"#,
            too_large(Some("a"), Some(4)),
        ),
        (
            r#"["EVENT","a",{"created_at":1.5,"content":""#,
            r#""}]"#,
            too_large(Some("a"), None),
        ),
        (
            r#"["EVENT","a",{"created_at":99999999999999999999,"content":""#,
            r#""}]"#,
            too_large(Some("a"), None),
        ),
        (
            r#"["EVENT","a",{"created_at":"5","content":""#,
            r#""}]"#,
            too_large(Some("a"), None),
        ),
        (r#"["NOTICE",""#, r#""]"#, too_large(None, None)),
        ("", "", too_large(None, None)),
    ] {
        let message = format!("{start}{filler}.{end}");
        for size in [1, 13, usize::MAX] {
            let returned = decode_in(&text_frame(&message), &[size]).unwrap();
            assert_eq!(returned, std::slice::from_ref(&expected), "{start}");
        }
    }
}

#[test]
fn progress_is_returned_for_each_part_of_a_large_message() {
    let mut decoder = FrameDecoder::default();
    let header = [FINAL | TEXT, 127, 0, 0, 1, 0, 0, 0, 0, 0];
    decoder.buffer().extend_from_slice(&header);
    let mut progress = 0;
    for _ in 0..100 * PROGRESS_BYTES / 1_000 {
        progress += usize::from(decoder.decode().unwrap() == Some(Incoming::Progress));
        decoder.buffer().extend_from_slice(&[b'x'; 1_000]);
    }
    assert!((90..=100).contains(&progress), "{progress}");
    assert!(decoder.held_bytes() <= READ_BUFFER_BYTES + HEAD_BYTES);

    // Empty fragments as well: a relay that sends nothing else must not keep the task busy.
    let mut decoder = FrameDecoder::default();
    decoder.buffer().extend_from_slice(&frame(TEXT, b"x"));
    assert_eq!(decoder.decode().unwrap(), None);
    let empty = frame(CONTINUATION, &[]).repeat(PROGRESS_BYTES / 2);
    decoder.buffer().extend_from_slice(&empty);
    assert_eq!(decoder.decode().unwrap(), Some(Incoming::Progress));
}

/// A message from a relay, and how it is sent.
#[derive(Debug, Clone)]
struct Sent {
    message: String,
    expected: Incoming,
    /// The sizes of its fragments but the last one.
    fragments: Vec<usize>,
    /// What comes after each fragment.
    control: Option<Vec<u8>>,
}

impl Sent {
    /// The frames, and what they decode to.
    fn encode(&self) -> (Vec<u8>, Vec<Incoming>) {
        let (mut frames, mut expected) = (Vec::new(), Vec::new());
        let (mut rest, mut opcode) = (self.message.as_bytes(), TEXT);
        for size in &self.fragments {
            let (fragment, after) = rest.split_at((*size).min(rest.len()));
            frames.extend(frame(opcode, fragment));
            if let Some(payload) = &self.control {
                frames.extend(frame(FINAL | PING, payload));
                expected.push(Incoming::Ping(payload.clone()));
            }
            (rest, opcode) = (after, CONTINUATION);
        }
        frames.extend(frame(FINAL | opcode, rest));
        expected.push(self.expected.clone());
        (frames, expected)
    }
}

fn small() -> impl Strategy<Value = (String, Incoming)> {
    "\\PC{0,200}".prop_map(|message| {
        let expected = text(&message);
        (message, expected)
    })
}

/// An event of about the largest size or above, with its time before or after its content.
fn large() -> impl Strategy<Value = (String, Incoming)> {
    let id = "[a-z0-9.-]{1,64}";
    let unit = prop_oneof![Just("x"), Just("é"), Just("\\\""), Just("\\\\"), Just("🦀")];
    let length = prop_oneof![
        READ_BUFFER_BYTES..MAX_MESSAGE_BYTES,
        MAX_MESSAGE_BYTES - 100..MAX_MESSAGE_BYTES + 100,
        MAX_MESSAGE_BYTES..2 * MAX_MESSAGE_BYTES,
    ];
    (id, unit, length, any::<u64>(), any::<bool>()).prop_map(
        |(id, unit, length, created_at, is_time_first)| {
            let content = format!(r#""content":"{}""#, unit.repeat(length / unit.len()));
            let time = format!(r#""created_at":{created_at}"#);
            let fields = if is_time_first {
                format!("{time},{content}")
            } else {
                format!("{content},{time}")
            };
            let message = format!(r#"["EVENT","{id}",{{{fields}}}]"#);
            let expected = if message.len() > MAX_MESSAGE_BYTES {
                too_large(Some(&id), Some(created_at))
            } else {
                text(&message)
            };
            (message, expected)
        },
    )
}

fn sent() -> impl Strategy<Value = Sent> {
    let message = prop_oneof![3 => small(), 1 => large()];
    let size = prop_oneof![0..10_usize, 0..100_000_usize];
    let fragments = prop_oneof![Just(Vec::new()), proptest::collection::vec(size, 1..5)];
    let control = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..126));
    (message, fragments, control).prop_map(|((message, expected), fragments, control)| Sent {
        message,
        expected,
        fragments,
        control,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn messages_are_the_same_however_they_are_split(
        sent in proptest::collection::vec(sent(), 1..8),
        sizes in proptest::collection::vec(
            prop_oneof![1..10_usize, 1..1_000_usize, 1..100_000_usize],
            1..20,
        ),
    ) {
        let (mut input, mut expected) = (Vec::new(), Vec::new());
        for message in &sent {
            let (frames, incoming) = message.encode();
            input.extend(frames);
            expected.extend(incoming);
        }
        // Not `assert_eq`: the messages are long.
        prop_assert!(decode_in(&input, &sizes).unwrap() == expected);
    }

    #[test]
    fn time_is_found_at_any_split(split in 0..60_usize, other in 0..60_usize) {
        let message = br#"["created_at"],"x":"\"created_at\":1","created_at" : 1234567,""#;
        let (first, second) = (split.min(other), split.max(other));
        let mut scanner = CreatedAtScanner::default();
        for piece in [&message[..first], &message[first..second], &message[second..]] {
            scanner.scan(piece);
        }
        prop_assert_eq!(scanner.value(), Some(Seconds(1_234_567)));
    }
}

//! Decodes the websocket frames of a relay (RFC 6455, <https://www.rfc-editor.org/rfc/rfc6455>). It
//! has no socket and no clock: [`socket`](crate::socket) reads into it.
//!
//! - A complete message in one small frame is returned without a copy.
//! - Other messages are collected while they arrive, up to [`MAX_MESSAGE_BYTES`].
//! - A larger message is skipped while it arrives. Only what is needed to go on after it is kept:
//!   its subscription and its time.

use std::io::Cursor;

use bytes::{Buf, Bytes, BytesMut};
use nostr_push_core::{Seconds, message::MAX_EVENT_BYTES};
use tokio_tungstenite::tungstenite::{
    Error, Utf8Bytes,
    error::ProtocolError,
    protocol::frame::{
        FrameHeader,
        coding::{Control, Data, OpCode},
    },
};

/// The size of the read buffer, in bytes. There may be hundreds of connections.
pub const READ_BUFFER_BYTES: usize = 32 * 1024;

/// The largest text message that is returned, in bytes: the largest event, and the rest of
/// `["EVENT", subscription, event]`.
pub const MAX_MESSAGE_BYTES: usize = MAX_EVENT_BYTES + 1024;

/// The most bytes that a decoder holds, whatever the relay sends.
pub const MAX_HELD_BYTES: usize = READ_BUFFER_BYTES + MAX_MESSAGE_BYTES;

/// After how many bytes of an incomplete message [`Incoming::Progress`] is returned.
pub const PROGRESS_BYTES: usize = 16 * 1024;

/// The first bytes of a skipped message that are kept. They contain the subscription id, which has
/// at most 64 characters (NIP-01,
/// <https://github.com/nostr-protocol/nips/blob/master/01.md>).
const HEAD_BYTES: usize = 512;

/// The most bytes in a control frame (RFC 6455, section 5.5).
const MAX_CONTROL_BYTES: u64 = 125;

/// The key of an event's time, in JSON.
const CREATED_AT_KEY: &[u8] = br#""created_at""#;

/// What came from a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A text message.
    Text(Utf8Bytes),
    /// A binary message, or a text message that is not UTF-8.
    NotText,
    /// A text message above [`MAX_MESSAGE_BYTES`]. It was skipped.
    TooLarge {
        /// The subscription of its event, if it starts like `["EVENT", subscription, …`.
        subscription: Option<String>,
        /// The time of its event, if it has one.
        created_at: Option<Seconds>,
    },
    /// [`PROGRESS_BYTES`] of a message have come, and the message is not complete.
    Progress,
    /// A ping with this payload.
    Ping(Vec<u8>),
    /// A pong.
    Pong,
    /// The relay closes the connection.
    Close,
}

impl Incoming {
    /// The bytes that were decoded for it, roughly.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::TooLarge { .. } | Self::Progress => PROGRESS_BYTES,
            Self::NotText | Self::Ping(_) | Self::Pong | Self::Close => 0,
        }
    }
}

/// Decodes the frames of one connection.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    /// What was read and not decoded. Its allocation never exceeds [`READ_BUFFER_BYTES`].
    input: BytesMut,
    /// The data frame that is being received in pieces.
    frame: Option<PartialFrame>,
    /// The message of which some frames or pieces have come.
    message: Option<PartialMessage>,
    /// The bytes of the message that came since something was returned.
    unreported: usize,
}

#[derive(Debug, Clone, Copy)]
struct PartialFrame {
    /// The bytes of the payload that have not come.
    missing: u64,
    is_final: bool,
}

#[derive(Debug)]
enum PartialMessage {
    /// A binary message. Its content is not kept.
    Binary,
    /// A text message of at most [`MAX_MESSAGE_BYTES`] so far.
    Text(Vec<u8>),
    /// A text message above [`MAX_MESSAGE_BYTES`].
    Skipped(Skipped),
}

impl FrameDecoder {
    /// The buffer to read into. It has room for at least one byte, and must not be extended beyond
    /// its capacity. Call it when [`FrameDecoder::decode`] has returned `None`.
    pub fn buffer(&mut self) -> &mut BytesMut {
        let len = self.input.len();
        let is_short = self.input.capacity() - len < READ_BUFFER_BYTES / 2;
        if is_short
            && !self
                .input
                .try_reclaim(READ_BUFFER_BYTES.saturating_sub(len))
        {
            // `BytesMut::reserve` would double the allocation.
            let mut input = BytesMut::with_capacity(READ_BUFFER_BYTES);
            input.extend_from_slice(&self.input);
            self.input = input;
        }
        &mut self.input
    }

    /// The next message or control frame. `None` if more must be read.
    ///
    /// # Errors
    /// The relay violates the protocol. The connection must end.
    pub fn decode(&mut self) -> Result<Option<Incoming>, Error> {
        loop {
            if let Some(frame) = self.frame {
                let incoming = self.receive(frame);
                if incoming.is_some() || self.frame.is_some() {
                    return Ok(incoming);
                }
            }
            let Some((header, header_bytes, length)) = self.parse_header()? else {
                return Ok(None);
            };
            let data = match header.opcode {
                OpCode::Control(control) => {
                    check_control(&header, length)?;
                    return Ok(self
                        .take_frame(header_bytes, length)
                        .map(|payload| control_frame(control, &payload)));
                }
                OpCode::Data(data) => data,
            };
            self.check_order(data)?;
            let is_whole = header.is_final && data == Data::Text;
            if is_whole && length <= (READ_BUFFER_BYTES - header_bytes) as u64 {
                return Ok(self.take_frame(header_bytes, length).map(text));
            }
            self.begin(header_bytes, length, data, header.is_final);
        }
    }

    /// Returns `true` if no part of a next message has come.
    pub fn is_between_messages(&self) -> bool {
        self.input.is_empty() && self.message.is_none()
    }

    /// The bytes that the decoder holds.
    pub fn held_bytes(&self) -> usize {
        let input = READ_BUFFER_BYTES.max(self.input.capacity());
        let message = match &self.message {
            None | Some(PartialMessage::Binary) => 0,
            Some(PartialMessage::Text(collected)) => collected.capacity(),
            Some(PartialMessage::Skipped(skipped)) => skipped.head.capacity(),
        };
        input + message
    }

    /// Parses the header of the next frame. Returns its size and that of the payload with it.
    fn parse_header(&self) -> Result<Option<(FrameHeader, usize, u64)>, Error> {
        let mut cursor = Cursor::new(&self.input);
        let Some((header, length)) = FrameHeader::parse(&mut cursor)? else {
            return Ok(None);
        };
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(ProtocolError::NonZeroReservedBits.into());
        }
        if header.mask.is_some() {
            return Err(ProtocolError::MaskedFrameFromServer.into());
        }
        // A header has at most 14 bytes.
        let header_bytes = usize::try_from(cursor.position()).unwrap_or_default();
        Ok(Some((header, header_bytes, length)))
    }

    fn check_order(&self, data: Data) -> Result<(), Error> {
        match (data, &self.message) {
            (Data::Continue, None) => Err(ProtocolError::UnexpectedContinueFrame.into()),
            (Data::Text | Data::Binary, Some(_)) => {
                Err(ProtocolError::ExpectedFragment(data).into())
            }
            _ => Ok(()),
        }
    }

    /// Takes the payload of a frame from the buffer, if it has come completely.
    fn take_frame(&mut self, header_bytes: usize, length: u64) -> Option<Bytes> {
        let length = usize::try_from(length).ok()?;
        if self.input.len() - header_bytes < length {
            return None;
        }
        self.input.advance(header_bytes);
        Some(self.input.split_to(length).freeze())
    }

    /// Begins to receive a data frame in pieces.
    fn begin(&mut self, header_bytes: usize, length: u64, data: Data, is_final: bool) {
        self.input.advance(header_bytes);
        self.unreported += header_bytes;
        self.frame = Some(PartialFrame {
            missing: length,
            is_final,
        });
        let message = self.message.take().unwrap_or(match data {
            Data::Text => PartialMessage::Text(Vec::new()),
            _ => PartialMessage::Binary,
        });
        self.message = Some(message.expect_more(length));
    }

    /// Receives what has come of a data frame.
    fn receive(&mut self, frame: PartialFrame) -> Option<Incoming> {
        let missing = usize::try_from(frame.missing).unwrap_or(usize::MAX);
        let length = missing.min(self.input.len());
        if let Some(message) = &mut self.message {
            message.push(&self.input[..length]);
        }
        self.input.advance(length);
        self.unreported += length;
        let missing = frame.missing - length as u64;
        self.frame = (missing > 0).then_some(PartialFrame { missing, ..frame });
        let incoming = if frame.is_final && missing == 0 {
            self.message.take().map(PartialMessage::finish)
        } else {
            (self.unreported >= PROGRESS_BYTES).then_some(Incoming::Progress)
        };
        if incoming.is_some() {
            self.unreported = 0;
        }
        incoming
    }
}

impl From<BytesMut> for FrameDecoder {
    /// A decoder that begins with these bytes, of which there are at most [`READ_BUFFER_BYTES`].
    fn from(input: BytesMut) -> Self {
        Self {
            input,
            ..Self::default()
        }
    }
}

fn check_control(header: &FrameHeader, length: u64) -> Result<(), Error> {
    if !header.is_final {
        Err(ProtocolError::FragmentedControlFrame.into())
    } else if length > MAX_CONTROL_BYTES {
        Err(ProtocolError::ControlFrameTooBig.into())
    } else {
        Ok(())
    }
}

fn control_frame(control: Control, payload: &[u8]) -> Incoming {
    match control {
        Control::Ping => Incoming::Ping(payload.to_vec()),
        Control::Pong => Incoming::Pong,
        // `FrameHeader::parse` refuses the reserved ones.
        Control::Close | Control::Reserved(_) => Incoming::Close,
    }
}

fn text(bytes: Bytes) -> Incoming {
    Utf8Bytes::try_from(bytes).map_or(Incoming::NotText, Incoming::Text)
}

impl PartialMessage {
    /// A frame with a payload of `length` bytes begins. The message is skipped if it is too large.
    fn expect_more(self, length: u64) -> Self {
        match self {
            Self::Text(collected)
                if length > MAX_MESSAGE_BYTES.saturating_sub(collected.len()) as u64 =>
            {
                let mut skipped = Skipped::default();
                skipped.push(&collected);
                Self::Skipped(skipped)
            }
            other => other,
        }
    }

    fn push(&mut self, piece: &[u8]) {
        match self {
            Self::Binary => {}
            Self::Text(collected) => {
                let needed = collected.len() + piece.len();
                if collected.capacity() < needed {
                    // A relay gets as much memory as it has sent bytes, about.
                    let doubled = (2 * collected.capacity()).min(MAX_MESSAGE_BYTES);
                    collected.reserve_exact(doubled.max(needed) - collected.len());
                }
                collected.extend_from_slice(piece);
            }
            Self::Skipped(skipped) => skipped.push(piece),
        }
    }

    fn finish(self) -> Incoming {
        match self {
            Self::Binary => Incoming::NotText,
            Self::Text(collected) => text(collected.into()),
            Self::Skipped(skipped) => Incoming::TooLarge {
                subscription: subscription(&skipped.head),
                created_at: skipped.created_at.value(),
            },
        }
    }
}

/// What is kept of a message that is too large.
#[derive(Debug, Default)]
struct Skipped {
    /// The first [`HEAD_BYTES`].
    head: Vec<u8>,
    created_at: CreatedAtScanner,
}

impl Skipped {
    fn push(&mut self, piece: &[u8]) {
        let missing = HEAD_BYTES - self.head.len();
        self.head
            .extend_from_slice(&piece[..missing.min(piece.len())]);
        self.created_at.scan(piece);
    }
}

/// The subscription in the first bytes of `["EVENT", subscription, …`.
fn subscription(head: &[u8]) -> Option<String> {
    let items = head.trim_ascii_start().strip_prefix(b"[")?;
    let (verb, rest) = first_string(items)?;
    let (subscription, rest) = first_string(rest.strip_prefix(b",")?)?;
    (verb == "EVENT" && rest.starts_with(b",")).then_some(subscription)
}

/// The JSON string at the beginning of `json`, and what comes after it.
fn first_string(json: &[u8]) -> Option<(String, &[u8])> {
    let mut values = serde_json::Deserializer::from_slice(json).into_iter();
    let string = values.next()?.ok()?;
    Some((string, json[values.byte_offset()..].trim_ascii_start()))
}

/// Finds `"created_at":<digits>` in a message that comes in pieces. In JSON, a quote in a string is
/// escaped, so these bytes occur only as the key and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CreatedAtScanner {
    /// This many bytes of the key have come.
    Key(usize),
    /// The key has come. The colon comes next.
    Colon,
    /// The colon has come. The value comes next.
    Value,
    /// These digits have come.
    Digits(u64),
    /// The value has come. `None` if it is not a time.
    Done(Option<u64>),
}

impl Default for CreatedAtScanner {
    fn default() -> Self {
        Self::Key(0)
    }
}

impl CreatedAtScanner {
    fn scan(&mut self, piece: &[u8]) {
        let mut rest = piece;
        while !matches!(self, Self::Done(_)) {
            if *self == Self::Key(0) {
                // Most bytes are skipped here.
                let quote = rest.iter().position(|byte| *byte == b'"');
                rest = &rest[quote.unwrap_or(rest.len())..];
            }
            let Some((byte, after)) = rest.split_first() else {
                return;
            };
            *self = self.after(*byte);
            rest = after;
        }
    }

    fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::Key(matched), _) if CREATED_AT_KEY.get(matched) == Some(&byte) => {
                if matched + 1 == CREATED_AT_KEY.len() {
                    Self::Colon
                } else {
                    Self::Key(matched + 1)
                }
            }
            (Self::Colon | Self::Value, b' ' | b'\t' | b'\n' | b'\r') => self,
            (Self::Colon, b':') => Self::Value,
            (Self::Value, b'0'..=b'9') => Self::Digits(u64::from(byte - b'0')),
            (Self::Digits(value), b'0'..=b'9') => value
                .checked_mul(10)
                .and_then(|value| value.checked_add(u64::from(byte - b'0')))
                .map_or(Self::Done(None), Self::Digits),
            (Self::Value, _) | (Self::Digits(_), b'.' | b'e' | b'E') => Self::Done(None),
            (Self::Digits(value), _) => Self::Done(Some(value)),
            // The key begins with a quote, and the only other one is its last byte.
            (_, b'"') => Self::Key(1),
            _ => Self::Key(0),
        }
    }

    fn value(self) -> Option<Seconds> {
        match self {
            Self::Digits(value) | Self::Done(Some(value)) => Some(Seconds(value)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;

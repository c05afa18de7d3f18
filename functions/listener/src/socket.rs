//! A websocket connection (RFC 6455, <https://www.rfc-editor.org/rfc/rfc6455>) to a relay.
//! [`frame`](crate::frame) decodes what the relay sends.
//!
//! What is sent is queued and written while the connection is read, so a relay that does not read
//! while it writes does not block it. The queue is bounded, and a relay that reads nothing for
//! [`WRITE_TIMEOUT`] is disconnected.

use std::{
    future::poll_fn,
    io::ErrorKind,
    pin::{Pin, pin},
    sync::LazyLock,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BufMut, BytesMut};
use rustls::crypto::{SecureRandom, aws_lc_rs};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::{Sleep, sleep},
};
use tokio_tungstenite::{
    client_async_with_config,
    tungstenite::{
        Error,
        error::ProtocolError,
        protocol::{
            WebSocketConfig,
            frame::{
                Frame, FrameHeader,
                coding::{Control, Data, OpCode},
            },
        },
    },
};

use crate::frame::{FrameDecoder, Incoming};

/// How long a relay may accept no byte while something is to be sent.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(15);

/// The most bytes that are queued before sending waits: two of the largest messages.
const MAX_QUEUED_BYTES: usize = 256 * 1024;

/// The size of a read during the handshake, in bytes.
const HANDSHAKE_READ_BYTES: usize = 4 * 1024;

/// The payload of a close frame: the status code 1000, "normal closure" (RFC 6455, section 7.4.1).
const NORMAL_CLOSURE: [u8; 2] = 1000_u16.to_be_bytes();

/// The source of the masks.
static RANDOM: LazyLock<&'static dyn SecureRandom> =
    LazyLock::new(|| aws_lc_rs::default_provider().secure_random);

/// A connection to a relay.
#[derive(Debug)]
pub struct Socket<S> {
    stream: S,
    decoder: FrameDecoder,
    /// Frames that are to be written.
    queue: BytesMut,
    /// The payload of the last ping, if it has not been answered. RFC 6455 (section 5.5.3) allows
    /// that only the last ping is answered.
    pong: Option<Vec<u8>>,
    /// `true` if the stream must be flushed.
    needs_flush: bool,
    /// How long a write may wait.
    write_timeout: Duration,
    /// The timeout of the write that is waiting.
    write_deadline: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// Makes the handshake for this URL over a stream.
    ///
    /// # Errors
    /// The handshake failed.
    pub async fn connect(url: &str, stream: S) -> Result<Self, Error> {
        let stream = HandshakeStream {
            stream,
            input: BytesMut::new(),
            is_at_line_start: false,
        };
        // The buffers of tungstenite are used only during the handshake.
        let config = WebSocketConfig::default()
            .read_buffer_size(0)
            .write_buffer_size(0);
        let (websocket, _) = client_async_with_config(url, stream, Some(config)).await?;
        let HandshakeStream { stream, input, .. } = websocket.into_inner();
        Ok(Self {
            stream,
            decoder: input.into(),
            queue: BytesMut::new(),
            pong: None,
            needs_flush: false,
            write_timeout: WRITE_TIMEOUT,
            write_deadline: None,
        })
    }

    /// The next message or control frame. A ping is answered. If the future is dropped, nothing is
    /// lost.
    ///
    /// # Errors
    /// The connection is lost, the relay violates the protocol, or it does not read.
    pub async fn next(&mut self) -> Result<Incoming, Error> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Returns `true` if no part of a next message has been read.
    pub fn is_between_messages(&self) -> bool {
        self.decoder.is_between_messages()
    }

    /// Queues a text message. It waits only if too much is queued.
    ///
    /// # Errors
    /// The connection is lost, or the relay does not read.
    pub async fn send_text(&mut self, text: &str) -> Result<(), Error> {
        self.queue(OpCode::Data(Data::Text), text.as_bytes())?;
        self.write_some().await
    }

    /// Queues a ping.
    ///
    /// # Errors
    /// See [`Socket::send_text`].
    pub async fn ping(&mut self) -> Result<(), Error> {
        self.queue(OpCode::Control(Control::Ping), &[])?;
        self.write_some().await
    }

    /// Sends a close frame after what is queued, and closes the stream for writing.
    ///
    /// # Errors
    /// See [`Socket::send_text`].
    pub async fn close(&mut self) -> Result<(), Error> {
        self.queue(OpCode::Control(Control::Close), &NORMAL_CLOSURE)?;
        poll_fn(|cx| self.poll_write(cx)).await?;
        Ok(self.stream.shutdown().await?)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Incoming, Error>> {
        // The queue does not keep the connection from being read.
        if let Poll::Ready(Err(error)) = self.poll_write(cx) {
            return Poll::Ready(Err(error));
        }
        loop {
            if let Some(incoming) = self.decoder.decode()? {
                self.answer(&incoming, cx)?;
                return Poll::Ready(Ok(incoming));
            }
            let read = pin!(self.stream.read_buf(self.decoder.buffer())).poll(cx);
            if ready!(read)? == 0 {
                let error = ProtocolError::ResetWithoutClosingHandshake;
                return Poll::Ready(Err(error.into()));
            }
        }
    }

    /// Answers a ping or a close frame.
    fn answer(&mut self, incoming: &Incoming, cx: &mut Context<'_>) -> Result<(), Error> {
        match incoming {
            Incoming::Ping(payload) => self.pong = Some(payload.clone()),
            Incoming::Close => self.queue(OpCode::Control(Control::Close), &NORMAL_CLOSURE)?,
            _ => return Ok(()),
        }
        // Otherwise the next call writes it, or returns the error.
        let _: Poll<Result<(), Error>> = self.poll_write(cx);
        Ok(())
    }

    /// Encodes a frame into the queue.
    fn queue(&mut self, opcode: OpCode, payload: &[u8]) -> Result<(), Error> {
        let mut mask = [0; 4];
        RANDOM
            .fill(&mut mask)
            .map_err(|_| std::io::Error::other("no randomness"))?;
        let header = FrameHeader {
            opcode,
            mask: Some(mask),
            ..FrameHeader::default()
        };
        let payload = payload.to_vec().into();
        Frame::from_payload(header, payload).format(&mut (&mut self.queue).writer())
    }

    /// Writes until the queue is within its bound.
    async fn write_some(&mut self) -> Result<(), Error> {
        poll_fn(|cx| match self.poll_write(cx) {
            Poll::Pending if self.queue.len() <= MAX_QUEUED_BYTES => Poll::Ready(Ok(())),
            written => written,
        })
        .await
    }

    /// Writes the queue.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            if self.queue.is_empty() {
                let Some(pong) = self.pong.take() else {
                    break;
                };
                self.queue(OpCode::Control(Control::Pong), &pong)?;
            }
            match Pin::new(&mut self.stream).poll_write(cx, &self.queue) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(Error::Io(ErrorKind::WriteZero.into())));
                }
                Poll::Ready(Ok(written)) => self.queue.advance(written),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => return self.poll_timeout(cx),
            }
            (self.needs_flush, self.write_deadline) = (true, None);
        }
        if self.needs_flush {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(flushed) => flushed?,
                Poll::Pending => return self.poll_timeout(cx),
            }
            (self.needs_flush, self.write_deadline) = (false, None);
            // The next message may be much smaller.
            self.queue = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    /// A write waits. Returns an error if it has waited too long.
    fn poll_timeout(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let timeout = self.write_timeout;
        let deadline = self
            .write_deadline
            .get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(Error::Io(ErrorKind::TimedOut.into())))
    }
}

/// The stream during the handshake. A read ends at the latest after an empty line. So the handshake
/// reads no more than the relay's response, and the frames after it stay in `input`.
#[derive(Debug)]
struct HandshakeStream<S> {
    stream: S,
    input: BytesMut,
    /// `true` if no character of the current line has been returned.
    is_at_line_start: bool,
}

impl<S> HandshakeStream<S> {
    /// The number of bytes in `input` that may be returned now, of at most `max`.
    fn readable_bytes(&mut self, max: usize) -> usize {
        let available = &self.input[..max.min(self.input.len())];
        for (position, byte) in available.iter().enumerate() {
            let is_end = *byte == b'\n' && self.is_at_line_start;
            match byte {
                b'\n' => self.is_at_line_start = true,
                b'\r' => {}
                _ => self.is_at_line_start = false,
            }
            if is_end {
                return position + 1;
            }
        }
        available.len()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HandshakeStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        if this.input.is_empty() {
            this.input.reserve(HANDSHAKE_READ_BYTES);
            ready!(pin!(this.stream.read_buf(&mut this.input)).poll(cx))?;
        }
        let length = this.readable_bytes(buffer.remaining());
        buffer.put_slice(&this.input.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HandshakeStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;

//! HTTP/2 from a kubelet, made fit for a server that reads it strictly.
//!
//! A kubelet's client puts the socket's path, escaped, where a host's name belongs (`:authority` is
//! `%2Fvar%2Flib%2Fkubelet%2F…`). That is no authority as RFC 3986 has it, so the server here ends the stream
//! (PROTOCOL_ERROR) before any service sees the call. On a Unix socket the name means nothing; so each block of headers is
//! read and written anew with `localhost` in that one place, and all other frames pass as they are.
//!
//! ```text
//!   kubelet ── preface, frames ──► Localhost { Frames } ──► server
//!           ◄────────────────── as it is ──────────────────
//! ```

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use loona_hpack::{Decoder, Encoder};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// What each connection begins with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length, type, flags, stream (§4.1).
const HEADER_BYTES: usize = 9;
/// The longest frame that a client may send before it is allowed longer ones, which the server here does not do (§4.2).
const FRAME_BYTES_MAX: usize = 16_384;
/// The longest block of headers, over all its frames.
const BLOCK_BYTES_MAX: usize = 65_536;

/// Types of frames (§6).
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
/// Flags of HEADERS.
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Bytes of a priority, which nobody heeds any more.
const PRIORITY_BYTES: usize = 5;

const AUTHORITY: &[u8] = b":authority";
const LOCALHOST: &[u8] = b"localhost";

/// Why a connection cannot go on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("it does not begin as HTTP/2")]
    Preface,
    #[error("a frame of {0} bytes is longer than {FRAME_BYTES_MAX}")]
    FrameLength(usize),
    #[error("a block of headers is longer than {BLOCK_BYTES_MAX} bytes")]
    BlockLength,
    #[error("a block of headers is broken off")]
    Order,
    #[error("a frame of headers says that it is longer than it is")]
    Padding,
    #[error("a block of headers cannot be read: {0}")]
    Hpack(String),
}

/// The bytes of one connection on their way to the server. Pure: bytes in, bytes out, however they are cut.
pub(super) struct Frames {
    /// Not yet a whole frame.
    rest: Vec<u8>,
    begun: bool,
    block: Option<Block>,
    decoder: Decoder<'static>,
    encoder: Encoder<'static>,
}

/// A block of headers that goes on in the next frame.
struct Block {
    stream: [u8; 4],
    ends_stream: bool,
    bytes: Vec<u8>,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self {
            rest: Vec::new(),
            begun: false,
            block: None,
            decoder: Decoder::new(),
            encoder: Encoder::new(),
        }
    }

    /// Takes what has come, and appends to `out` what the server is to see by now.
    ///
    /// # Errors
    /// It is no HTTP/2; nothing after it can be understood.
    pub(super) fn take(&mut self, came: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        let mut rest = std::mem::take(&mut self.rest);
        rest.extend_from_slice(came);
        let mut left = rest.as_slice();
        if !self.begun {
            let common = left.len().min(PREFACE.len());
            if left.get(..common) != PREFACE.get(..common) {
                return Err(Malformed::Preface);
            }
            let Some(after) = left.strip_prefix(PREFACE) else {
                self.rest = rest;
                return Ok(());
            };
            out.extend_from_slice(PREFACE);
            (left, self.begun) = (after, true);
        }
        while let Some((frame, after)) = Frame::split(left)? {
            self.pass(&frame, out)?;
            left = after;
        }
        self.rest = left.to_vec();
        Ok(())
    }

    fn pass(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) -> Result<(), Malformed> {
        let mut block = match (frame.kind, self.block.take()) {
            (HEADERS, None) => Block {
                stream: frame.stream,
                ends_stream: frame.flags & END_STREAM != 0,
                bytes: frame.headers()?.to_vec(),
            },
            (CONTINUATION, Some(mut block)) if block.stream == frame.stream => {
                block.bytes.extend_from_slice(frame.payload);
                block
            }
            // A block goes on without anything in between (§4.3).
            (CONTINUATION, _) | (_, Some(_)) => return Err(Malformed::Order),
            (_, None) => {
                out.extend_from_slice(frame.whole);
                return Ok(());
            }
        };
        if block.bytes.len() > BLOCK_BYTES_MAX {
            return Err(Malformed::BlockLength);
        }
        if frame.flags & END_HEADERS == 0 {
            self.block = Some(block);
            return Ok(());
        }
        block.bytes = self.rewritten(&block.bytes)?;
        block.write(out);
        Ok(())
    }

    fn rewritten(&mut self, block: &[u8]) -> Result<Vec<u8>, Malformed> {
        let headers = self.decoder.decode(block);
        let headers = headers.map_err(|error| Malformed::Hpack(format!("{error:?}")))?;
        let headers = headers.iter().map(|(name, value)| match name.as_slice() {
            AUTHORITY => (AUTHORITY, LOCALHOST),
            name => (name, value.as_slice()),
        });
        Ok(self.encoder.encode(headers))
    }
}

impl Block {
    /// As one frame of headers, and as many that go on with it as it takes.
    fn write(&self, out: &mut Vec<u8>) {
        let mut parts = self.bytes.chunks(FRAME_BYTES_MAX).peekable();
        let mut kind = HEADERS;
        loop {
            let part = parts.next().unwrap_or_default();
            let mut flags = 0;
            if kind == HEADERS && self.ends_stream {
                flags |= END_STREAM;
            }
            if parts.peek().is_none() {
                flags |= END_HEADERS;
            }
            let [_, length @ ..] = u32::try_from(part.len()).unwrap_or(0).to_be_bytes();
            out.extend_from_slice(&length);
            out.extend_from_slice(&[kind, flags]);
            out.extend_from_slice(&self.stream);
            out.extend_from_slice(part);
            if parts.peek().is_none() {
                return;
            }
            kind = CONTINUATION;
        }
    }
}

/// One frame.
struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: [u8; 4],
    payload: &'a [u8],
    whole: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The first frame of `bytes` and what follows it; nothing while it has not come as a whole.
    fn split(bytes: &'a [u8]) -> Result<Option<(Self, &'a [u8])>, Malformed> {
        let Some((header, _)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let [l0, l1, l2, kind, flags, stream @ ..] = *header;
        let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(Malformed::FrameLength(length));
        }
        let Some((whole, after)) = bytes.split_at_checked(HEADER_BYTES + length) else {
            return Ok(None);
        };
        let frame = Self {
            kind,
            flags,
            stream,
            payload: whole.get(HEADER_BYTES..).unwrap_or_default(),
            whole,
        };
        Ok(Some((frame, after)))
    }

    /// The block of headers in a HEADERS frame, without padding and priority (§6.2).
    fn headers(&self) -> Result<&'a [u8], Malformed> {
        let mut block = self.payload;
        let mut padding = 0;
        if self.flags & PADDED != 0 {
            let (length, after) = block.split_first().ok_or(Malformed::Padding)?;
            (padding, block) = (usize::from(*length), after);
        }
        if self.flags & PRIORITY != 0 {
            block = block.get(PRIORITY_BYTES..).ok_or(Malformed::Padding)?;
        }
        let end = block.len().checked_sub(padding);
        end.and_then(|end| block.get(..end))
            .ok_or(Malformed::Padding)
    }
}

/// A connection of which the server sees `localhost`, whoever the client says that it speaks to.
pub(super) struct Localhost<C> {
    connection: C,
    frames: Frames,
    /// What the server has not taken yet, and how much of it it has.
    seen: Vec<u8>,
    taken: usize,
}

impl<C> Localhost<C> {
    pub(super) fn new(connection: C) -> Self {
        Self {
            connection,
            frames: Frames::new(),
            seen: Vec::new(),
            taken: 0,
        }
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Localhost<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            let left = this.seen.get(this.taken..).unwrap_or_default();
            if !left.is_empty() {
                let part = left.get(..buffer.remaining()).unwrap_or(left);
                buffer.put_slice(part);
                this.taken += part.len();
                return Poll::Ready(Ok(()));
            }
            this.seen.clear();
            this.taken = 0;
            let mut came = [0; 4096];
            let mut came = ReadBuf::new(&mut came);
            ready!(Pin::new(&mut this.connection).poll_read(context, &mut came))?;
            if came.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            let taken = this.frames.take(came.filled(), &mut this.seen);
            taken.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Localhost<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
}

impl<C: Connected> Connected for Localhost<C> {
    type ConnectInfo = C::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.connection.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::frame;
    use super::*;

    const PATH: &str = "%2Fvar%2Flib%2Fkubelet%2Fplugins_registry%2Fringpv.io-reg.sock";

    fn block(encoder: &mut Encoder<'_>, authority: &str, call: &str) -> Vec<u8> {
        let headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", call),
            (":authority", authority),
            ("content-type", "application/grpc"),
        ];
        encoder.encode(headers.map(|(name, value)| (name.as_bytes(), value.as_bytes())))
    }

    type Headers = Vec<(String, String)>;

    /// What each block of headers in `bytes` says, and what the other frames are.
    fn read(bytes: &[u8]) -> (Vec<Headers>, Vec<Vec<u8>>) {
        let mut left = bytes.strip_prefix(PREFACE).unwrap();
        let (mut decoder, mut blocks, mut others) = (Decoder::new(), Vec::new(), Vec::new());
        let mut block = Vec::new();
        while let Some((frame, after)) = Frame::split(left).unwrap() {
            left = after;
            if frame.kind != HEADERS && frame.kind != CONTINUATION {
                others.push(frame.whole.to_vec());
                continue;
            }
            block.extend(frame.payload);
            if frame.flags & END_HEADERS != 0 {
                let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
                let headers = decoder.decode(&block).unwrap();
                blocks.push(
                    headers
                        .into_iter()
                        .map(|(n, v)| (text(n), text(v)))
                        .collect(),
                );
                block.clear();
            }
        }
        assert_eq!((left, block.len()), (&[][..], 0), "whole frames");
        (blocks, others)
    }

    /// Two calls as a client sends them: settings, headers (the second time from its table), data, a window.
    fn connection() -> Vec<u8> {
        let mut encoder = Encoder::new();
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]));
        let first = block(
            &mut encoder,
            PATH,
            "/pluginregistration.Registration/GetInfo",
        );
        bytes.extend(frame(HEADERS, END_HEADERS, 1, &first));
        bytes.extend(frame(0, 1, 1, &[0, 0, 0, 0, 0]));
        let (one, two) = (block(&mut encoder, PATH, "/x/Y"), 20);
        let (one, two) = one.split_at(two);
        // With two bytes of padding, and a priority.
        let mut padded = vec![2, 0, 0, 0, 0, 16];
        padded.extend(one);
        padded.extend([0, 0]);
        bytes.extend(frame(HEADERS, PADDED | PRIORITY | END_STREAM, 3, &padded));
        bytes.extend(frame(CONTINUATION, END_HEADERS, 3, two));
        bytes.extend(frame(8, 0, 0, &[0, 0, 255, 255]));
        bytes
    }

    #[test]
    fn only_the_authority_is_another_however_the_bytes_are_cut() {
        let came = connection();
        for length in [1, 2, 7, 64, came.len()] {
            let (mut frames, mut out) = (Frames::new(), Vec::new());
            for part in came.chunks(length) {
                frames.take(part, &mut out).unwrap();
            }
            let (blocks, others) = read(&out);
            assert_eq!(others.len(), 3, "settings, data, window");
            for (block, path) in blocks
                .iter()
                .zip(["/pluginregistration.Registration/GetInfo", "/x/Y"])
            {
                let of = |name: &str| block.iter().find(|(n, _)| n == name).unwrap().1.as_str();
                assert_eq!(of(":authority"), "localhost");
                assert_eq!(of(":path"), path);
                assert_eq!(of("content-type"), "application/grpc");
                assert_eq!(block.len(), 5);
            }
            assert_eq!(blocks.len(), 2);
        }
    }

    #[test]
    fn the_end_of_a_stream_stays_where_it_was() {
        let mut out = Vec::new();
        Frames::new().take(&connection(), &mut out).unwrap();
        let mut left = out.strip_prefix(PREFACE).unwrap();
        let mut ends = Vec::new();
        while let Some((frame, after)) = Frame::split(left).unwrap() {
            left = after;
            if frame.kind == HEADERS {
                ends.push((frame.stream[3], frame.flags));
            }
        }
        assert_eq!(ends, [(1, END_HEADERS), (3, END_HEADERS | END_STREAM)]);
    }

    #[test]
    fn what_is_no_http_2_is_refused() {
        let begun = |bytes: &[u8]| {
            let mut all = PREFACE.to_vec();
            all.extend(bytes);
            Frames::new().take(&all, &mut Vec::new())
        };
        let http1 = Frames::new().take(b"GET / HTTP/1.1\r\n", &mut Vec::new());
        assert_eq!(http1, Err(Malformed::Preface));
        let long = begun(&[0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(long, Err(Malformed::FrameLength(0xff_0000)));
        let alone = begun(&frame(CONTINUATION, END_HEADERS, 1, &[]));
        assert_eq!(alone, Err(Malformed::Order));
        let padding = begun(&frame(HEADERS, END_HEADERS | PADDED, 1, &[9, 0]));
        assert_eq!(padding, Err(Malformed::Padding));
        let index = begun(&frame(HEADERS, END_HEADERS, 1, &[0xff, 0xff, 0xff]));
        assert!(matches!(index, Err(Malformed::Hpack(_))), "{index:?}");
        let mut endless = Vec::new();
        endless.extend(frame(HEADERS, 0, 1, &[0; FRAME_BYTES_MAX]));
        for _ in 0..4 {
            endless.extend(frame(CONTINUATION, 0, 1, &[0; FRAME_BYTES_MAX]));
        }
        assert_eq!(begun(&endless), Err(Malformed::BlockLength));
    }
}

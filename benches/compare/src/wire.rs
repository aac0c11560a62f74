//! AMQP 0-9-1 bytes, by hand: what the load needs to write and to read, and nothing else.
//!
//! Written against the specification alone, so that a fault of the broker's own codec cannot hide
//! behind the same fault here.

use std::io;

pub(crate) const METHOD: u8 = 1;
pub(crate) const HEADER: u8 = 2;
pub(crate) const BODY: u8 = 3;
pub(crate) const HEARTBEAT: u8 = 8;
/// Type, channel, length and end octet around every payload.
pub(crate) const FRAME_OVERHEAD: usize = 8;
const END: u8 = 0xCE;

/// Class and method numbers as one word.
pub(crate) mod method {
    const fn number(class: u32, method: u32) -> u32 {
        (class << 16) + method
    }

    pub(crate) const CONNECTION_START: u32 = number(10, 10);
    pub(crate) const CONNECTION_START_OK: u32 = number(10, 11);
    pub(crate) const CONNECTION_TUNE: u32 = number(10, 30);
    pub(crate) const CONNECTION_TUNE_OK: u32 = number(10, 31);
    pub(crate) const CONNECTION_OPEN: u32 = number(10, 40);
    pub(crate) const CONNECTION_OPEN_OK: u32 = number(10, 41);
    pub(crate) const CONNECTION_CLOSE: u32 = number(10, 50);
    pub(crate) const CONNECTION_CLOSE_OK: u32 = number(10, 51);
    pub(crate) const CHANNEL_OPEN: u32 = number(20, 10);
    pub(crate) const CHANNEL_OPEN_OK: u32 = number(20, 11);
    pub(crate) const CHANNEL_CLOSE: u32 = number(20, 40);
    pub(crate) const EXCHANGE_DECLARE: u32 = number(40, 10);
    pub(crate) const EXCHANGE_DECLARE_OK: u32 = number(40, 11);
    pub(crate) const EXCHANGE_DELETE: u32 = number(40, 20);
    pub(crate) const EXCHANGE_DELETE_OK: u32 = number(40, 21);
    pub(crate) const QUEUE_DECLARE: u32 = number(50, 10);
    pub(crate) const QUEUE_DECLARE_OK: u32 = number(50, 11);
    pub(crate) const QUEUE_BIND: u32 = number(50, 20);
    pub(crate) const QUEUE_BIND_OK: u32 = number(50, 21);
    pub(crate) const QUEUE_DELETE: u32 = number(50, 40);
    pub(crate) const QUEUE_DELETE_OK: u32 = number(50, 41);
    pub(crate) const BASIC_QOS: u32 = number(60, 10);
    pub(crate) const BASIC_QOS_OK: u32 = number(60, 11);
    pub(crate) const BASIC_CONSUME: u32 = number(60, 20);
    pub(crate) const BASIC_CONSUME_OK: u32 = number(60, 21);
    pub(crate) const BASIC_PUBLISH: u32 = number(60, 40);
    pub(crate) const BASIC_DELIVER: u32 = number(60, 60);
    pub(crate) const BASIC_ACK: u32 = number(60, 80);
    pub(crate) const BASIC_NACK: u32 = number(60, 120);
    pub(crate) const CONFIRM_SELECT: u32 = number(85, 10);
    pub(crate) const CONFIRM_SELECT_OK: u32 = number(85, 11);
}

/// A payload under construction.
#[derive(Default)]
pub(crate) struct Payload(pub(crate) Vec<u8>);

impl Payload {
    /// A method's payload, its arguments to follow.
    pub(crate) fn method(method: u32) -> Self {
        Self(method.to_be_bytes().to_vec())
    }

    pub(crate) fn byte(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub(crate) fn short(mut self, value: u16) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(crate) fn long(mut self, value: u32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(crate) fn long_long(mut self, value: u64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// A short string; all of ours are far below 256 bytes.
    pub(crate) fn name(mut self, value: &str) -> Self {
        self.0.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
        self.0.extend(&value.as_bytes()[..value.len().min(255)]);
        self
    }

    /// A long string, or a table that is already encoded.
    pub(crate) fn blob(self, value: &[u8]) -> Self {
        let mut longer = self.long(u32::try_from(value.len()).unwrap_or(u32::MAX));
        longer.0.extend(value);
        longer
    }

    /// Appends this payload to `out` as one frame.
    pub(crate) fn frame(&self, kind: u8, channel: u16, out: &mut Vec<u8>) {
        frame(kind, channel, &self.0, out);
    }
}

/// Appends one frame to `out`.
pub(crate) fn frame(kind: u8, channel: u16, payload: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    out.extend(channel.to_be_bytes());
    out.extend(
        u32::try_from(payload.len())
            .unwrap_or(u32::MAX)
            .to_be_bytes(),
    );
    out.extend(payload);
    out.push(END);
}

/// One whole frame at the head of `bytes`, borrowed.
pub(crate) struct Frame<'a> {
    pub(crate) kind: u8,
    pub(crate) payload: &'a [u8],
    /// Bytes that it takes on the wire.
    pub(crate) length: usize,
}

impl<'a> Frame<'a> {
    /// None while the frame is not whole yet.
    #[inline]
    pub(crate) fn split(bytes: &'a [u8]) -> io::Result<Option<Self>> {
        let Some((head, rest)) = bytes.split_first_chunk::<7>() else {
            return Ok(None);
        };
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        if rest.len() <= size {
            return Ok(None);
        }
        if rest[size] != END {
            return Err(fault(format!(
                "a frame of type {} ends with {:#x}",
                head[0], rest[size]
            )));
        }
        Ok(Some(Self {
            kind: head[0],
            payload: &rest[..size],
            length: size + FRAME_OVERHEAD,
        }))
    }

    /// Class and method, for a method frame.
    #[inline]
    pub(crate) fn method(&self) -> Option<u32> {
        (self.kind == METHOD).then(|| read_u32(self.payload, 0))
    }
}

#[inline]
pub(crate) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_be_bytes)
}

#[inline]
pub(crate) fn read_u64(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u64::from_be_bytes)
}

/// Reply code and text of a connection.close or channel.close.
pub(crate) fn close_reason(payload: &[u8]) -> String {
    let code = read_u32(payload, 2) & 0xFFFF;
    let length = payload.get(6).copied().unwrap_or(0) as usize;
    let text = payload.get(7..7 + length).unwrap_or_default();
    format!("{code} {}", String::from_utf8_lossy(text))
}

/// An answer that no correct broker gives.
pub(crate) fn fault(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

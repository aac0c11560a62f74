//! Writes the methods that the server sends outside the hot path, as whole frames. Depends on
//! `frame` and `method_id`.

use super::frame;
use super::method_id::MethodId;

/// A method frame under construction. [`MethodFrame::finish`] fills in its length.
pub(crate) struct MethodFrame<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> MethodFrame<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>, channel: u16, id: MethodId) -> Self {
        let start = out.len();
        frame::head(out, frame::METHOD, channel, 0);
        out.extend_from_slice(&id.class.to_be_bytes());
        out.extend_from_slice(&id.method.to_be_bytes());
        Self { out, start }
    }

    pub(crate) fn u8(self, value: u8) -> Self {
        self.out.push(value);
        self
    }

    pub(crate) fn u16(self, value: u16) -> Self {
        self.out.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn u32(self, value: u32) -> Self {
        self.out.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn u64(self, value: u64) -> Self {
        self.out.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Appends a short string, cut at 255 bytes. All names came as short strings and fit.
    #[expect(clippy::cast_possible_truncation, reason = "cut to 255 just above")]
    pub(crate) fn short_string(self, value: &[u8]) -> Self {
        let value = &value[..value.len().min(255)];
        self.out.push(value.len() as u8);
        self.out.extend_from_slice(value);
        self
    }

    /// Appends bytes that are encoded already, such as a table.
    pub(crate) fn raw(self, value: &[u8]) -> Self {
        self.out.extend_from_slice(value);
        self
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "long strings that the server sends are a few hundred bytes"
    )]
    pub(crate) fn long_string(self, value: &[u8]) -> Self {
        self.out
            .extend_from_slice(&(value.len() as u32).to_be_bytes());
        self.out.extend_from_slice(value);
        self
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "a method the server sends is far below 4 GiB"
    )]
    pub(crate) fn finish(self) {
        let size = (self.out.len() - self.start - 7) as u32;
        self.out[self.start + 3..self.start + 7].copy_from_slice(&size.to_be_bytes());
        self.out.push(frame::END);
    }
}

/// Writes a method without arguments, such as `channel.close-ok`.
pub(crate) fn empty_method(out: &mut Vec<u8>, channel: u16, id: MethodId) {
    MethodFrame::new(out, channel, id).finish();
}

pub(crate) fn connection_tune(
    out: &mut Vec<u8>,
    channel_max: u16,
    frame_max: u32,
    heartbeat_s: u16,
) {
    MethodFrame::new(out, 0, MethodId::CONNECTION_TUNE)
        .u16(channel_max)
        .u32(frame_max)
        .u16(heartbeat_s)
        .finish();
}

pub(crate) fn connection_open_ok(out: &mut Vec<u8>) {
    MethodFrame::new(out, 0, MethodId::CONNECTION_OPEN_OK)
        .short_string(b"")
        .finish();
}

/// Writes `connection.close` on channel 0 and `channel.close` on all others.
pub(crate) fn close(out: &mut Vec<u8>, channel: u16, code: u16, text: &str, cause: MethodId) {
    let id = if channel == 0 {
        MethodId::CONNECTION_CLOSE
    } else {
        MethodId::CHANNEL_CLOSE
    };
    MethodFrame::new(out, channel, id)
        .u16(code)
        .short_string(text.as_bytes())
        .u16(cause.class)
        .u16(cause.method)
        .finish();
}

pub(crate) fn connection_blocked(out: &mut Vec<u8>, reason: &str) {
    MethodFrame::new(out, 0, MethodId::CONNECTION_BLOCKED)
        .short_string(reason.as_bytes())
        .finish();
}

pub(crate) fn connection_unblocked(out: &mut Vec<u8>) {
    empty_method(out, 0, MethodId::CONNECTION_UNBLOCKED);
}

pub(crate) fn channel_open_ok(out: &mut Vec<u8>, channel: u16) {
    MethodFrame::new(out, channel, MethodId::CHANNEL_OPEN_OK)
        .long_string(b"")
        .finish();
}

pub(crate) fn queue_declare_ok(
    out: &mut Vec<u8>,
    channel: u16,
    queue: &str,
    ready: u32,
    consumers: u32,
) {
    MethodFrame::new(out, channel, MethodId::QUEUE_DECLARE_OK)
        .short_string(queue.as_bytes())
        .u32(ready)
        .u32(consumers)
        .finish();
}

/// Writes `queue.purge-ok` or `queue.delete-ok` with the number of deleted messages.
pub(crate) fn queue_count_ok(out: &mut Vec<u8>, channel: u16, id: MethodId, count: u32) {
    MethodFrame::new(out, channel, id).u32(count).finish();
}

pub(crate) fn consume_ok(out: &mut Vec<u8>, channel: u16, tag: &str) {
    MethodFrame::new(out, channel, MethodId::BASIC_CONSUME_OK)
        .short_string(tag.as_bytes())
        .finish();
}

pub(crate) fn cancel_ok(out: &mut Vec<u8>, channel: u16, tag: &str) {
    MethodFrame::new(out, channel, MethodId::BASIC_CANCEL_OK)
        .short_string(tag.as_bytes())
        .finish();
}

/// Writes the server's own `basic.cancel`: the queue was deleted.
pub(crate) fn cancel(out: &mut Vec<u8>, channel: u16, tag: &str) {
    MethodFrame::new(out, channel, MethodId::BASIC_CANCEL)
        .short_string(tag.as_bytes())
        .u8(1)
        .finish();
}

pub(crate) fn get_empty(out: &mut Vec<u8>, channel: u16) {
    MethodFrame::new(out, channel, MethodId::BASIC_GET_EMPTY)
        .short_string(b"")
        .finish();
}

pub(crate) fn ack(out: &mut Vec<u8>, channel: u16, tag: u64, multiple: bool) {
    MethodFrame::new(out, channel, MethodId::BASIC_ACK)
        .u64(tag)
        .u8(u8::from(multiple))
        .finish();
}

pub(crate) fn nack(out: &mut Vec<u8>, channel: u16, tag: u64, multiple: bool) {
    MethodFrame::new(out, channel, MethodId::BASIC_NACK)
        .u64(tag)
        .u8(u8::from(multiple))
        .finish();
}

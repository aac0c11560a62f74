//! Content frames: parses headers, and writes deliveries, get-oks and returns. Depends on `frame`
//! and `cursor`.
//!
//! # Cost
//! A delivery is appended to the output buffer in one pass; the body is split to the peer's
//! frame-max.

use std::ops::Range;

use super::cursor::{ByteCursor, MalformedField};
use super::{BASIC, frame};

/// The longest encoded properties of a message that is accepted. Clients end their connection at a
/// header frame of more than 128 KiB, and a message is delivered to them again and again; what the
/// server adds, a reply address, has room in the rest.
pub(crate) const PROPERTIES_BYTES: usize = 128 * 1024 - 512;

/// The fixed fields of a content header, and the undecoded properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ContentHeader<'a> {
    pub(crate) class: u16,
    pub(crate) body_size: u64,
    /// Property flags and values; they are sent to consumers unchanged.
    pub(crate) properties: &'a [u8],
}

pub(crate) fn header(payload: &[u8]) -> Result<ContentHeader<'_>, MalformedField> {
    let mut cursor = ByteCursor::new(payload);
    let class = cursor.u16()?;
    cursor.u16()?;
    let body_size = cursor.u64()?;
    Ok(ContentHeader {
        class,
        body_size,
        properties: cursor.remaining(),
    })
}

/// The parts of a message that go on the wire.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MessageContent<'a> {
    pub(crate) exchange: &'a [u8],
    pub(crate) routing_key: &'a [u8],
    pub(crate) properties: &'a [u8],
    pub(crate) body: &'a [u8],
}

/// How the frames of a channel are written: its number, and the frame-max of the client (0 for no
/// limit).
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChannelFraming {
    pub(crate) channel: u16,
    pub(crate) frame_max: u32,
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "names came as short strings"
)]
fn short_string(out: &mut Vec<u8>, value: &[u8]) {
    out.push(value.len() as u8);
    out.extend_from_slice(value);
}

pub(crate) fn deliver(
    out: &mut Vec<u8>,
    framing: ChannelFraming,
    consumer_tag: &[u8],
    tags: (u64, bool),
    content: MessageContent<'_>,
) {
    write_deliver(out, framing, consumer_tag, tags, content);
    body(out, framing, content.body);
}

/// Writes the method and header of a `basic.deliver`. The caller adds the body.
pub(crate) fn write_deliver(
    out: &mut Vec<u8>,
    framing: ChannelFraming,
    consumer_tag: &[u8],
    (tag, redelivered): (u64, bool),
    content: MessageContent<'_>,
) {
    let size =
        4 + 1 + consumer_tag.len() + 9 + 2 + content.exchange.len() + content.routing_key.len();
    out.reserve(size + content.properties.len() + 64);
    frame::head(out, frame::METHOD, framing.channel, size);
    out.extend_from_slice(&[0, 60, 0, 60]);
    short_string(out, consumer_tag);
    out.extend_from_slice(&tag.to_be_bytes());
    out.push(u8::from(redelivered));
    short_string(out, content.exchange);
    short_string(out, content.routing_key);
    out.push(frame::END);
    content_header(out, framing, content);
}

/// Writes the method and header of a `basic.get-ok`. The caller adds the body.
pub(crate) fn write_get_ok(
    out: &mut Vec<u8>,
    framing: ChannelFraming,
    (tag, redelivered): (u64, bool),
    left: u32,
    content: MessageContent<'_>,
) {
    let size = 4 + 9 + 2 + content.exchange.len() + content.routing_key.len() + 4;
    frame::head(out, frame::METHOD, framing.channel, size);
    out.extend_from_slice(&[0, 60, 0, 71]);
    out.extend_from_slice(&tag.to_be_bytes());
    out.push(u8::from(redelivered));
    short_string(out, content.exchange);
    short_string(out, content.routing_key);
    out.extend_from_slice(&left.to_be_bytes());
    out.push(frame::END);
    content_header(out, framing, content);
}

/// Writes the method and header of a `basic.return`. The caller adds the body. The reason is always
/// 312 `NO_ROUTE`, because `immediate` is not supported.
pub(crate) fn write_return(
    out: &mut Vec<u8>,
    framing: ChannelFraming,
    content: MessageContent<'_>,
) {
    const TEXT: &[u8] = b"NO_ROUTE";
    let size = 4 + 2 + 1 + TEXT.len() + 2 + content.exchange.len() + content.routing_key.len();
    frame::head(out, frame::METHOD, framing.channel, size);
    out.extend_from_slice(&[0, 60, 0, 50]);
    out.extend_from_slice(&312u16.to_be_bytes());
    short_string(out, TEXT);
    short_string(out, content.exchange);
    short_string(out, content.routing_key);
    out.push(frame::END);
    content_header(out, framing, content);
}

fn content_header(out: &mut Vec<u8>, framing: ChannelFraming, content: MessageContent<'_>) {
    frame::head(
        out,
        frame::HEADER,
        framing.channel,
        12 + content.properties.len(),
    );
    out.extend_from_slice(&BASIC.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&(content.body.len() as u64).to_be_bytes());
    out.extend_from_slice(content.properties);
    out.push(frame::END);
}

/// Writes a body as frames.
pub(crate) fn body(out: &mut Vec<u8>, framing: ChannelFraming, body: &[u8]) {
    out.reserve(body.len() + frame::OVERHEAD);
    for part in body.chunks(max_body_bytes(framing)) {
        frame::head(out, frame::BODY, framing.channel, part.len());
        out.extend_from_slice(part);
        out.push(frame::END);
    }
}

/// Returns how many bytes of a body fit into one frame.
fn max_body_bytes(framing: ChannelFraming) -> usize {
    match framing.frame_max {
        0 => usize::MAX,
        limit => limit as usize - frame::OVERHEAD,
    }
}

/// Returns the ranges into which a body of `size` bytes is split.
pub(crate) fn parts(framing: ChannelFraming, size: usize) -> impl Iterator<Item = Range<usize>> {
    let most = max_body_bytes(framing);
    let starts = (0..size).step_by(most);
    starts.map(move |start| start..size.min(start.saturating_add(most)))
}

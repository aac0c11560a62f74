//! Builds frames, right and wrong ones, byte by byte for the tests.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

/// A frame of this type on channel 1.
pub(super) fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    frame_on(1, kind, payload)
}

/// A method frame.
pub(super) fn method(channel: u16, class: u16, number: u16, fields: &[u8]) -> Vec<u8> {
    let ids = [class.to_be_bytes(), number.to_be_bytes()].concat();
    frame_on(channel, 1, &[&ids, fields].concat())
}

fn frame_on(channel: u16, kind: u8, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[kind][..], &channel.to_be_bytes(), &size, payload, &[0xCE]].concat()
}

/// A text behind its length in one byte.
pub(super) fn name(bytes: &[u8]) -> Vec<u8> {
    [&[u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

/// Bytes behind their length in four bytes: a text, or a table of these entries.
pub(super) fn long(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&length[..], bytes].concat()
}

/// The entries of a table around which there are so many others, each with the one inside as its
/// only value.
pub(super) fn nested(depth: usize, entries: &[u8]) -> Vec<u8> {
    let level = |inside: usize| {
        let length = u32::try_from(6 * inside + entries.len()).unwrap();
        // A name without letters, the type, and the length.
        [&[0, b'F'][..], &length.to_be_bytes()].concat()
    };
    let mut bytes: Vec<u8> = (0..depth).rev().flat_map(level).collect();
    bytes.extend(entries);
    bytes
}

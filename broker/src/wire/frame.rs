//! Frames: type, channel, length, payload, end octet. Depends on `erlang` for the texts of
//! refusals.
//!
//! # Cost
//! One bounds check and seven header bytes for each frame; the payload is borrowed.

use super::erlang;

/// The last octet of every frame.
pub(crate) const END: u8 = 0xCE;
/// The bytes of a frame around its payload.
pub(crate) const OVERHEAD: usize = 8;
/// The smallest frame limit that a peer may ask for (AMQP 0-9-1, 4.2.3).
pub(crate) const MIN_LIMIT: u32 = 4096;

pub(crate) const METHOD: u8 = 1;
pub(crate) const HEADER: u8 = 2;
pub(crate) const BODY: u8 = 3;
pub(crate) const HEARTBEAT: u8 = 8;

/// One frame in the read buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: u8,
    pub(crate) channel: u16,
    pub(crate) payload: &'a [u8],
}

impl Frame<'_> {
    /// Returns the size of the whole frame in bytes.
    pub(crate) fn total(&self) -> usize {
        self.payload.len() + OVERHEAD
    }

    /// Quotes the frame as RabbitMQ does in a refusal.
    pub(crate) fn quote(&self) -> String {
        quote(self.kind, self.payload)
    }
}

fn quote(kind: u8, payload: &[u8]) -> String {
    if payload.len() <= 16 {
        format!("type {kind}, all octets = {}", erlang::binary(payload))
    } else {
        format!(
            "type {kind}, first 16 octets = {}",
            erlang::binary(&payload[..16])
        )
    }
}

/// The result of parsing the front of a buffer.
#[derive(Debug)]
pub(crate) enum ParsedFrame<'a> {
    Whole(Frame<'a>),
    /// The frame is incomplete. Its total size is `needed`, or at least `needed` if its header is
    /// incomplete too.
    Partial {
        needed: usize,
    },
}

/// Bytes that are not a frame, shown as in the text of RabbitMQ's 501 `FRAME_ERROR`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError<'a> {
    /// The payload is longer than was agreed.
    #[error("type {kind}, all octets = <<>>: {{frame_too_large,{size},{most}}}")]
    TooLarge { kind: u8, size: u32, most: u32 },
    /// Something else stands where the frame ends.
    #[error("{}: {{invalid_frame_end_marker,{end}}}", quote(*kind, payload))]
    NoEnd {
        kind: u8,
        payload: &'a [u8],
        end: u8,
    },
}

/// Parses the frame at the front of `buffer`. `limit` is the negotiated frame-max, 0 for no limit.
pub(crate) fn parse(buffer: &[u8], limit: u32) -> Result<ParsedFrame<'_>, FrameError<'_>> {
    let Some((head, rest)) = buffer.split_first_chunk::<7>() else {
        return Ok(ParsedFrame::Partial { needed: OVERHEAD });
    };
    let [kind, c0, c1, s0, s1, s2, s3] = *head;
    let size = u32::from_be_bytes([s0, s1, s2, s3]);
    // Like RabbitMQ, accepts a payload of the whole limit, because amqpstorm does not count the
    // eight bytes around it.
    if limit != 0 && size > limit {
        let most = limit.saturating_sub(8);
        return Err(FrameError::TooLarge { kind, size, most });
    }
    let size = size as usize;
    let Some(end) = rest.get(size) else {
        return Ok(ParsedFrame::Partial {
            needed: size + OVERHEAD,
        });
    };
    let payload = &rest[..size];
    if *end != END {
        let end = *end;
        return Err(FrameError::NoEnd { kind, payload, end });
    }
    Ok(ParsedFrame::Whole(Frame {
        kind,
        channel: u16::from_be_bytes([c0, c1]),
        payload,
    }))
}

/// Appends the header of a frame whose payload length is known.
#[expect(
    clippy::cast_possible_truncation,
    reason = "payloads are cut to the negotiated frame-max, which is a u32"
)]
pub(crate) fn head(out: &mut Vec<u8>, kind: u8, channel: u16, size: usize) {
    let [c0, c1] = channel.to_be_bytes();
    let [s0, s1, s2, s3] = (size as u32).to_be_bytes();
    out.extend_from_slice(&[kind, c0, c1, s0, s1, s2, s3]);
}

pub(crate) fn heartbeat(out: &mut Vec<u8>) {
    out.extend_from_slice(&[HEARTBEAT, 0, 0, 0, 0, 0, 0, END]);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_whole_frame_is_borrowed_and_a_cut_one_says_what_it_needs() {
        let bytes = [1, 0, 7, 0, 0, 0, 2, 9, 8, END, 1];
        let ParsedFrame::Whole(frame) = parse(&bytes, 4096).unwrap() else {
            panic!("whole")
        };
        assert_eq!(
            (frame.kind, frame.channel, frame.payload, frame.total()),
            (1, 7, &[9u8, 8][..], 10)
        );
        assert!(matches!(
            parse(&bytes[..9], 4096).unwrap(),
            ParsedFrame::Partial { needed: 10 }
        ));
        assert!(matches!(
            parse(&bytes[..3], 4096).unwrap(),
            ParsedFrame::Partial { needed: 8 }
        ));
    }

    #[test]
    fn a_frame_above_the_limit_is_refused_before_its_payload_came() {
        let error = parse(&[1, 0, 1, 0, 0, 0x23, 0x28], 4096).unwrap_err();
        assert_eq!(
            error.to_string(),
            "type 1, all octets = <<>>: {frame_too_large,9000,4088}"
        );
    }

    #[test]
    fn a_payload_of_the_whole_limit_passes_and_one_octet_more_does_not() {
        assert!(parse(&[3, 0, 1, 0, 0, 0x10, 0], 4096).is_ok());
        assert!(parse(&[3, 0, 1, 0, 0, 0x10, 1], 4096).is_err());
    }

    #[test]
    fn a_wrong_end_octet_is_refused() {
        let error = parse(&[1, 0, 1, 0, 0, 0, 1, 5, 0], 0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "type 1, all octets = <<5>>: {invalid_frame_end_marker,0}"
        );
    }
}

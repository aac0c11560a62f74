//! Frames in the order in which they are sent: a byte buffer, and references to parts of large
//! bodies that belong between its bytes. Depends on `queue` for messages and on `wire`.
//!
//! # Cost
//! Small bodies are copied, because one run of bytes is cheaper to send than many. A large body
//! costs one owner count of its message and a few words for each frame. Sending advances by what
//! the system accepts in each write.

use std::io::IoSlice;
use std::ops::Range;

use bytes::Buf;

use crate::memory::Charge;
use crate::queue::message::Message;
use crate::wire::content::{self, ChannelFraming};
use crate::wire::frame;

/// The smallest body that is referred to instead of copied.
const LENT_BYTES: usize = 32 * 1024;

/// The frames that an outbox holds and a writer sends.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    bytes: Vec<u8>,
    lent: Vec<LentBody>,
    lent_bytes: usize,
    /// The charge for the capacity. Bodies that are referred to are charged to their messages.
    charge: Charge,
}

/// A part of a body, to be sent between two bytes of the buffer.
#[derive(Debug)]
struct LentBody {
    /// The position in the buffer before which it is sent.
    at: usize,
    message: Message,
    part: Range<usize>,
}

impl LentBody {
    fn octets(&self) -> &[u8] {
        &self.message.content().body[self.part.clone()]
    }
}

impl Frames {
    /// The buffer to which whole frames are appended.
    pub(crate) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Returns the number of bytes on the wire.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + self.lent_bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Returns the allocated bytes, without the bodies that are referred to.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity() + self.lent.capacity() * size_of::<LentBody>()
    }

    /// Updates the charge to the current capacity.
    pub(crate) fn recharge(&mut self) {
        let capacity = self.capacity();
        if capacity != self.charge.bytes() {
            self.charge.set(capacity);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.lent.clear();
        self.lent_bytes = 0;
    }

    /// Appends a `basic.deliver` for the consumer with this tag.
    pub(crate) fn deliver(
        &mut self,
        framing: ChannelFraming,
        (consumer_tag, tag): (&[u8], u64),
        redelivered: bool,
        message: &Message,
    ) {
        let (content, tags) = (message.content(), (tag, redelivered));
        if !Self::is_lent(framing, message) {
            return content::deliver(&mut self.bytes, framing, consumer_tag, tags, content);
        }
        content::write_deliver(&mut self.bytes, framing, consumer_tag, tags, content);
        self.lend_body(framing, message);
    }

    /// Appends a `basic.get-ok` with the number of messages that are left in the queue.
    pub(crate) fn get_ok(
        &mut self,
        framing: ChannelFraming,
        tags: (u64, bool),
        left: u32,
        message: &Message,
    ) {
        let content = message.content();
        content::write_get_ok(&mut self.bytes, framing, tags, left, content);
        self.body(framing, message);
    }

    /// Appends a `basic.return` of a message that matched no queue.
    pub(crate) fn no_route(&mut self, framing: ChannelFraming, message: &Message) {
        content::write_return(&mut self.bytes, framing, message.content());
        self.body(framing, message);
    }

    fn is_lent(framing: ChannelFraming, message: &Message) -> bool {
        let is_cut_small = || framing.frame_max != 0 && (framing.frame_max as usize) < LENT_BYTES;
        message.body_len() >= LENT_BYTES && !is_cut_small()
    }

    fn body(&mut self, framing: ChannelFraming, message: &Message) {
        if Self::is_lent(framing, message) {
            self.lend_body(framing, message);
        } else {
            content::body(&mut self.bytes, framing, message.content().body);
        }
    }

    fn lend_body(&mut self, framing: ChannelFraming, message: &Message) {
        for part in content::parts(framing, message.body_len()) {
            frame::head(&mut self.bytes, frame::BODY, framing.channel, part.len());
            self.lent_bytes += part.len();
            self.lent.push(LentBody {
                at: self.bytes.len(),
                message: message.clone(),
                part,
            });
            self.bytes.push(frame::END);
        }
    }

    /// Returns a reader over all frames, which a writer advances write by write.
    pub(crate) fn sending(&self) -> SendPosition<'_> {
        SendPosition {
            frames: self,
            at: 0,
            next: 0,
            done: 0,
        }
    }
}

/// A position in frames that are being sent.
pub(crate) struct SendPosition<'a> {
    frames: &'a Frames,
    /// Sent bytes of the buffer.
    at: usize,
    /// The next part to send, and how much of it is sent.
    next: usize,
    done: usize,
}

impl<'a> SendPosition<'a> {
    /// Returns the unsent rest of the run of bytes or the part at the front. Empty only at the end.
    fn front(&self) -> &'a [u8] {
        match self.frames.lent.get(self.next) {
            Some(lent) if lent.at == self.at => &lent.octets()[self.done..],
            Some(lent) => &self.frames.bytes[self.at..lent.at],
            None => &self.frames.bytes[self.at..],
        }
    }

    /// Advances by `count` bytes of the front.
    fn advance_front(&mut self, count: usize) {
        match self.frames.lent.get(self.next) {
            Some(lent) if lent.at == self.at => {
                self.done += count;
                if self.done == lent.part.len() {
                    (self.next, self.done) = (self.next + 1, 0);
                }
            }
            _ => self.at += count,
        }
    }
}

impl Buf for SendPosition<'_> {
    fn remaining(&self) -> usize {
        let lent = self.frames.lent[self.next..].iter();
        let lent: usize = lent.map(|lent| lent.part.len()).sum();
        self.frames.bytes.len() - self.at + lent - self.done
    }

    fn chunk(&self) -> &[u8] {
        self.front()
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let mut ahead = SendPosition { ..*self };
        let mut filled = 0;
        for slot in into {
            let front = ahead.front();
            if front.is_empty() {
                break;
            }
            *slot = IoSlice::new(front);
            ahead.advance_front(front.len());
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let step = self.front().len().min(count);
            assert!(step > 0, "more was sent than there is");
            self.advance_front(step);
            count -= step;
        }
    }

    fn has_remaining(&self) -> bool {
        !self.front().is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn message(body: &[u8]) -> Message {
        Message::transient((b"ex", b"key"), body)
    }

    /// Returns what a socket receives that accepts at most `at_once` bytes in each write.
    fn written(frames: &Frames, at_once: usize, is_vectored: bool) -> Vec<u8> {
        let (mut sending, mut written) = (frames.sending(), Vec::new());
        while sending.has_remaining() {
            assert_eq!(sending.remaining() + written.len(), frames.len());
            let before = written.len();
            if is_vectored {
                let mut slices = [IoSlice::new(&[]); 3];
                let filled = sending.chunks_vectored(&mut slices);
                let offered = slices[..filled].iter().flat_map(|slice| slice.iter());
                written.extend(offered.take(at_once));
            } else {
                let chunk = sending.chunk();
                written.extend_from_slice(&chunk[..chunk.len().min(at_once)]);
            }
            sending.advance(written.len() - before);
        }
        assert_eq!(sending.remaining(), 0);
        written
    }

    #[test]
    fn lent_bodies_leave_as_copied_ones_do_however_little_a_write_takes() {
        let body: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
        for frame_max in [0, 4096, 40_000, 131_072] {
            let framing = ChannelFraming {
                channel: 7,
                frame_max,
            };
            let (mut frames, mut copied) = (Frames::default(), Vec::new());
            for (tag, size) in [(1, 100_000), (2, 5), (3, 300_000), (4, 32 * 1024), (5, 0)] {
                let message = message(&body[..size]);
                frames.deliver(framing, (b"tag", tag), false, &message);
                content::deliver(
                    &mut copied,
                    framing,
                    b"tag",
                    (tag, false),
                    message.content(),
                );
            }
            let is_lent = !frames.lent.is_empty();
            assert_eq!(is_lent, frame_max != 4096, "frames of {frame_max}");
            assert_eq!(frames.len(), copied.len());
            for at_once in [1, 7, 1000, 65_536, usize::MAX] {
                for is_vectored in [false, true] {
                    assert!(written(&frames, at_once, is_vectored) == copied);
                }
            }
            frames.clear();
            assert!(frames.is_empty() && frames.lent.is_empty());
            assert_eq!(frames.len(), 0);
        }
    }
}

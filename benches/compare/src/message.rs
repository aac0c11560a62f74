//! The messages of a load: laid out once, stamped for each publish, checked byte for byte on
//! arrival.
//!
//! A body opens with its sequence number and the time at which it was handed to the socket; the
//! rest is a pattern that both ends know.

use std::io;
use std::time::Instant;

use crate::wire::{self, FRAME_OVERHEAD, Payload, method};

/// Sequence number and send time; no body is shorter.
pub(crate) const STAMP: usize = 16;

/// Whether a message asks to survive a restart.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Transient,
    Persistent,
}

/// Nanoseconds since the program started.
#[derive(Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn nanoseconds(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Byte `at` of every body, after the stamp.
fn pattern(at: usize) -> u8 {
    (at.wrapping_mul(167) >> 3).to_le_bytes()[0]
}

/// The bytes of one publish: method, header and body frames.
pub(crate) struct Layout {
    pub(crate) bytes: Vec<u8>,
    stamp_at: usize,
}

impl Layout {
    /// A publish of `size` bytes (at least [`STAMP`]) to `exchange` with `key`, in frames of at
    /// most `frame_max`.
    pub(crate) fn new(
        exchange: &str,
        key: &str,
        size: usize,
        mode: Mode,
        frame_max: usize,
    ) -> Self {
        let mut bytes = Vec::new();
        let publish = Payload::method(method::BASIC_PUBLISH)
            .short(0)
            .name(exchange)
            .name(key);
        publish.byte(0).frame(wire::METHOD, 1, &mut bytes);
        let delivery_mode = if mode == Mode::Persistent { 2 } else { 1 };
        let header = Payload::default()
            .short(60)
            .short(0)
            .long_long(size as u64)
            .short(0x1000);
        header
            .byte(delivery_mode)
            .frame(wire::HEADER, 1, &mut bytes);
        let stamp_at = bytes.len() + 7;
        let body: Vec<u8> = (0..size).map(pattern).collect();
        for part in body.chunks(frame_max - FRAME_OVERHEAD) {
            wire::frame(wire::BODY, 1, part, &mut bytes);
        }
        Self { bytes, stamp_at }
    }

    /// `copies` of the message behind one another, to be stamped in place.
    pub(crate) fn repeated(&self, copies: usize) -> Vec<u8> {
        self.bytes.repeat(copies)
    }

    /// Writes the stamp of the copy that is the `copy`-th in `batch`.
    #[inline]
    pub(crate) fn stamp(&self, batch: &mut [u8], copy: usize, sequence: u64, sent: u64) {
        let at = copy * self.bytes.len() + self.stamp_at;
        batch[at..at + 8].copy_from_slice(&sequence.to_be_bytes());
        batch[at + 8..at + STAMP].copy_from_slice(&sent.to_be_bytes());
    }
}

/// A body as it arrives, frame by frame.
pub(crate) struct Arriving {
    expected: Vec<u8>,
    missing: usize,
    stamp: [u8; STAMP],
}

/// What a whole body said.
pub(crate) struct Arrived {
    pub(crate) sequence: u64,
    pub(crate) sent: u64,
}

impl Arriving {
    pub(crate) fn new(size: usize) -> Self {
        Self {
            expected: (0..size).map(pattern).collect(),
            missing: 0,
            stamp: [0; STAMP],
        }
    }

    /// A header frame came.
    #[inline]
    pub(crate) fn begin(&mut self, header: &[u8]) -> io::Result<()> {
        let size = wire::read_u64(header, 4);
        if size != self.expected.len() as u64 {
            return Err(wire::fault(format!(
                "a body of {size} bytes, {} were published",
                self.expected.len()
            )));
        }
        self.missing = self.expected.len();
        Ok(())
    }

    /// A body frame came; the stamp once the body is whole.
    #[inline]
    pub(crate) fn take(&mut self, part: &[u8]) -> io::Result<Option<Arrived>> {
        let at = self.expected.len() - self.missing;
        if part.len() > self.missing || (at == 0 && part.len() < STAMP) {
            return Err(wire::fault("a body frame of an impossible length"));
        }
        let (from, part_of_pattern) = if at == 0 {
            self.stamp.copy_from_slice(&part[..STAMP]);
            (STAMP, &part[STAMP..])
        } else {
            (at, part)
        };
        if part_of_pattern != &self.expected[from..at + part.len()] {
            return Err(wire::fault("a body differs from what was published"));
        }
        self.missing -= part.len();
        let whole = self.missing == 0;
        Ok(whole.then(|| Arrived {
            sequence: wire::read_u64(&self.stamp, 0),
            sent: wire::read_u64(&self.stamp, 8),
        }))
    }
}

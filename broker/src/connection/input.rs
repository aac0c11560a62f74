//! Bytes as they come from a socket, and the whole frames at their front. Relies on `wire`.
//!
//! # Cost
//! One read fills the buffer; frames are borrowed from it. It starts small, grows while reads fill
//! it, and shrinks when the connection is quiet or memory is short.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;

use super::ReadHalf;
use crate::memory::{self, ConnectionHoldings, Holding, HoldingKind, MemoryLevel};
use crate::stats::Counter;
use crate::wire::frame::{self, FrameError, ParsedFrame};

const SMALL: usize = 4 * 1024;
const LARGE: usize = 256 * 1024;
/// How long a client that has closed its side is still served what it sent before.
const LINGER: Duration = Duration::from_secs(2);

pub(super) struct ReadBuffer {
    stream: ReadHalf,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    holding: Holding,
}

impl ReadBuffer {
    pub(super) fn new(stream: ReadHalf, holdings: &Arc<ConnectionHoldings>) -> Self {
        let mut holding = Holding::new(holdings, HoldingKind::Read);
        holding.set(SMALL, SMALL);
        Self {
            stream,
            buffer: vec![0; SMALL],
            start: 0,
            end: 0,
            holding,
        }
    }

    /// Bytes that were read and not yet used.
    pub(super) fn waiting(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// What stands at the front.
    pub(super) fn front(&self, limit: u32) -> Result<ParsedFrame<'_>, FrameError> {
        frame::parse(self.waiting(), limit)
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Reads once, with room for a frame of `needed` bytes, or for twice what is here of it; 0 at
    /// the end of the stream.
    pub(super) async fn fill(&mut self, needed: usize) -> std::io::Result<usize> {
        self.make_room(needed.min((2 * self.waiting().len()).max(SMALL)));
        if self.end == self.buffer.len() {
            // A read without room would look like the end of the stream.
            self.resize(self.end + SMALL);
        }
        let count = self.stream.read(&mut self.buffer[self.end..]).await?;
        self.end += count;
        let (is_full, size) = (self.end == self.buffer.len(), self.buffer.len());
        if is_full && size < LARGE && memory::level() == MemoryLevel::Calm {
            self.resize((size * 4).min(LARGE));
        }
        Ok(count)
    }

    /// Reads on while something else is waited for, as far as there is room, and returns when the
    /// client is gone: at once when the connection broke, after [`LINGER`] when the client has
    /// closed its side. May be dropped at any time.
    pub(super) async fn gone(&mut self, received: &Counter) {
        while self.end < self.buffer.len() {
            match self.stream.read(&mut self.buffer[self.end..]).await {
                Ok(0) => return tokio::time::sleep(LINGER).await,
                Ok(count) => {
                    self.end += count;
                    received.add_alone(count as u64);
                }
                Err(_) => return,
            }
        }
        std::future::pending::<()>().await;
    }

    fn make_room(&mut self, needed: usize) {
        if self.start > 0
            && (self.buffer.len() - self.start < needed || self.end == self.buffer.len())
        {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.buffer.len() - self.start < needed {
            self.resize(self.start + needed);
        }
    }

    fn resize(&mut self, size: usize) {
        self.buffer.resize(size, 0);
        let capacity = self.buffer.capacity();
        self.holding.set(capacity, capacity);
    }

    /// Gives a large buffer back while nothing is in it.
    pub(super) fn rest(&mut self) {
        if self.start == self.end && self.buffer.len() > SMALL {
            self.buffer = vec![0; SMALL];
            (self.start, self.end) = (0, 0);
            self.holding.set(SMALL, SMALL);
        }
    }
}

//! Bytes as they come from a socket, and the whole frames at their front. Relies on `wire`.
//!
//! # Cost
//! One read fills the buffer; frames are borrowed from it. It starts small, grows while reads fill it, and shrinks when the
//! connection is quiet.

use tokio::io::AsyncReadExt;

use super::ReadHalf;
use crate::wire::frame::{self, FrameError, Parsed};

const SMALL: usize = 4 * 1024;
const LARGE: usize = 256 * 1024;

pub(super) struct Input {
    stream: ReadHalf,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    pub(super) fn new(stream: ReadHalf) -> Self {
        Self {
            stream,
            buffer: vec![0; SMALL],
            start: 0,
            end: 0,
        }
    }

    /// Bytes that were read and not yet used.
    pub(super) fn waiting(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// What stands at the front.
    pub(super) fn front(&self, limit: u32) -> Result<Parsed<'_>, FrameError> {
        frame::parse(self.waiting(), limit)
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Reads once, with room for at least `needed` bytes from the front; 0 at the end of the stream.
    pub(super) async fn fill(&mut self, needed: usize) -> std::io::Result<usize> {
        self.make_room(needed);
        let count = self.stream.read(&mut self.buffer[self.end..]).await?;
        self.end += count;
        if self.end == self.buffer.len() && self.buffer.len() < LARGE {
            let larger = (self.buffer.len() * 4).min(LARGE);
            self.buffer.resize(larger, 0);
        }
        Ok(count)
    }

    fn make_room(&mut self, needed: usize) {
        if self.start > 0
            && (self.buffer.len() - self.start < needed || self.end == self.buffer.len())
        {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.buffer.len() - self.start < needed {
            self.buffer.resize(self.start + needed, 0);
        }
    }

    /// Gives a large buffer back while nothing is in it.
    pub(super) fn rest(&mut self) {
        if self.start == self.end && self.buffer.len() > SMALL {
            self.buffer = vec![0; SMALL];
            (self.start, self.end) = (0, 0);
        }
    }
}

//! The read buffer of a connection, and the frames at its front. Depends on `wire`.
//!
//! # Cost
//! One read fills the buffer; frames are borrowed from it. It starts small, grows while reads fill
//! it, and shrinks when the connection is quiet or other connections wait for memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;

use super::ReadHalf;
use crate::memory::{self, ConnectionHoldings, Holding, HoldingKind, MemoryLevel, ReadRoom};
use crate::platform;
use crate::stats::Counter;
use crate::wire::frame::{self, FrameError, ParsedFrame};

const SMALL: usize = 4 * 1024;
const LARGE: usize = 256 * 1024;
/// How long the frames of a client that has closed its side are still handled.
const LINGER: Duration = Duration::from_secs(2);
/// How long a client may take to finish a large frame while others wait for memory.
const LATE: Duration = Duration::from_secs(5);
/// How often the socket of a connection that is not read from is checked for its end.
const CHECK_PEER_EVERY: Duration = Duration::from_secs(1);

pub(super) struct ReadBuffer {
    stream: Box<dyn ReadHalf>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    holding: Holding,
    /// The charge for the buffer's bytes beyond [`SMALL`].
    room: ReadRoom,
    /// Since when the buffer has had room for the incomplete frame at its front.
    begun: Option<Instant>,
    /// When it was noticed that the client has closed its side.
    closed: Option<Instant>,
}

impl ReadBuffer {
    pub(super) fn new(stream: Box<dyn ReadHalf>, holdings: &Arc<ConnectionHoldings>) -> Self {
        let mut holding = Holding::new(holdings, HoldingKind::Read);
        holding.set(SMALL, SMALL);
        Self {
            stream,
            buffer: vec![0; SMALL],
            start: 0,
            end: 0,
            holding,
            room: ReadRoom::default(),
            begun: None,
            closed: None,
        }
    }

    /// Bytes that were read and not yet used.
    pub(super) fn unused_bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// The frame at the front.
    pub(super) fn front(&self, limit: u32) -> Result<ParsedFrame<'_>, FrameError<'_>> {
        frame::parse(self.unused_bytes(), limit)
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
        if count > 0 {
            self.begun = None;
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Whether the buffer has memory for a frame of `needed` bytes. Charges it if the limit allows.
    pub(super) fn has_room_for(&mut self, needed: usize) -> bool {
        if needed <= SMALL {
            return true;
        }
        if !self.room.widen(needed - SMALL) {
            return false;
        }
        self.begun.get_or_insert_with(Instant::now);
        true
    }

    /// Whether a large frame has taken so long to arrive that its sender must not hold the memory
    /// any longer while others wait.
    pub(super) fn is_late(&self) -> bool {
        self.begun.is_some_and(|begun| begun.elapsed() >= LATE)
    }

    /// Restarts the time limit for the rest of a frame, after a pause in which the socket was not
    /// read.
    pub(super) fn restart_frame_timer(&mut self) {
        self.begun = None;
    }

    /// Whether the buffer is larger than the minimum, so that others may wait for its memory.
    pub(super) fn has_large_buffer(&self) -> bool {
        self.room.bytes() > 0
    }

    /// Reads once. Returns the number of bytes, 0 at the end of the stream. Makes room for a frame
    /// of `needed` bytes, but at most for twice what has arrived of it.
    pub(super) async fn fill(&mut self, needed: usize) -> std::io::Result<usize> {
        self.reserve(needed.min((2 * self.unused_bytes().len()).max(SMALL)));
        if self.end == self.buffer.len() {
            // A read without room would look like the end of the stream.
            self.resize(self.end + SMALL);
        }
        let count = self.stream.read(&mut self.buffer[self.end..]).await?;
        self.end += count;
        let (is_full, size) = (self.end == self.buffer.len(), self.buffer.len());
        let larger = (size * 4).min(LARGE);
        if is_full
            && size < LARGE
            && memory::level() == MemoryLevel::Calm
            && self.room.widen_freely(larger - SMALL)
        {
            self.resize(larger);
        }
        Ok(count)
    }

    /// Waits until the client is gone, and reads meanwhile as far as the buffer has room. Returns
    /// at once when the connection breaks, and [`LINGER`] after the client has closed its side.
    /// Cancel safe.
    pub(super) async fn wait_until_gone(&mut self, received: &Counter) {
        while self.closed.is_none() && self.end < self.buffer.len() {
            match self.stream.read(&mut self.buffer[self.end..]).await {
                Ok(0) => self.closed = Some(Instant::now()),
                Ok(count) => {
                    self.end += count;
                    received.add_alone(count as u64);
                }
                Err(_) => return,
            }
        }
        let closed = self.wait_until_closed().await;
        tokio::time::sleep_until((closed + LINGER).into()).await;
    }

    /// Waits until the client has closed its side, or the connection broke. The socket is asked,
    /// because a full buffer cannot be read into.
    async fn wait_until_closed(&mut self) -> Instant {
        loop {
            if let Some(closed) = self.closed {
                return closed;
            }
            if platform::has_peer_closed(self.stream.socket()) {
                self.closed = Some(Instant::now());
            } else {
                tokio::time::sleep(CHECK_PEER_EVERY).await;
            }
        }
    }

    fn reserve(&mut self, needed: usize) {
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
        self.recharge();
    }

    fn recharge(&mut self) {
        let capacity = self.buffer.capacity();
        self.holding.set(capacity, capacity);
        let beyond = capacity.saturating_sub(SMALL);
        if beyond > self.room.bytes() {
            self.room.set(beyond);
        }
    }

    /// Shrinks the buffer to its unused bytes and little more. The memory for the rest of their
    /// frame must be charged again.
    pub(super) fn free_buffer(&mut self) {
        if self.room.bytes() == 0 {
            return;
        }
        let mut smaller = self.unused_bytes().to_vec();
        // With some room, because only a read notices that the client is gone.
        smaller.resize(smaller.len() + SMALL, 0);
        (self.start, self.end) = (0, self.end - self.start);
        self.buffer = smaller;
        self.begun = None;
        self.room.set(0);
        self.recharge();
    }

    /// Shrinks the buffer if others wait for memory and no part of a large frame has arrived, so
    /// that no connection waits for memory that an idle one holds.
    pub(super) fn free_if_wanted(&mut self) {
        if memory::is_room_wanted() && self.unused_bytes().len() <= SMALL {
            self.free_buffer();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use std::net::Shutdown;

    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream, UnixStream};

    use super::*;

    fn reading(stream: impl ReadHalf + 'static) -> ReadBuffer {
        ReadBuffer::new(Box::new(stream), &Arc::new(ConnectionHoldings::default()))
    }

    /// Waits that end before the client has lingered, as those for a queue that is loading.
    async fn is_seen_gone(input: &mut ReadBuffer) -> bool {
        let until = Instant::now() + Duration::from_secs(20);
        let received = Counter::default();
        while Instant::now() < until {
            let short = Duration::from_millis(20);
            if tokio::time::timeout(short, input.wait_until_gone(&received))
                .await
                .is_ok()
            {
                return true;
            }
        }
        false
    }

    #[tokio::test]
    async fn many_short_waits_notice_that_the_client_has_closed_its_side() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (read, _write) = ours.into_split();
        let mut input = reading(read);
        let theirs = theirs.into_std().unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        assert!(is_seen_gone(&mut input).await);
    }

    #[tokio::test]
    async fn a_client_that_leaves_behind_a_full_buffer_is_noticed() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (read, _write) = ours.into_split();
        let mut input = reading(read);
        theirs.write_all(&[7; 4 * SMALL]).await.unwrap();
        drop(theirs);
        assert!(is_seen_gone(&mut input).await);
        assert_eq!(input.unused_bytes().len(), SMALL, "what it sent is kept");

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut theirs = TcpStream::connect(address).await.unwrap();
        let (read, _write) = listener.accept().await.unwrap().0.into_split();
        let mut input = reading(read);
        theirs.write_all(&[7; 4 * SMALL]).await.unwrap();
        let received = Counter::default();
        let waits = tokio::time::timeout(2 * CHECK_PEER_EVERY, input.wait_until_gone(&received));
        assert!(waits.await.is_err(), "it is still there");
        drop(theirs);
        assert!(is_seen_gone(&mut input).await);
    }
}

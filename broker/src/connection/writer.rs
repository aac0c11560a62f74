//! The writing task: everything unsent in one go, then the queues that waited for room. Relies on
//! `outbox`.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Buf;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::WriteHalf;
use crate::broker_state::BrokerState;
use crate::delivery::outbox::{Frames, KEEP_BYTES, OutboxTake, UNREAD_BYTES};
use crate::delivery::turn::TURN_UNITS;
use crate::memory::{self, MemoryLevel};
use crate::registry::{ConnectionEnding, ConnectionHandle};

/// After so long without a byte to send, large buffers are given back. A busy connection uses them
/// again: memory that comes and goes every turn costs more than the copies into it.
const QUIET: Duration = Duration::from_secs(1);

/// Sends until the outbox has ended or the peer takes nothing more.
pub(super) async fn run(
    broker: Arc<BrokerState>,
    link: Arc<ConnectionHandle>,
    mut stream: WriteHalf,
) {
    let mut ending = link.ending.subscribe();
    let cut = async move {
        // An error means that the link is gone, and nobody can cut it.
        let _ = ending
            .wait_for(|ending| *ending == Some(ConnectionEnding::Cut))
            .await;
    };
    tokio::select! {
        outcome = send(&broker, &link, &mut stream) => {
            if let Err(error) = outcome {
                tracing::debug!(connection = %link.name, %error, "cannot be written to");
                link.cut();
            }
        }
        () = link.outbox.overfull() => {
            tracing::warn!(connection = %link.name, "cut: it does not take the replies it is sent");
            link.cut();
        }
        () = cut => {}
    }
    link.outbox.break_off();
}

async fn send(
    broker: &Arc<BrokerState>,
    link: &Arc<ConnectionHandle>,
    stream: &mut WriteHalf,
) -> io::Result<()> {
    let mut frames = Frames::default();
    let mut unyielded = 0;
    let mut pace = ClientPace::new(broker.limits.unread);
    loop {
        match link.outbox.take(&mut frames) {
            OutboxTake::Frames => {
                let mut sending = frames.sending();
                while sending.has_remaining() {
                    let count = pace.write(link, stream.write_buf(&mut sending)).await?;
                    link.sent.add_alone(count as u64);
                    if link.outbox.sent(count) {
                        unyielded += broker.pump_waiting_for(&link.outbox).await;
                    }
                    // A client that takes everything at once would never let others go first.
                    unyielded += WRITE;
                    if unyielded >= TURN_UNITS {
                        unyielded = 0;
                        tokio::task::yield_now().await;
                    }
                }
                stream.flush().await?;
                frames.clear();
                if frames.capacity() > KEEP_BYTES && memory::level() > MemoryLevel::Calm {
                    frames = Frames::default();
                }
            }
            OutboxTake::Nothing => {
                if frames.capacity() <= KEEP_BYTES && !link.outbox.is_large() {
                    link.outbox.woken().await;
                } else if timeout(QUIET, link.outbox.woken()).await.is_err() {
                    frames = Frames::default();
                    link.outbox.rest();
                }
            }
            OutboxTake::Ended => return stream.shutdown().await,
        }
    }
}

/// What a write costs, in units of a turn.
const WRITE: u32 = 512;

/// How fast a client takes what it is sent.
struct ClientPace {
    patience: Duration,
    /// Since when more than [`UNREAD_BYTES`] wait and fewer than that were taken.
    since: Instant,
    taken: usize,
}

impl ClientPace {
    fn new(patience: Duration) -> Self {
        Self {
            patience,
            since: Instant::now(),
            taken: 0,
        }
    }

    /// One write. Fails when the client has taken less than [`UNREAD_BYTES`] in all the time that
    /// it may, while more than that waits for it.
    async fn write(
        &mut self,
        link: &ConnectionHandle,
        write: impl Future<Output = io::Result<usize>>,
    ) -> io::Result<usize> {
        let is_late = |pace: &Self| {
            let is_late = pace.since.elapsed() >= pace.patience;
            is_late && link.outbox.pending_bytes() >= UNREAD_BYTES
        };
        tokio::pin!(write);
        let count = loop {
            match timeout(self.patience, &mut write).await {
                Ok(count) => break count?,
                Err(_) if is_late(self) => return Err(io::ErrorKind::TimedOut.into()),
                Err(_) => {}
            }
        };
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.taken += count;
        if self.taken >= UNREAD_BYTES || link.outbox.is_readable() {
            (self.since, self.taken) = (Instant::now(), 0);
        } else if is_late(self) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(count)
    }
}

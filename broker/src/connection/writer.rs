//! The writing task: sends all unsent frames in as few writes as the socket takes, then pumps the
//! queues that waited for room. Relies on `outbox`.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Buf;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::WriteHalf;
use crate::broker_state::BrokerState;
use crate::delivery::budget::FULL_STEPS;
use crate::delivery::outbox::{Frames, KEEP_BYTES, OutboxTake, UNREAD_BYTES};
use crate::memory::{self, MemoryLevel};
use crate::registry::{ConnectionEnding, ConnectionHandle};

/// Large buffers are freed after this long without a byte to send. A busy connection keeps them:
/// allocating in every unit of work costs more than the copies.
const QUIET: Duration = Duration::from_secs(1);

/// Sends until the outbox has ended or the peer does not read any more.
pub(super) async fn run(
    broker: Arc<BrokerState>,
    connection: Arc<ConnectionHandle>,
    mut stream: WriteHalf,
) {
    let mut ending = connection.ending.subscribe();
    let cut = async move {
        // An error means that the connection is gone, and can no longer be cut.
        let _ = ending
            .wait_for(|ending| *ending == Some(ConnectionEnding::Cut))
            .await;
    };
    tokio::select! {
        outcome = send(&broker, &connection, &mut stream) => {
            if let Err(error) = outcome {
                tracing::debug!(connection = %connection.name, %error, "cannot be written to");
                connection.cut();
            }
        }
        () = connection.outbox.overfull() => {
            tracing::warn!(
                connection = %connection.name, "closed: the client does not read its replies"
            );
            connection.cut();
        }
        () = cut => {}
    }
    connection.outbox.break_off();
}

async fn send(
    broker: &Arc<BrokerState>,
    connection: &Arc<ConnectionHandle>,
    stream: &mut WriteHalf,
) -> io::Result<()> {
    let mut frames = Frames::default();
    let mut unyielded = 0;
    let mut pace = ClientPace::new(broker.limits.unread);
    loop {
        match connection.outbox.swap_unsent(&mut frames) {
            OutboxTake::Frames => {
                let mut sending = frames.sending();
                while sending.has_remaining() {
                    let count = pace
                        .write(connection, stream.write_buf(&mut sending))
                        .await?;
                    connection.sent.add_alone(count as u64);
                    if connection.outbox.sent(count) {
                        unyielded += broker.pump_waiting_for(&connection.outbox).await;
                    }
                    // With a client that reads everything at once, this loop would never yield.
                    unyielded += WRITE;
                    if unyielded >= FULL_STEPS {
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
                if frames.capacity() <= KEEP_BYTES && !connection.outbox.is_large() {
                    connection.outbox.woken().await;
                } else if timeout(QUIET, connection.outbox.woken()).await.is_err() {
                    frames = Frames::default();
                    connection.outbox.free_buffer();
                }
            }
            OutboxTake::Ended => return stream.shutdown().await,
        }
    }
}

/// What a write costs, in steps.
const WRITE: u32 = 512;

/// The reading speed of a client.
struct ClientPace {
    patience: Duration,
    /// Since when at least [`UNREAD_BYTES`] wait and the client has read fewer than that.
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

    /// Writes once. Fails if the client has read fewer than [`UNREAD_BYTES`] within `patience`
    /// while at least as many wait for it.
    async fn write(
        &mut self,
        connection: &ConnectionHandle,
        write: impl Future<Output = io::Result<usize>>,
    ) -> io::Result<usize> {
        let is_late = |pace: &Self| {
            let is_late = pace.since.elapsed() >= pace.patience;
            is_late && connection.outbox.pending_bytes() >= UNREAD_BYTES
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
        if self.taken >= UNREAD_BYTES || connection.outbox.is_readable() {
            (self.since, self.taken) = (Instant::now(), 0);
        } else if is_late(self) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(count)
    }
}

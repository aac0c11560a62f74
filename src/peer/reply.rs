//! A queue that one command consumes: answers, receipts, the messages that `tail` shows.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use tokio::time::Instant;

use super::{ConnectionFailure, PULSE, PeerError, ReceivedMessage, next_before};

/// How many messages are under way at once. Whoever knows the queue's name may send some that are
/// as long as the broker allows.
const PREFETCH: u16 = 16;

/// A consumer without recovery: the command that has it ends with its connection.
pub struct ReplyQueue {
    // Dropping the channel would close it.
    channel: Channel,
    consumer: Consumer,
    queue: String,
}

impl ReplyQueue {
    pub(super) async fn consume(channel: Channel, queue: &str) -> Result<Self, PeerError> {
        Self::consume_with(channel, queue, PREFETCH).await
    }

    pub(super) async fn consume_with(
        channel: Channel,
        queue: &str,
        prefetch: u16,
    ) -> Result<Self, PeerError> {
        channel
            .basic_qos(prefetch, BasicQosOptions::default())
            .await?;
        let options = BasicConsumeOptions::default();
        let consumer = channel
            .basic_consume(queue.into(), "".into(), options, FieldTable::default())
            .await?;
        Ok(Self {
            channel,
            consumer,
            queue: queue.to_owned(),
        })
    }

    /// The next message. [`PeerError::Lost`] when the connection or the queue is gone.
    pub async fn next(&mut self) -> Result<ReceivedMessage, PeerError> {
        let next = tokio::select! {
            next = self.consumer.next() => next,
            () = end_of(&self.channel) => {
                return Err(PeerError::Lost(ConnectionFailure::Gone));
            }
        };
        match next {
            Some(Ok(delivery)) => Ok(ReceivedMessage::to_queue(&self.queue, delivery)),
            Some(Err(error)) => Err(error.into()),
            None => Err(PeerError::Lost(ConnectionFailure::QueueDeleted)),
        }
    }

    /// Consumes no more. What was not acked goes back to the queue, which has one consumer less.
    pub async fn close(self) -> Result<(), PeerError> {
        Ok(self.channel.close(200, "done".into()).await?)
    }

    /// The next message, or `None` when none came in time.
    pub async fn next_within(
        &mut self,
        limit: Duration,
    ) -> Result<Option<ReceivedMessage>, PeerError> {
        next_before(Instant::now() + limit, self.next())
            .await
            .transpose()
    }
}

/// Waits until the channel is closed. Its consumers usually report that first; see [`PULSE`].
async fn end_of(channel: &Channel) {
    let mut pulse = tokio::time::interval(PULSE);
    while channel.status().connected() {
        pulse.tick().await;
    }
}

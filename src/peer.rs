//! The AMQP client: everything that sessions and commands request from a broker. Only this module
//! uses lapin.
//!
//! [`Peer`] is one connection for one command. [`Inbox`] is a consumer that lives as long as a
//! wrapped session and reconnects after every loss of the broker. `topology` has what both declare;
//! `presence` and `receipt` have the messages other than envelopes.

mod arguments;
mod backoff;
mod blockage;
mod cause;
mod connect;
mod delivery;
mod error;
mod frames;
mod inbox;
mod presence;
mod publish;
mod receipt;
mod reply;
pub mod runtime;
mod scram;
mod topology;

use std::error::Error as _;
use std::time::Duration;

use lapin::options::{BasicGetOptions, QueueDeleteOptions, QueuePurgeOptions};
use lapin::{Channel, Connection};

pub use arguments::{DeclareArguments, QueueBounds};
pub use backoff::Backoff;
pub use cause::{BrokerText, ConnectionFailure, OtherConsumer, SignInFailure};
pub use delivery::{ReceivedMessage, SettleResult};
pub use error::{BLOCKED_HINT, PeerError, RefusedSignIn};
pub use frames::UnreadableFrame;
#[cfg(any(test, fuzzing))]
pub use frames::attempts;
pub use inbox::{
    AttachedQueue, EndpointFinder, Inbox, InboxEvent, InboxOptions, OutgoingSender,
    QueueDifference, ReplyTo, Sharing,
};
pub use presence::{
    Answer, AwaitedAnswers, HeldMessage, PeerState, Presence, PublishedRequests, Removal, Request,
    RequestScope, this_host,
};
pub use publish::{Publication, PublishOutcome, RECEIPT_TO, When};
pub use receipt::{Receipt, ReceiptState};
pub use reply::ReplyQueue;
pub use topology::{
    BELIEVED_EXCHANGES, EXCHANGE, GROUPS_EXCHANGE, MAX_LENGTH, PRESENCE_EXCHANGE, QueueCounts,
    SESSION_HOLDS, SESSION_PREFETCH,
};

use crate::config::Endpoint;
use crate::name::{GroupName, SessionName};
use blockage::Blockage;

/// The product name in the client properties of a connection.
pub const PRODUCT: &str = "cbroker";

/// How long a first connection may take before the broker counts as unreachable.
const CONNECT_WITHIN: Duration = Duration::from_secs(8);

/// The time limit of every request but a confirmed publish.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How often a consumer's connection is checked. A consumer usually reports a lost connection
/// first, but lapin can miss one, and the consumer would then wait for ever.
const PULSE: Duration = Duration::from_secs(5);

/// How long a broker may block publishers before its reason is reported. A store that catches up
/// needs less.
const UNBLOCKED_WITHIN: Duration = Duration::from_secs(3);

/// Waits for the reply to one request, with a time limit: lapin never completes some requests if
/// the connection breaks at the wrong moment, and a `send` whose broker was killed then waited for
/// ever.
async fn answered<T, E: Into<PeerError>>(
    asking: impl Future<Output = Result<T, E>>,
) -> Result<T, PeerError> {
    let Ok(answer) = tokio::time::timeout(ANSWER_WITHIN, asking).await else {
        let seconds = ANSWER_WITHIN.as_secs();
        return Err(PeerError::Lost(ConnectionFailure::Silent(seconds)));
    };
    answer.map_err(Into::into)
}

/// The next item before the deadline; `None` after it, even if more items are ready: otherwise a
/// flood of messages would delay the end.
async fn next_before<T>(
    deadline: tokio::time::Instant,
    coming: impl Future<Output = T>,
) -> Option<T> {
    if tokio::time::Instant::now() >= deadline {
        return None;
    }
    tokio::time::timeout_at(deadline, coming).await.ok()
}

/// A publish that ends early, with the reason, if the broker blocks publishers.
async fn unless_blocked(
    blockage: &mut Blockage,
    publishing: impl Future<Output = Result<PublishOutcome, PeerError>>,
) -> Result<PublishOutcome, PeerError> {
    tokio::select! {
        biased;
        sent = publishing => sent,
        reason = blockage.lasts(UNBLOCKED_WITHIN) => Err(PeerError::Blocked(reason.into())),
    }
}

/// One connection with one channel, for one command.
pub struct Peer {
    connection: Connection,
    /// The user that logged in.
    user: String,
    channel: Channel,
    confirming: bool,
    blockage: Blockage,
}

impl Peer {
    /// Connects and logs in. The broker shows `purpose` as the connection's name.
    pub async fn connect(endpoint: &Endpoint, purpose: &str) -> Result<Self, PeerError> {
        let (connection, user) = connect::open(endpoint, purpose, CONNECT_WITHIN).await?;
        let blockage = Blockage::of(&connection);
        let channel = answered(connection.create_channel()).await?;
        Ok(Self {
            connection,
            user,
            channel,
            confirming: false,
            blockage,
        })
    }

    /// The user that signed in.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Returns the state of a queue without changing anything; `None` if no queue has this name.
    /// Further queues can be read afterwards, also after a refusal.
    pub async fn queue_counts(
        &mut self,
        queue: &SessionName,
    ) -> Result<Option<QueueCounts>, PeerError> {
        self.blockage.check()?;
        let found = answered(topology::queue_counts(&self.channel, queue)).await;
        if let Err(PeerError::NoSuchQueue | PeerError::InUse(_) | PeerError::Refused(_)) = found {
            self.renew_channel().await?;
        }
        match found {
            Err(PeerError::NoSuchQueue) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Like [`Self::queue_counts`], for a queue that may not be a session's: `None` also if another
    /// connection uses it exclusively or this user may not read it. Any user with the right can
    /// bind such a queue to the sessions' exchange.
    pub async fn look_among_sessions(
        &mut self,
        queue: &SessionName,
    ) -> Result<Option<QueueCounts>, PeerError> {
        match self.queue_counts(queue).await {
            Err(PeerError::InUse(_) | PeerError::Refused(_)) => Ok(None),
            other => other,
        }
    }

    /// Declares and binds the queue of this name. One that exists keeps its arguments.
    pub async fn ensure_queue(
        &mut self,
        queue: &SessionName,
        ttl_ms: u64,
    ) -> Result<QueueCounts, PeerError> {
        if let Some(state) = self.queue_counts(queue).await? {
            answered(topology::bind(&self.channel, queue)).await?;
            return Ok(state);
        }
        let arguments = DeclareArguments::of_session(Some(ttl_ms));
        match answered(topology::declare(&self.channel, queue, &arguments)).await {
            Err(PeerError::OtherArguments { .. }) => {
                // Another client created it between our two declares.
                self.renew_channel().await?;
                answered(topology::bind(&self.channel, queue)).await?;
                answered(topology::queue_counts(&self.channel, queue)).await
            }
            other => other,
        }
    }

    /// Declares and binds the queue of this name. Returns its arguments: the given ones, or those
    /// of every session's queue with any TTL.
    ///
    /// # Errors [`PeerError::OtherArguments`] if it exists with other arguments. It is not changed
    /// then.
    pub async fn ensure_queue_like(
        &mut self,
        queue: &SessionName,
        arguments: &DeclareArguments,
    ) -> Result<DeclareArguments, PeerError> {
        self.blockage.check()?;
        let declared = answered(topology::declare(&self.channel, queue, arguments)).await;
        let Err(PeerError::OtherArguments { live_ttl_ms, .. }) = declared else {
            return declared.map(|_| arguments.clone());
        };
        self.renew_channel().await?;
        let live = self.learn_or_refuse(queue, live_ttl_ms).await?;
        answered(topology::bind(&self.channel, queue)).await?;
        Ok(live)
    }

    /// Makes an existing queue a member of a group until the queue is deleted.
    pub async fn join(&mut self, queue: &SessionName, group: &GroupName) -> Result<(), PeerError> {
        self.blockage.check()?;
        answered(topology::join(&self.channel, queue, group)).await
    }

    /// Undoes [`Self::join`].
    pub async fn leave(&mut self, queue: &SessionName, group: &GroupName) -> Result<(), PeerError> {
        self.blockage.check()?;
        answered(topology::leave(&self.channel, queue, group)).await
    }

    /// Returns the arguments of an existing queue of a session, learned from the broker's refusal
    /// of another declare. `None` if they differ from every session's in more than the TTL.
    pub async fn learn_arguments(
        &mut self,
        queue: &SessionName,
        ttl_ms: u64,
    ) -> Result<Option<DeclareArguments>, PeerError> {
        match self.learn_or_refuse(queue, Some(ttl_ms)).await {
            Err(PeerError::OtherArguments { .. }) => Ok(None),
            learned => learned.map(Some),
        }
    }

    /// Like [`Self::learn_arguments`], with the broker's refusal where they differ in more than the
    /// TTL.
    async fn learn_or_refuse(
        &mut self,
        queue: &SessionName,
        ttl_ms: Option<u64>,
    ) -> Result<DeclareArguments, PeerError> {
        let mut arguments = DeclareArguments::of_session(ttl_ms);
        let declared = answered(topology::declare_alone(&self.channel, queue, &arguments)).await;
        let Err(PeerError::OtherArguments { live_ttl_ms, .. }) = declared else {
            return declared.map(|_| arguments);
        };
        self.renew_channel().await?;
        arguments = DeclareArguments::of_session(live_ttl_ms);
        let declared = answered(topology::declare_alone(&self.channel, queue, &arguments)).await;
        if let Err(PeerError::OtherArguments { .. }) = declared {
            self.renew_channel().await?;
        }
        declared.map(|_| arguments)
    }

    /// Publishes a message and waits at most `within` for the broker's confirm.
    ///
    /// [`PeerError::Lost`], [`PeerError::TimedOut`], [`PeerError::NotAccepted`] and
    /// [`PeerError::Blocked`] leave open whether the recipient's queue has it.
    pub async fn publish(
        &mut self,
        publication: &Publication<'_>,
        within: Duration,
    ) -> Result<PublishOutcome, PeerError> {
        self.confirm().await?;
        let properties = publication
            .properties()
            .with_user_id(self.user.as_str().into());
        let to = publication.envelope.to.as_str();
        let body = publication.envelope.to_json();
        let publishing = publish::confirmed(&self.channel, to, &body, properties, within);
        let sent = unless_blocked(&mut self.blockage, publishing).await;
        if matches!(sent, Err(PeerError::NoSuchExchange)) {
            self.renew_channel().await?;
            return Ok(PublishOutcome::Unroutable);
        }
        sent
    }

    /// Publishes a message that another broker delivered, with its body and properties unchanged.
    /// It carries this user's name if it carried the own user's name there (`move`).
    pub async fn forward(
        &mut self,
        queue: &SessionName,
        delivery: &ReceivedMessage,
        within: Duration,
    ) -> Result<PublishOutcome, PeerError> {
        self.confirm().await?;
        let publishing = publish::confirmed(
            &self.channel,
            queue.as_str(),
            &delivery.body,
            delivery.forwardable(&self.user),
            within,
        );
        unless_blocked(&mut self.blockage, publishing).await
    }

    /// Takes the first message of a queue, unsettled. `None`: it is empty.
    pub async fn get(&self, queue: &SessionName) -> Result<Option<ReceivedMessage>, PeerError> {
        let options = BasicGetOptions { no_ack: false };
        let got = answered(self.channel.basic_get(queue.as_str().into(), options)).await?;
        Ok(got.map(|message| {
            ReceivedMessage::to_session(&self.user, queue.as_str(), message.delivery)
        }))
    }

    /// Sends a receipt to `queue`. It does not matter whether anybody still waits there.
    pub async fn send_receipt(&self, queue: &str, receipt: &Receipt) -> Result<(), PeerError> {
        let body = receipt.to_json();
        answered(publish::to_queue(&self.channel, queue, &body, &self.user)).await
    }

    /// Deletes the waiting messages of a queue. Returns their number.
    pub async fn purge(&self, queue: &SessionName) -> Result<u32, PeerError> {
        let options = QueuePurgeOptions::default();
        answered(self.channel.queue_purge(queue.as_str().into(), options)).await
    }

    /// Deletes a queue. Returns the number of messages in it.
    pub async fn delete(&mut self, queue: &SessionName) -> Result<u32, PeerError> {
        self.blockage.check()?;
        let options = QueueDeleteOptions::default();
        answered(self.channel.queue_delete(queue.as_str().into(), options)).await
    }

    /// Deletes a queue that is empty and has no consumers. `Some` is the reason why it stays.
    pub async fn delete_unused(
        &mut self,
        queue: &SessionName,
    ) -> Result<Option<String>, PeerError> {
        let options = QueueDeleteOptions {
            if_unused: true,
            if_empty: true,
            ..QueueDeleteOptions::default()
        };
        self.delete_if(queue, options).await
    }

    /// Like [`Self::delete_unused`], for a queue with messages, which no session will consume.
    pub async fn delete_unattended(
        &mut self,
        queue: &SessionName,
    ) -> Result<Option<String>, PeerError> {
        let options = QueueDeleteOptions {
            if_unused: true,
            ..QueueDeleteOptions::default()
        };
        self.delete_if(queue, options).await
    }

    async fn delete_if(
        &mut self,
        queue: &SessionName,
        options: QueueDeleteOptions,
    ) -> Result<Option<String>, PeerError> {
        match answered(self.channel.queue_delete(queue.as_str().into(), options)).await {
            Ok(_) => Ok(None),
            Err(reason @ (PeerError::OtherArguments { .. } | PeerError::InUse(_))) => {
                self.renew_channel().await?;
                Ok(reason.source().map(ToString::to_string))
            }
            Err(error @ PeerError::Refused(_)) => {
                self.renew_channel().await?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Opens a new channel after a refusal, so that further requests are possible.
    pub async fn begin_anew(&mut self) -> Result<(), PeerError> {
        self.blockage.check()?;
        self.renew_channel().await
    }

    /// Opens a queue for the answer to one question, with the ordinary topology, under `name`.
    pub async fn answer_queue(
        &mut self,
        name: &SessionName,
        ttl_ms: u64,
    ) -> Result<ReplyQueue, PeerError> {
        self.ensure_queue(name, ttl_ms).await?;
        let channel = answered(self.connection.create_channel()).await?;
        answered(ReplyQueue::consume(channel, name.as_str())).await
    }

    /// Starts to consume a queue, at most `prefetch` unsettled at a time. The queue must exist.
    pub async fn consume(
        &self,
        queue: &SessionName,
        prefetch: u16,
    ) -> Result<ReplyQueue, PeerError> {
        let channel = answered(self.connection.create_channel()).await?;
        answered(ReplyQueue::consume_with(channel, queue.as_str(), prefetch)).await
    }

    /// Sends requests to the attached sessions and collects the awaited answers. Several requests
    /// address different sessions.
    pub async fn ask_sessions(
        &self,
        requests: &[Request],
        awaited: &AwaitedAnswers<'_>,
    ) -> Result<Vec<Answer>, PeerError> {
        let published = self.publish_requests(requests).await?;
        published.answers(awaited).await
    }

    /// Sends requests like [`Self::ask_sessions`], where they must not wait until it is known which
    /// answers are awaited.
    pub async fn publish_requests(
        &self,
        requests: &[Request],
    ) -> Result<PublishedRequests, PeerError> {
        let publishing = presence::publish_requests(&self.connection, &self.user, requests);
        answered(publishing).await
    }

    /// Closes the connection. If it is dropped instead, its unsettled messages wait for the
    /// broker's time-out. A blocked connection can only be dropped.
    pub async fn close(mut self) {
        if self.blockage.check().is_err() {
            return;
        }
        let _ = answered(self.connection.close(200, "done".into())).await;
    }

    async fn confirm(&mut self) -> Result<(), PeerError> {
        if !self.confirming {
            let options = lapin::options::ConfirmSelectOptions::default();
            answered(self.channel.confirm_select(options)).await?;
            self.confirming = true;
        }
        Ok(())
    }

    /// A refusal closes the channel that it came on.
    async fn renew_channel(&mut self) -> Result<(), PeerError> {
        self.channel = answered(self.connection.create_channel()).await?;
        self.confirming = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use tokio::time::Instant;

    use super::next_before;

    #[tokio::test]
    async fn a_flood_makes_nobody_wait_beyond_its_deadline() {
        let deadline = Instant::now();
        assert_eq!(next_before(deadline, ready("one more")).await, None);
        let deadline = Instant::now() + super::ANSWER_WITHIN;
        assert_eq!(
            next_before(deadline, ready("in time")).await,
            Some("in time")
        );
    }
}

//! The task behind an [`Inbox`](super::Inbox): attach, serve until the connection is lost, pause,
//! again.

use std::sync::Arc;
use std::time::Instant;

use futures_util::{FutureExt, StreamExt, TryStreamExt};
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, Consumer};
use tokio::sync::{Notify, mpsc, watch};

use super::budget::AnswerBudget;
use super::outgoing::OutgoingConnection;
use super::{
    AttachedQueue, Backoff, InboxEvent, InboxOptions, OutgoingMessage, QueueDifference, ReplyTo,
    Sharing, jitter,
};
use crate::peer::presence::{self, Answer, Presence, Request};
use crate::peer::topology::{self, PRESENCE_EXCHANGE};
use crate::peer::{
    CONNECT_WITHIN, ConnectionFailure, DeclareArguments, OtherConsumer, PULSE, PeerError,
    QueueCounts, ReceivedMessage, answered, connect,
};

/// The prefix of queues that a broker named. Answers go only to these, so that no request makes us
/// publish into a session.
const SERVER_NAMED: &str = "amq.";
/// The prefetch for requests and announcements.
const REQUESTS: u16 = 64;
/// The number of those that wait in the broker, and their bytes; the oldest are dropped.
const REQUESTS_WAITING: i32 = 1000;
const REQUESTS_WAITING_BYTES: i32 = 4 << 20;
/// The longest request or announcement that is read. cbroker's own have a few hundred bytes; parsed
/// JSON can take many times its length in memory.
const REQUEST_BYTES: usize = 16 << 10;

pub(super) struct InboxConnection {
    pub(super) options: InboxOptions,
    /// The session asks for more than it has unsettled.
    pub(super) more: Arc<Notify>,
    pub(super) events: mpsc::Sender<InboxEvent>,
    pub(super) outgoing: mpsc::Receiver<OutgoingMessage>,
    pub(super) presence: watch::Receiver<Option<Presence>>,
    /// The round of the current consumer's deliveries.
    pub(super) round: u32,
    /// Whether a request of another user was reported already.
    pub(super) has_reported_stranger: bool,
    /// How many requests of other users may still be answered.
    pub(super) for_strangers: AnswerBudget,
}

/// The two connections of an attached session, with its consumers; the second one is in
/// `outgoing`.
struct AttachedConnections {
    connection: Connection,
    /// The user that is logged in.
    user: String,
    /// The channel of `messages`.
    listening: Channel,
    messages: Consumer,
    outgoing: OutgoingConnection,
    requests: Consumer,
}

impl AttachedConnections {
    fn is_open(&self) -> bool {
        self.connection.status().connected() && self.outgoing.is_connected()
    }
}

/// Why the connections ended.
enum LinkEnd {
    Closing,
    Lost(PeerError),
}

impl LinkEnd {
    fn connection_failed(failure: ConnectionFailure) -> Self {
        Self::Lost(PeerError::Lost(failure))
    }
}

impl InboxConnection {
    pub(super) async fn run(mut self, mut closing: watch::Receiver<bool>) {
        let mut backoff = Backoff::default();
        let mut was_attached = false;
        let mut reported = None;
        loop {
            let endpoint_finder = self.options.endpoint_finder.as_ref();
            if let Some(endpoint) = endpoint_finder.and_then(|endpoint_finder| endpoint_finder.0())
            {
                self.options.endpoint = endpoint;
            }
            let attached = tokio::select! {
                () = asked_to_close(&mut closing) => return,
                attached = self.attach() => attached,
            };
            let error = match attached {
                Ok((connections, attached)) => {
                    backoff.reset();
                    was_attached = true;
                    reported = None;
                    if self
                        .events
                        .send(InboxEvent::Attached(attached))
                        .await
                        .is_err()
                    {
                        return;
                    }
                    match self.serve(connections, &mut closing).await {
                        LinkEnd::Closing => return,
                        LinkEnd::Lost(error) => error,
                    }
                }
                // A broker that was reachable before is expected to come back, whatever it answers
                // while it starts.
                Err(error) if was_attached || self.may_pass(&error) => error,
                Err(error) => {
                    let _ = self.events.send(InboxEvent::Refused(error)).await;
                    return;
                }
            };
            let text = error.to_string();
            if reported.as_ref() != Some(&text) {
                reported = Some(text);
                if self.events.send(InboxEvent::Lost(error)).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = asked_to_close(&mut closing) => return,
                () = tokio::time::sleep(backoff.next_pause(jitter())) => {}
            }
        }
    }

    /// Whether another attempt may succeed. An exclusive consumer may leave; only a session that
    /// wants the queue exclusively too is refused because of it.
    fn may_pass(&self, error: &PeerError) -> bool {
        let is_shared = self.options.sharing == Sharing::Shared;
        error.is_passing() || (is_shared && matches!(error, PeerError::InUse(_)))
    }

    async fn attach(&self) -> Result<(AttachedConnections, AttachedQueue), PeerError> {
        let purpose = format!("session {}", self.options.name);
        let speaks = format!("{purpose} (publishing)");
        let endpoint = &self.options.endpoint;
        let ((connection, user), (speaking, _)) = tokio::try_join!(
            connect::open(endpoint, &purpose, CONNECT_WITHIN),
            connect::open(endpoint, &speaks, CONNECT_WITHIN),
        )?;
        answered(self.listen((connection, user), speaking)).await
    }

    async fn listen(
        &self,
        (connection, user): (Connection, String),
        speaking: Connection,
    ) -> Result<(AttachedConnections, AttachedQueue), PeerError> {
        let name = &self.options.name;
        let (listening, attached) = self.declare(&connection).await?;
        for group in &self.options.groups {
            topology::join(&listening, name, group).await?;
        }
        listening
            .basic_qos(self.options.prefetch, BasicQosOptions::default())
            .await?;
        if self.options.sharing == Sharing::Exclusive && attached.others > 0 {
            return Err(PeerError::InUse(OtherConsumer::Sessions {
                count: attached.others,
                name: name.clone(),
            }));
        }
        let messages = self.consume(&listening).await?;
        let (outgoing, requests) = OutgoingConnection::open(speaking, user.clone()).await?;
        Ok((
            AttachedConnections {
                connection,
                user,
                listening,
                messages,
                outgoing,
                requests,
            },
            attached,
        ))
    }

    /// Begins to consume the session's queue, with the prefetch that the channel was given.
    async fn consume(&self, listening: &Channel) -> Result<Consumer, PeerError> {
        let options = BasicConsumeOptions {
            exclusive: self.options.sharing == Sharing::Exclusive,
            ..BasicConsumeOptions::default()
        };
        let name = self.options.name.as_str().into();
        let messages = listening.basic_consume(name, "".into(), options, FieldTable::default());
        Ok(messages.await?)
    }

    /// Replaces the consumer. Brokers count unsettled deliveries for each consumer, so those of the
    /// old one no longer count against the prefetch; they are settled on the same channel.
    ///
    /// The new consumer is added first, because a session whose queue has no consumer counts as
    /// closed. Only an exclusive consumer has to be removed before another one can be added.
    async fn consume_anew(
        &mut self,
        connections: &mut AttachedConnections,
    ) -> Result<(), PeerError> {
        let channel = &connections.listening;
        let old = connections.messages.tag();
        let cancel = channel.basic_cancel(old, BasicCancelOptions::default());
        let new = match self.options.sharing {
            Sharing::Shared => {
                let new = answered(self.consume(channel)).await?;
                answered(cancel).await?;
                new
            }
            Sharing::Exclusive => {
                answered(cancel).await?;
                answered(self.consume(channel)).await?
            }
        };
        let mut rest = std::mem::replace(&mut connections.messages, new);
        let mut under_way = Vec::new();
        while let Some(delivery) = answered(rest.try_next()).await? {
            under_way.push(delivery);
        }
        // For a moment both consumers got messages. The channel numbers deliveries in the queue's
        // order, so all with a lower number than a received one are received too.
        if let Some(last) = under_way.last().map(|delivery| delivery.delivery_tag) {
            while let Some(Some(delivery)) = connections.messages.next().now_or_never() {
                let delivery = delivery?;
                let is_later = delivery.delivery_tag > last;
                under_way.push(delivery);
                if is_later {
                    break;
                }
            }
            under_way.sort_by_key(|delivery| delivery.delivery_tag);
        }
        // Deliveries of the old consumer count in the new round too, which does not delay its end.
        self.round += 1;
        for delivery in under_way {
            if !self.pass_on(delivery, &connections.user).await {
                // The session closes the inbox, which ends the service.
                break;
            }
        }
        Ok(())
    }

    /// Passes a message to the session. Returns whether the session takes it: it takes nothing more
    /// once it closes the inbox.
    async fn pass_on(&self, delivery: lapin::message::Delivery, user: &str) -> bool {
        let name = self.options.name.as_str();
        let delivery = ReceivedMessage::to_session(user, name, delivery).in_round(self.round);
        let event = InboxEvent::Delivery(Box::new(delivery));
        self.events.send(event).await.is_ok()
    }

    async fn declare(
        &self,
        connection: &Connection,
    ) -> Result<(Channel, AttachedQueue), PeerError> {
        let (name, ttl_ms) = (&self.options.name, self.options.ttl_ms);
        let channel = connection.create_channel().await?;
        match topology::declare(&channel, name, &DeclareArguments::of_session(Some(ttl_ms))).await {
            Ok(state) => Ok((channel, attached(state, None))),
            // The refusal closed the channel.
            Err(PeerError::OtherArguments { live_ttl_ms, .. }) => {
                self.take_as_it_is(connection, live_ttl_ms).await
            }
            Err(error) => Err(error),
        }
    }

    /// Uses an existing queue with another TTL or other arguments: messages to the session go to it
    /// in any case.
    async fn take_as_it_is(
        &self,
        connection: &Connection,
        live_ttl_ms: Option<u64>,
    ) -> Result<(Channel, AttachedQueue), PeerError> {
        let name = &self.options.name;
        let mut channel = connection.create_channel().await?;
        let live = DeclareArguments::of_session(live_ttl_ms);
        let difference = match topology::declare_alone(&channel, name, &live).await {
            Ok(_) => QueueDifference::Ttl(live_ttl_ms),
            Err(PeerError::OtherArguments { argument, .. }) => {
                channel = connection.create_channel().await?;
                QueueDifference::Unusual(argument)
            }
            Err(error) => return Err(error),
        };
        topology::bind(&channel, name).await?;
        let state = topology::queue_counts(&channel, name).await?;
        Ok((channel, attached(state, Some(difference))))
    }

    async fn serve(
        &mut self,
        mut connections: AttachedConnections,
        closing: &mut watch::Receiver<bool>,
    ) -> LinkEnd {
        self.presence.mark_changed();
        self.round += 1;
        let mut pulse = tokio::time::interval(PULSE);
        loop {
            tokio::select! {
                () = asked_to_close(closing) => {
                    self.say_goodbye(&mut connections).await;
                    return LinkEnd::Closing;
                }
                message = connections.messages.next() => match message {
                    Some(Ok(delivery)) => {
                        if !self.pass_on(delivery, &connections.user).await {
                            self.say_goodbye(&mut connections).await;
                            return LinkEnd::Closing;
                        }
                    }
                    Some(Err(error)) => return LinkEnd::Lost(error.into()),
                    None => return LinkEnd::connection_failed(ConnectionFailure::QueueDeleted),
                },
                request = connections.requests.next() => match request {
                    Some(Ok(request)) => {
                        self.answer_or_pass_on(&mut connections, &request).await;
                        connections.outgoing.handled(request.acker).await;
                    }
                    Some(Err(error)) => return LinkEnd::Lost(error.into()),
                    None => {
                        let failure = ConnectionFailure::PresenceQueueDeleted;
                        return LinkEnd::connection_failed(failure);
                    }
                },
                () = self.more.notified() => {
                    if let Err(error) = self.consume_anew(&mut connections).await {
                        return LinkEnd::Lost(error);
                    }
                }
                Some(outgoing) = self.outgoing.recv() => connections.outgoing.send(outgoing).await,
                Ok(()) = self.presence.changed() => self.announce(&mut connections).await,
                _ = pulse.tick() => {
                    if !connections.is_open() {
                        return LinkEnd::connection_failed(ConnectionFailure::Gone);
                    }
                    connections.outgoing.catch_up().await;
                }
            }
        }
    }

    /// Answers `who`; passes other requests to the session.
    async fn answer_or_pass_on(
        &mut self,
        connections: &mut AttachedConnections,
        delivery: &lapin::message::Delivery,
    ) {
        if delivery.data.len() > REQUEST_BYTES {
            return;
        }
        let Some(request) = Request::parse(&delivery.data) else {
            return;
        };
        let Some(to) = delivery
            .properties
            .reply_to()
            .as_ref()
            .map(|queue| queue.as_str().to_owned())
        else {
            return;
        };
        if !request.concerns(self.options.name.as_str()) || !to.starts_with(SERVER_NAMED) {
            return;
        }
        let is_own = presence::is_from(delivery, &connections.user, PRESENCE_EXCHANGE);
        if request.is_control() && !is_own {
            self.report_stranger(delivery);
            return;
        }
        if !is_own && !self.for_strangers.spend(Instant::now()) {
            return;
        }
        let is_who = request == Request::Who;
        let to = ReplyTo(to);
        // Passes the request to the session. While its channel is full, only `who` gets an answer,
        // from the last announcement.
        let passed_on = self
            .events
            .try_send(InboxEvent::Request(request, to.clone()));
        let present = self.presence.borrow().clone();
        if let (true, Err(_), Some(presence)) = (is_who, passed_on, present) {
            let answer = Box::new(Answer::State(presence));
            connections
                .outgoing
                .send(OutgoingMessage::Answer { to, answer })
                .await;
        }
    }

    /// Only the session's own user may pause or read it, and only the broker says who that is.
    fn report_stranger(&mut self, delivery: &lapin::message::Delivery) {
        if self.has_reported_stranger {
            return;
        }
        let who = presence::vouched_user(&delivery.properties).unwrap_or("an unnamed user");
        let what = format!("a request that controls this session came from {who}: ignored");
        self.has_reported_stranger = self.events.try_send(InboxEvent::Ignored(what)).is_ok();
    }

    async fn announce(&mut self, connections: &mut AttachedConnections) {
        let present = self.presence.borrow_and_update().clone();
        if let Some(presence) = present {
            connections.outgoing.announce(presence).await;
        }
    }

    /// Sends what is queued before the end; then the broker requeues the unsettled messages.
    async fn say_goodbye(&mut self, connections: &mut AttachedConnections) {
        while let Ok(outgoing) = self.outgoing.try_recv() {
            connections.outgoing.send(outgoing).await;
        }
        if self.presence.has_changed().unwrap_or(false) {
            self.announce(connections).await;
        }
        let _ = connections
            .connection
            .close(200, "the session ended".into())
            .await;
        connections.outgoing.close().await;
    }
}

fn attached(state: QueueCounts, difference: Option<QueueDifference>) -> AttachedQueue {
    AttachedQueue {
        waiting: state.messages,
        others: state.consumers,
        difference,
    }
}

async fn asked_to_close(closing: &mut watch::Receiver<bool>) {
    // The sender is dropped only with the inbox, and that aborts this task.
    let _ = closing.wait_for(|closing| *closing).await;
}

/// Any user who may write to the exchange can publish many requests. So the prefetch is small, and
/// the queue's length is limited.
pub(super) async fn receive_requests(channel: &Channel) -> Result<Consumer, PeerError> {
    topology::declare_presence(channel).await?;
    channel
        .basic_qos(REQUESTS, BasicQosOptions::default())
        .await?;
    let options = QueueDeclareOptions::exclusive().auto_delete();
    let mut bounds = FieldTable::default();
    bounds.insert("x-max-length".into(), AMQPValue::LongInt(REQUESTS_WAITING));
    let bytes = AMQPValue::LongInt(REQUESTS_WAITING_BYTES);
    bounds.insert("x-max-length-bytes".into(), bytes);
    let queue = channel.queue_declare("".into(), options, bounds).await?;
    let (name, exchange) = (queue.name().clone(), PRESENCE_EXCHANGE.into());
    channel
        .queue_bind(
            name.clone(),
            exchange,
            "".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let options = BasicConsumeOptions::default();
    Ok(channel
        .basic_consume(name, "".into(), options, FieldTable::default())
        .await?)
}

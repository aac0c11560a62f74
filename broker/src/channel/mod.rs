//! One channel: which methods its client may send, in which order, and what they do. Finds queues
//! and exchanges through `vhost`; messages move in `queue`. Nothing awaits here: a [`FrameResult`]
//! says what the connection must wait for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::delivery::confirms::Confirms;
use crate::delivery::effects::Effects;
use crate::delivery::ledger::{Ledger, UnsettledDelivery};
use crate::delivery::outbox::Outbox;
use crate::fault::{Fault, ReplyCode};
use crate::lock::lock;
use crate::memory::{self, KindCharge};
use crate::persist::Ticket;
use crate::queue::Queue;
use crate::queue::consumer::Consumer;
use crate::registry::ChannelView;
use crate::wire::content::ChannelFraming;
use crate::wire::frame::{self, Frame};
use crate::wire::method::{self, Method};
use crate::wire::method_id::MethodId;
use crate::wire::reply;

mod access;
mod connection_context;
mod consume;
mod fan_out;
mod message_properties;
mod publish;
mod routes;
mod settle;
mod topology;
mod transaction;

pub(crate) use connection_context::ConnectionContext;
pub(crate) use topology::random_name;

use consume::ReplySubscription;
use fan_out::Continuation;
use publish::Publishing;
use routes::RouteCache;
use settle::ReplyMode;
use transaction::Transaction;

/// What became of a frame. The connection's reader decides by it what it reads next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FrameResult {
    /// The frame was processed. The reader continues with the next one.
    Done,
    /// These frames must be sent once the store is durable up to the ticket. The reader reads
    /// nothing of this connection before.
    WaitForStore(Ticket, Vec<u8>),
    /// The same frame must be received again once a queue has loaded its next messages.
    Retry,
    /// The budget was too small: the reader must call [`Channel::continue_work`] before it passes
    /// any other frame of the connection.
    Unfinished,
    /// The channel is closed.
    Closed,
}

/// Whether publishes are confirmed, and when they take effect.
#[derive(Debug)]
enum ChannelMode {
    Plain,
    Confirming(Arc<Confirms>),
    Transactional(Box<Transaction>),
}

/// The state of a channel.
#[derive(Debug)]
enum ChannelState {
    Open,
    /// The channel's deliveries are being returned; these consumers must still be removed from
    /// their queues.
    Ending(Vec<(Arc<Queue>, Arc<Consumer>)>),
    /// Everything is released. If the server closed the channel, all frames but `close-ok` are
    /// ignored.
    Closed,
}

/// The last frame that the server sends on a channel.
#[derive(Debug)]
enum ClosingFrame {
    /// The client closed the channel.
    CloseOk,
    /// The server closes it because of this fault of the method with these numbers.
    Close(Fault, MethodId),
}

/// The cost, in steps, of removing a consumer from its queue, or a channel from its connection.
const LEAVING_STEPS: u32 = 8;

#[derive(Debug)]
pub(crate) struct Channel {
    context: ConnectionContext,
    framing: ChannelFraming,
    outbox: Arc<Outbox>,
    ledger: Arc<Ledger>,
    view: Arc<ChannelView>,
    phase: ChannelState,
    mode: ChannelMode,
    publishing: Publishing,
    continuation: Option<Continuation>,
    routes: RouteCache,
    consumers: HashMap<Arc<str>, (Arc<Queue>, Arc<Consumer>)>,
    /// The number of consumers that remained when cancelled ones were last removed.
    consumers_kept: usize,
    replies: Option<ReplySubscription>,
    /// The queue that an empty name means.
    last_queue: String,
    prefetch: u32,
    /// Which consumer's queue is offered shared credit first, round-robin.
    first_pumped: usize,
    /// A buffer that each settle uses again.
    taken: Vec<UnsettledDelivery>,
    _charge: KindCharge,
}

/// What a channel uses: ledger, counters, its last publish's route, and its last queue's name.
const CHANNEL_BYTES: usize = 1280;

impl Channel {
    pub(crate) fn new(context: ConnectionContext, number: u16) -> Self {
        let ledger = Arc::new(Ledger::new(&context.connection.holdings));
        let view = Arc::new(ChannelView::new(number, Arc::clone(&ledger)));
        context.connection.add_channel(&view);
        context.broker.totals.channels_opened.add(1);
        Self {
            framing: ChannelFraming {
                channel: number,
                frame_max: context.frame_max,
            },
            outbox: Arc::clone(&context.connection.outbox),
            ledger,
            view,
            phase: ChannelState::Open,
            mode: ChannelMode::Plain,
            publishing: Publishing::new(&context.connection.holdings),
            continuation: None,
            routes: RouteCache::default(),
            consumers: HashMap::new(),
            consumers_kept: 0,
            replies: None,
            last_queue: String::new(),
            prefetch: 0,
            first_pumped: 0,
            taken: Vec::new(),
            _charge: memory::CHANNELS.charge(Self::footprint()),
            context,
        }
    }

    /// About how much memory a channel uses, in bytes.
    const fn footprint() -> usize {
        size_of::<Self>() + CHANNEL_BYTES
    }

    /// Refuses another channel if all channels together are at their memory limit; the connection
    /// that asks is closed.
    pub(crate) fn check_room() -> Result<(), Fault> {
        if memory::CHANNELS.has_room(Self::footprint()) {
            return Ok(());
        }
        let mib = memory::CHANNELS.limit() >> 20;
        let reason = "channels hold all the memory that they may";
        Err(Fault::connection(
            ReplyCode::ResourceError,
            format!("cannot open a channel: {reason} ({mib} MiB)"),
        ))
    }

    /// Acts on one frame of this channel.
    pub(crate) fn receive(
        &mut self,
        frame: Frame<'_>,
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        if matches!(self.phase, ChannelState::Closed) {
            return Ok(self.receive_closing(frame, effects));
        }
        match frame.kind {
            frame::METHOD => self.receive_method(frame.payload, effects),
            frame::HEADER => self.receive_header(frame.payload, effects),
            frame::BODY => self.receive_body(frame.payload, effects),
            _ => Err(Fault::connection(ReplyCode::UnexpectedFrame, frame.quote())),
        }
    }

    /// After `channel.close` by the server, only its `close-ok` and a close of the client's own
    /// count.
    fn receive_closing(&mut self, frame: Frame<'_>, effects: &mut Effects) -> FrameResult {
        if frame.kind != frame::METHOD {
            return FrameResult::Done;
        }
        match method::decode(frame.payload) {
            Ok(Method::ChannelCloseOk) => FrameResult::Closed,
            Ok(Method::ChannelClose { .. }) => {
                self.send(effects, |out, channel| {
                    reply::empty_method(out, channel, MethodId::CHANNEL_CLOSE_OK);
                });
                FrameResult::Done
            }
            _ => FrameResult::Done,
        }
    }

    fn receive_method(
        &mut self,
        payload: &[u8],
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        self.publishing.check_idle()?;
        let method = method::decode(payload).map_err(undecodable)?;
        match method {
            Method::BasicPublish(publish) => {
                if publish.immediate {
                    return Err(Fault::connection(
                        ReplyCode::NotImplemented,
                        "immediate=true",
                    ));
                }
                self.publishing.begin(publish);
                Ok(FrameResult::Done)
            }
            Method::BasicAck { tag, multiple } => self.ack(tag, multiple, effects),
            Method::BasicNack {
                tag,
                multiple,
                requeue,
            } => self.nack((tag, multiple), requeue, effects),
            Method::BasicReject { tag, requeue } => self.nack((tag, false), requeue, effects),
            other => {
                effects.spend(1);
                // A client that asks for a queue's count sees the dead letters of messages that it
                // rejected just before.
                if effects.has_unfinished() {
                    self.context.broker.carry_out(effects);
                }
                self.receive_other(other, effects)
            }
        }
    }

    /// All methods but those of the hot path.
    fn receive_other(
        &mut self,
        method: Method<'_>,
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        match method {
            Method::ExchangeDeclare(declare) => self.exchange_declare(declare, effects),
            Method::ExchangeDelete {
                exchange,
                if_unused,
                no_wait,
            } => self.exchange_delete(exchange, (if_unused, no_wait), effects),
            Method::ExchangeBind(binding) => self.bind_exchange(binding, effects),
            Method::ExchangeUnbind(binding) => self.unbind_exchange(binding, effects),
            Method::QueueDeclare(declare) => self.queue_declare(declare, effects),
            Method::QueueBind(binding) => self.bind_queue(binding, effects),
            Method::QueueUnbind(binding) => self.unbind_queue(binding, effects),
            Method::QueuePurge { queue, no_wait } => self.queue_purge(queue, no_wait, effects),
            Method::QueueDelete {
                queue,
                if_unused,
                if_empty,
                no_wait,
            } => self.queue_delete(queue, (if_unused, if_empty), no_wait, effects),
            Method::BasicQos {
                size,
                count,
                global,
            } => self.qos(size, count, global, effects),
            Method::BasicConsume(consume) => self.consume(consume, effects),
            Method::BasicCancel {
                consumer_tag,
                no_wait,
            } => self.cancel(consumer_tag, no_wait, effects),
            Method::BasicGet { queue, no_ack } => self.get(queue, no_ack, effects),
            Method::BasicRecover { requeue } => self.recover(requeue, ReplyMode::Expected, effects),
            Method::BasicRecoverAsync { requeue } => {
                self.recover(requeue, ReplyMode::None, effects)
            }
            Method::ConfirmSelect { no_wait } => self.confirm_select(no_wait, effects),
            Method::TxSelect => self.tx_select(effects),
            Method::TxCommit => self.tx_commit(effects),
            Method::TxRollback => self.tx_rollback(effects),
            Method::ChannelFlow { active } => self.flow(active, effects),
            Method::ChannelClose { .. } => Ok(self.end(ClosingFrame::CloseOk, effects)),
            Method::ChannelFlowOk | Method::BasicCancelOk | Method::ChannelCloseOk => {
                Ok(FrameResult::Done)
            }
            Method::AccessRequest => {
                self.send(effects, |out, channel| {
                    reply::MethodFrame::new(out, channel, MethodId::ACCESS_REQUEST_OK)
                        .u16(1)
                        .finish();
                });
                Ok(FrameResult::Done)
            }
            Method::ChannelOpen => Err(Fault::connection(
                ReplyCode::ChannelError,
                "second 'channel.open' seen",
            )),
            _ => Err(Fault::connection(
                ReplyCode::CommandInvalid,
                "unimplemented method",
            )),
        }
    }

    fn flow(&mut self, active: bool, effects: &mut Effects) -> Result<FrameResult, Fault> {
        if !active {
            return Err(Fault::connection(ReplyCode::NotImplemented, "active=false"));
        }
        self.send(effects, |out, channel| {
            reply::MethodFrame::new(out, channel, MethodId::CHANNEL_FLOW_OK)
                .u8(1)
                .finish();
        });
        Ok(FrameResult::Done)
    }

    fn confirm_select(
        &mut self,
        no_wait: bool,
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        match self.mode {
            ChannelMode::Transactional(_) => {
                return Err(Fault::precondition("cannot switch from tx to confirm mode"));
            }
            ChannelMode::Confirming(_) => {}
            ChannelMode::Plain => {
                let confirms = Arc::new(Confirms::new(
                    Arc::clone(&self.outbox),
                    self.framing.channel,
                    Arc::clone(&self.view.counters),
                ));
                *lock(&self.view.confirms) = Some(Arc::clone(&confirms));
                self.view.is_confirming.store(true, Relaxed);
                self.mode = ChannelMode::Confirming(confirms);
            }
        }
        if !no_wait {
            self.send(effects, |out, channel| {
                reply::empty_method(out, channel, MethodId::CONFIRM_SELECT_OK);
            });
        }
        Ok(FrameResult::Done)
    }

    /// Appends a frame for this channel.
    fn send(&self, effects: &mut Effects, append: impl FnOnce(&mut Vec<u8>, u16)) {
        self.outbox
            .write(effects, |out| append(out, self.framing.channel));
    }

    /// A reply, which waits for the store if there is something to wait for.
    fn reply_after(
        &self,
        ticket: Ticket,
        effects: &mut Effects,
        append: impl FnOnce(&mut Vec<u8>, u16),
    ) -> FrameResult {
        if ticket <= self.context.broker.store.durable() {
            self.send(effects, append);
            return FrameResult::Done;
        }
        let mut held = Vec::new();
        append(&mut held, self.framing.channel);
        FrameResult::WaitForStore(ticket, held)
    }

    /// Closes the channel for a fault: removes its consumers, returns its messages, reports it.
    pub(crate) fn fail(
        &mut self,
        fault: Fault,
        cause: MethodId,
        effects: &mut Effects,
    ) -> FrameResult {
        self.end(ClosingFrame::Close(fault, cause), effects)
    }

    /// Ends the channel as far as the budget allows, and then sends the closing frame.
    fn end(&mut self, last: ClosingFrame, effects: &mut Effects) -> FrameResult {
        if !self.close(effects) {
            self.continuation = Some(Continuation::Close(last));
            return FrameResult::Unfinished;
        }
        match last {
            ClosingFrame::CloseOk => {
                self.send(effects, |out, channel| {
                    reply::empty_method(out, channel, MethodId::CHANNEL_CLOSE_OK);
                });
                FrameResult::Closed
            }
            ClosingFrame::Close(fault, cause) => {
                self.send(effects, |out, channel| {
                    reply::close(out, channel, fault.code.number(), &fault.text(), cause);
                });
                FrameResult::Done
            }
        }
    }

    /// Removes the channel's consumers, requeues its deliveries and releases its due confirms.
    /// Returns true when all of it is done, and false when the budget is spent; the next unit of
    /// work calls it again.
    pub(crate) fn close(&mut self, effects: &mut Effects) -> bool {
        if matches!(self.phase, ChannelState::Closed) {
            return true;
        }
        if !self.leave_queues_and_requeue(effects) || !self.finish_work(effects) {
            return false;
        }
        effects.spend(LEAVING_STEPS);
        self.phase = ChannelState::Closed;
        if let ChannelMode::Confirming(confirms) = &self.mode {
            // A publish that is already durable is confirmed, although the channel ends.
            confirms.release(self.context.broker.store.durable(), effects);
            confirms.abandon();
        }
        self.mode = ChannelMode::Plain;
        self.publishing.discard();
        *lock(&self.view.confirms) = None;
        self.context.connection.remove_channel(self.framing.channel);
        let totals = &self.context.broker.totals;
        totals.closed_channels.absorb(&self.view.counters);
        totals.channels_closed.add(1);
        let here = &self.context.vhost.closed_channels;
        here.absorb(&self.view.counters);
        true
    }

    /// The first part of [`Self::close`]; it ends when the consumers have left their queues. A
    /// publish that has begun may have to wait for room, and others must not wait for its channel's
    /// consumers meanwhile.
    pub(crate) fn leave_queues(&mut self, effects: &mut Effects) -> bool {
        if matches!(self.phase, ChannelState::Closed) {
            return true;
        }
        if !self.may_wait_for_room() && !self.finish_work(effects) {
            return false;
        }
        if matches!(self.phase, ChannelState::Open) {
            let leaving = std::mem::take(&mut self.consumers).into_values().collect();
            self.phase = ChannelState::Ending(leaving);
            if let Some(replies) = self.replies.take() {
                self.context.vhost.remove_reply_consumer(&replies.token);
            }
            if let ChannelMode::Transactional(transaction) = &mut self.mode {
                self.ledger.put_back(transaction.take_settled(), effects);
            }
        }
        self.detach_consumers(effects)
    }

    /// The first two parts of [`Self::close`]. True when the consumers have left their queues and
    /// the deliveries are requeued.
    pub(crate) fn leave_queues_and_requeue(&mut self, effects: &mut Effects) -> bool {
        self.leave_queues(effects) && self.requeue_unsettled(effects)
    }

    /// Removes the consumers of a channel that ends from their queues. Returns false if the budget
    /// is spent before that.
    fn detach_consumers(&mut self, effects: &mut Effects) -> bool {
        let ChannelState::Ending(leaving) = &mut self.phase else {
            return true;
        };
        while !leaving.is_empty() {
            if effects.is_spent() {
                return false;
            }
            let Some((queue, consumer)) = leaving.pop() else {
                break;
            };
            effects.spend(LEAVING_STEPS);
            if let Err(error) = queue.unsubscribe(&consumer, effects) {
                tracing::debug!(queue = %queue.name(), %error, "a consumer could not be removed");
            }
        }
        true
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn undecodable(error: method::MethodError<'_>) -> Fault {
    let code = match error {
        method::MethodError::Undecodable(_) => ReplyCode::FrameError,
        method::MethodError::Unknown { .. } => ReplyCode::NotImplemented,
    };
    Fault::connection(code, error.to_string())
}

#[cfg(test)]
pub(crate) mod tests;

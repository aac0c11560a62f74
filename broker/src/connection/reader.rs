//! The reading task. It reads once, handles all whole frames in one unit of work, and then waits
//! for whatever ended that unit. Relies on `channel`.
//!
//! A unit of work ends early when its budget is used up, when the client does not read what it is
//! sent, and when memory is short and the client publishes. The connection's end ends every wait.

mod frames;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::ReadBuffer;
use super::blocking::PublisherBlocking;
use super::ending::{self, ConnectionWatch, ReadEnd, wait_for_end};
use super::open_channels::{OpenChannels, Release};
use super::yield_policy::YieldPolicy;
use crate::broker_state::BusyMark;
use crate::channel::{Channel, ConnectionContext, FrameResult};
use crate::delivery::budget::StepBudget;
use crate::delivery::effects::Effects;
use crate::fault::{Fault, FaultScope, ReplyCode};
use crate::persist::Ticket;
use crate::queue::Queue;
use crate::registry::ConnectionEnding;
use crate::wire::frame::{self, ParsedFrame};
use crate::wire::method_id::MethodId;
use crate::wire::reply;

/// How long a fast publisher waits for the consumers of a growing queue.
const DRAINED_WITHIN: Duration = Duration::from_millis(20);
/// After such a wait timed out, the publisher does not wait again for this long.
const NO_WAIT_AFTER_TIMEOUT: Duration = Duration::from_millis(200);
/// A publisher whose reads return this much is fast.
const HURRY_BYTES: usize = 32 * 1024;
/// Maximum time between two checks of a queue that is loading, or of a store with a backlog.
const LOADING: Duration = Duration::from_millis(20);
/// How often an idle connection shrinks its buffers and forgets routes that changed.
const QUIET: Duration = Duration::from_secs(10);
/// How often a connection with a large buffer checks whether others wait for memory.
const LATE_LOOK: Duration = Duration::from_secs(1);

struct ConnectionReader {
    context: ConnectionContext,
    channels: OpenChannels,
    blocking: PublisherBlocking,
    /// The channel with unfinished work, which continues before the next frame.
    continuing: Option<u16>,
    /// A fast publisher does not wait for the consumers of a growing queue before this time.
    patient_from: Instant,
    /// The client has closed the connection and waits for `close-ok`.
    must_send_close_ok: bool,
}

/// Why a unit of work ended.
enum StopReason {
    /// The rest of the frame at the front is missing.
    Partial(usize),
    /// The reply waits for the store.
    Wait(Ticket, Vec<u8>),
    /// A queue is loading; the same frame is handled again afterwards.
    Loading,
    /// The budget is used up: other connections are served first.
    Spent,
    /// The client does not read what it is sent.
    Unread,
    /// There is no memory for more messages of this client.
    Short,
    /// A frame was refused; the client must be sent the reason.
    Fault(Fault, MethodId),
    /// The client closed the connection.
    Closed,
}

/// Reads until the connection ends, then releases everything that it held.
pub(super) async fn run(context: ConnectionContext, mut input: ReadBuffer) {
    let mut ending = context.connection.ending.subscribe();
    let mut reader = ConnectionReader {
        context,
        channels: OpenChannels::default(),
        blocking: PublisherBlocking::new(),
        continuing: None,
        patient_from: Instant::now(),
        must_send_close_ok: false,
    };
    let (fault, cause) = match reader.read(&mut input, &mut ending).await {
        ReadEnd::Gone => return reader.release_all(None).await,
        ReadEnd::Closed => {
            reader.release_all(None).await;
            if reader.must_send_close_ok {
                let close_ok =
                    |out: &mut Vec<u8>| reply::empty_method(out, 0, MethodId::CONNECTION_CLOSE_OK);
                reader.context.send(close_ok);
            }
            return ending::drop_input_until_closed(&reader.context.connection, &mut input).await;
        }
        ReadEnd::Refused(fault, cause) => (fault, cause),
    };
    tracing::info!(connection = %reader.context.connection.name, %fault, "closed by the server");
    reader.release_all(Some((&fault, cause))).await;
    // Frames of the client are read and dropped until its `close-ok`.
    let answered = ending::drop_frames_until_close_ok(&reader.context, &mut input);
    if tokio::time::timeout(ending::CLOSING, answered)
        .await
        .is_err()
    {
        reader.context.connection.cut();
    }
}

impl ConnectionReader {
    async fn read(
        &mut self,
        input: &mut ReadBuffer,
        ending: &mut watch::Receiver<Option<ConnectionEnding>>,
    ) -> ReadEnd {
        let mut quiet = tokio::time::interval(QUIET);
        quiet.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut late = tokio::time::interval(LATE_LOOK);
        late.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let connection = Arc::clone(&self.context.connection);
        let mut blocking = self.context.broker.alarms.blocking();
        let mut yield_policy = YieldPolicy::new(&self.context.broker);
        loop {
            let (reason, growing) = self.run_unit(input, &mut yield_policy);
            yield_policy.yield_if_due().await;
            let seen = input.unused_bytes().len();
            let mut watched = ConnectionWatch {
                input: &mut *input,
                ending: &mut *ending,
                connection: &connection,
            };
            if let Some(queue) = growing
                && let Err(end) = self.wait_for_consumers(&queue, &mut watched).await
            {
                return end;
            }
            let needed = match self.pause(reason, &mut watched).await {
                Ok(needed) => needed,
                Err(end) => return end,
            };
            if let Err(end) = self.wait_while_blocked(&mut watched).await {
                return end;
            }
            // Bytes that came during a wait may complete a frame.
            let Some(needed) = needed.filter(|_| input.unused_bytes().len() == seen) else {
                continue;
            };
            tokio::select! {
                count = input.fill(needed) => match count {
                    Ok(count) if count > 0 => connection.received.add_alone(count as u64),
                    _ => return ReadEnd::Gone,
                },
                end = wait_for_end(ending) => return end,
                // `connection.blocked` goes to an idle publisher at once.
                Ok(_) = blocking.wait_for(|is_raised| *is_raised),
                    if self.blocking.has_published() => {}
                () = self.blocking.idle() => self.blocking.give_up_grant(),
                _ = quiet.tick() => self.free_unneeded(input),
                _ = late.tick(), if input.has_large_buffer() => {}
            }
        }
    }

    /// Handles the frames that were read, in one unit of work. Returns why it ended, and the queue
    /// that grew if its fast publisher must wait for the consumers.
    fn run_unit(
        &mut self,
        input: &mut ReadBuffer,
        yield_policy: &mut YieldPolicy,
    ) -> (StopReason, Option<Arc<Queue>>) {
        let mut effects = self.begin_unit();
        let brought = input.unused_bytes().len();
        let reason = self.take_frames(input, &mut effects);
        self.blocking
            .end_unit(brought - input.unused_bytes().len(), &effects);
        let growing = effects.growing_queue.take();
        let growing = growing.filter(|_| {
            brought >= HURRY_BYTES && Instant::now() >= self.patient_from && !self.is_committing()
        });
        yield_policy.count(&effects);
        self.context.broker.end_unit(effects);
        (reason, growing)
    }

    /// Gives consumers that keep up in the long run time to do so; others cost no more than this
    /// wait.
    async fn wait_for_consumers(
        &mut self,
        growing: &Queue,
        watched: &mut ConnectionWatch<'_>,
    ) -> Result<(), ReadEnd> {
        let drained = tokio::time::timeout(DRAINED_WITHIN, growing.drained());
        if watched.or_end(drained).await?.is_err() {
            self.patient_from = Instant::now() + NO_WAIT_AFTER_TIMEOUT;
        }
        Ok(())
    }

    /// Begins a unit of work. One that continues a commit gets a full budget, however many other
    /// connections are busy: the store's commits wait for it.
    fn begin_unit(&mut self) -> Effects {
        let effects = self.context.broker.begin_unit();
        if self.is_committing() {
            return effects.with_limit(StepBudget::FULL);
        }
        effects
    }

    /// Waits for the reason that ended a unit of work. Returns how many bytes must be read before
    /// the next one; `None` if there are enough.
    async fn pause(
        &mut self,
        outcome: StopReason,
        watched: &mut ConnectionWatch<'_>,
    ) -> Result<Option<usize>, ReadEnd> {
        let broker = &self.context.broker;
        match outcome {
            StopReason::Partial(needed) => {
                watched.wait_for_room(needed).await?;
                return Ok(Some(needed));
            }
            StopReason::Fault(fault, cause) => return Err(ReadEnd::Refused(fault, cause)),
            StopReason::Closed => return Err(ReadEnd::Closed),
            StopReason::Wait(ticket, frames) => {
                if !watched.or_end(broker.durable(ticket)).await? {
                    return Err(ReadEnd::Refused(Fault::store_stopped(), MethodId::NONE));
                }
                self.context.send(|out| out.extend_from_slice(&frames));
            }
            StopReason::Loading => {
                let loaded = tokio::time::timeout(LOADING, broker.loaded.notified());
                // In both cases the frame is received again.
                let _ = watched.or_end(loaded).await?;
            }
            StopReason::Spent => {
                if watched.ending.borrow().is_some() {
                    return Err(wait_for_end(watched.ending).await);
                }
            }
            StopReason::Unread => watched.or_end(watched.connection.outbox.readable()).await?,
            StopReason::Short => {
                broker.look_at_memory();
                // Others must run even while the alarm is not raised.
                tokio::task::yield_now().await;
            }
        }
        Ok(None)
    }

    /// Frees memory that an idle connection does not need.
    fn free_unneeded(&mut self, input: &mut ReadBuffer) {
        input.free_buffer();
        self.channels.forget_old_routes();
    }

    fn is_blocked(&self) -> bool {
        self.blocking.is_due(self.context.broker.alarm_state())
    }

    /// Waits while publishers are blocked.
    async fn wait_while_blocked(
        &mut self,
        watched: &mut ConnectionWatch<'_>,
    ) -> Result<(), ReadEnd> {
        if self.is_committing() {
            return watched.or_end(self.backlog_over()).await;
        }
        // Unfinished work other than a publish frees memory: a settle, or the end of a channel.
        let may_publish = self.continuing.is_none() || self.is_publishing();
        if may_publish && self.is_blocked() {
            // A publish that has begun does not need more bytes of the client.
            let has_input = !watched.input.unused_bytes().is_empty() || self.continuing.is_some();
            let grant =
                watched.or_end(self.blocking.wait_until_unblocked(&self.context, has_input));
            let grant = grant.await?;
            self.blocking.set_grant(grant);
            watched.input.restart_frame_timer();
        }
        Ok(())
    }

    /// Handles every whole frame that was read.
    fn take_frames(&mut self, input: &mut ReadBuffer, effects: &mut Effects) -> StopReason {
        let frame_max = self.context.frame_max;
        let mut used = 0;
        let outcome = loop {
            // Between the frames of one publish no reason to pause can arise.
            let is_inside = matches!(
                input.unused_bytes().get(used),
                Some(&(frame::HEADER | frame::BODY))
            );
            if (!is_inside || self.continuing.is_some())
                && let Some(outcome) = self.must_pause(effects)
            {
                break outcome;
            }
            if self.blocking.is_grant_over(used, effects) {
                break StopReason::Spent;
            }
            if let Some(number) = self.continuing.take() {
                let step = match self.channels.get(number) {
                    Some(channel) => channel.continue_work(effects),
                    None => Ok(FrameResult::Done),
                };
                match self.stop_reason(step, number, || MethodId::BASIC_PUBLISH, effects) {
                    Some(outcome) => break outcome,
                    // The next frame may be a publish, which has to wait.
                    None if self.is_blocked() => break StopReason::Spent,
                    None => continue,
                }
            }
            let front = match frame::parse(&input.unused_bytes()[used..], frame_max) {
                Ok(ParsedFrame::Whole(front)) => front,
                Ok(ParsedFrame::Partial { needed }) => break StopReason::Partial(needed),
                Err(error) => {
                    break StopReason::Fault(
                        Fault::connection(ReplyCode::FrameError, error.to_string()),
                        MethodId::NONE,
                    );
                }
            };
            let step = self.receive(front, effects);
            if matches!(step, Ok(FrameResult::Retry)) {
                break StopReason::Loading;
            }
            used += front.total();
            let cause = || {
                if front.kind == frame::METHOD {
                    MethodId::of(front.payload)
                } else {
                    MethodId::BASIC_PUBLISH
                }
            };
            if let Some(outcome) = self.stop_reason(step, front.channel, cause, effects) {
                break outcome;
            }
        };
        input.consume(used);
        outcome
    }

    /// The channel whose work continues before the next frame.
    fn continuing_channel(&mut self) -> Option<&mut Channel> {
        self.channels.get(self.continuing?)
    }

    /// Whether a commit must continue before the next frame. The store's commits wait for it, so it
    /// continues while publishers are blocked; its memory was charged with its publishes.
    fn is_committing(&mut self) -> bool {
        self.continuing_channel()
            .is_some_and(|channel| channel.is_committing())
    }

    /// Waits for the store's backlog, but not in a commit that the store waits for.
    async fn backlog_over(&mut self) {
        loop {
            let channel = self.continuing_channel();
            if channel.is_some_and(|channel| channel.is_commit_awaited()) {
                return;
            }
            let drained = tokio::time::timeout(LOADING, self.context.broker.store_drained());
            if drained.await.is_ok() {
                return;
            }
        }
    }

    /// Whether a publish must continue before the next frame.
    fn is_publishing(&mut self) -> bool {
        self.continuing_channel()
            .is_some_and(|channel| channel.is_publishing())
    }

    /// The reason why no further frame may be received now.
    fn must_pause(&mut self, effects: &Effects) -> Option<StopReason> {
        if effects.is_spent() {
            return Some(StopReason::Spent);
        }
        if !self.context.connection.outbox.is_readable() && !self.is_committing() {
            return Some(StopReason::Unread);
        }
        // A publish that has begun to reach its queues is finished.
        (self.continuing.is_none() && effects.has_spent() && self.blocking.is_short())
            .then_some(StopReason::Short)
    }

    /// Handles the result of a frame. Returns the reason to end the unit of work, if there is one.
    fn stop_reason(
        &mut self,
        step: Result<FrameResult, Fault>,
        number: u16,
        cause: impl FnOnce() -> MethodId,
        effects: &mut Effects,
    ) -> Option<StopReason> {
        match step {
            Ok(FrameResult::Done) => {}
            Ok(FrameResult::Closed) => {
                if number == 0 {
                    return Some(StopReason::Closed);
                }
                self.channels.forget(number);
            }
            Ok(FrameResult::WaitForStore(ticket, frames)) => {
                return Some(StopReason::Wait(ticket, frames));
            }
            Ok(FrameResult::Retry) => return Some(StopReason::Loading),
            Ok(FrameResult::Unfinished) => self.continuing = Some(number),
            Err(fault) => match (fault.scope, self.channels.get(number)) {
                (FaultScope::Channel, Some(channel)) => {
                    if channel.fail(fault, cause(), effects) == FrameResult::Unfinished {
                        self.continuing = Some(number);
                    }
                }
                _ => return Some(StopReason::Fault(fault, cause())),
            },
        }
        None
    }

    /// Ends the channels as far as the budget allows, then deletes the connection's exclusive
    /// queues.
    fn close_channels(&mut self, effects: &mut Effects) -> Release {
        let release = self.channels.close(self.continuing, effects);
        if release != Release::Done {
            return release;
        }
        let (vhost, connection) = (&self.context.vhost, &self.context.connection);
        if vhost.remove_exclusive(connection.id, effects) {
            Release::Done
        } else {
            Release::Unfinished
        }
    }

    /// Requeues the unsettled deliveries of the connection and deletes its exclusive queues, in as
    /// many units of work as that takes. Then sends the client the `reason`, if there is one.
    async fn release_all(&mut self, reason: Option<(&Fault, MethodId)>) {
        self.context.connection.outbox.refuse_deliveries();
        let mut busy = BusyMark::new(&self.context.broker);
        loop {
            let mut effects = self.begin_unit();
            let release = self.close_channels(&mut effects);
            self.context.broker.end_unit(effects);
            if release == Release::Done {
                break;
            }
            busy.set(true);
            tokio::task::yield_now().await;
            if release == Release::AwaitsStore {
                // A client must not avoid the wait for the backlog by disconnecting.
                self.backlog_over().await;
            }
        }
        if let Some((fault, cause)) = reason {
            self.context
                .send(|out| reply::close(out, 0, fault.code.number(), &fault.text(), cause));
        }
    }
}

#[cfg(test)]
mod tests;

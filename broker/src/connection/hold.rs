//! How a connection that publishes is held while there is no room for its messages, and what it may
//! send meanwhile. Relies on `alarms` and `publisher_turns`.

use std::future::pending;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::alarms::AlarmState;
use crate::channel::ConnectionContext;
use crate::delivery::effects::Effects;
use crate::memory::{self, HoldingKind, MemoryLevel};
use crate::publisher_turns::PublisherTurn;
use crate::wire::reply;

/// How long a publisher is held before it gets a turn.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long one is held that sent nothing in its last turns.
const LONGEST_PATIENCE: Duration = Duration::from_secs(8);
/// How long a turn waits for something to come.
const IDLE: Duration = Duration::from_millis(100);
/// How often it is looked whether a held publisher has sent something.
const LOOK: Duration = Duration::from_millis(100);
/// What a connection may have in publishes that are not whole or not committed before they count as
/// messages that stay in memory.
const STAYING_BYTES: usize = 64 * 1024;

/// What a publish adds to memory for each queue: the entry of the message there.
const ENTRY_BYTES: usize = 128;

#[derive(Debug)]
pub(super) struct PublisherHold {
    /// It has published, so it is held when publishers are.
    has_published: bool,
    /// Messages that it published last stay in memory.
    stays: bool,
    /// What it may send although publishers are held.
    turn: Option<PublisherTurn>,
    patience: Duration,
}

impl PublisherHold {
    pub(super) fn new() -> Self {
        Self {
            has_published: false,
            stays: false,
            turn: None,
            patience: PATIENCE,
        }
    }

    pub(super) fn note_publish(&mut self) {
        self.has_published = true;
    }

    pub(super) fn has_published(&self) -> bool {
        self.has_published
    }

    /// Whether a unit of work ends because there is no memory for more of what it publishes.
    pub(super) fn is_short(&self) -> bool {
        let is_short =
            || memory::level() == MemoryLevel::Short || (self.stays && memory::is_transient_full());
        self.has_published && self.turn.is_none() && is_short()
    }

    /// Whether a unit of work ends because its turn does, after these bytes and these publishes.
    pub(super) fn is_turn_over(&self, used: usize, effects: &Effects) -> bool {
        let is_over = |turn: &PublisherTurn| turn.is_over(memory_for(used, effects));
        self.turn.as_ref().is_some_and(is_over)
    }

    /// Notes what a unit of work did that took so many bytes from the client.
    pub(super) fn end_unit(&mut self, used: usize, effects: &Effects) {
        if let Some(stays) = effects.stays_in_memory() {
            self.stays = stays;
        }
        let Some(turn) = &mut self.turn else {
            return;
        };
        if used > 0 {
            self.patience = PATIENCE;
        }
        turn.take(memory_for(used, effects));
        if turn.is_over(0) {
            self.turn = None;
        }
    }

    /// Whether it must wait now.
    pub(super) fn is_due(&self, alarms: AlarmState) -> bool {
        self.has_published && self.turn.is_none() && alarms.holds(self.stays)
    }

    /// Waits until publishers may go on, or for a turn; tells the client where the reason is one
    /// that it can be told. A turn is asked for once the client has sent something, of which
    /// `has_input` says whether there is some already; for a client that was told, at once, because
    /// it may send nothing before it is told otherwise.
    pub(super) async fn wait(
        &self,
        context: &ConnectionContext,
        has_input: bool,
    ) -> Option<PublisherTurn> {
        let received = || context.connection.received.get();
        let before = received();
        let has_come = || has_input || received() != before;
        let mut watch = context.broker.alarms.watch();
        let mut next_turn = None;
        let mut is_told = false;
        context.connection.set_blocked(true);
        let turn = loop {
            let alarms = *watch.borrow_and_update();
            if !alarms.holds(self.stays) {
                break None;
            }
            let reason = alarms.blocked_reason(self.stays);
            if let Some(reason) = reason.filter(|_| !is_told && context.wants_blocked) {
                is_told = true;
                context.send(|out| reply::connection_blocked(out, reason));
            }
            let may_ask = next_turn.is_none() && alarms.is_memory_alone();
            if may_ask && (is_told || has_come()) {
                next_turn = Some(self.ask_for_turn(context));
            }
            let looks = may_ask && next_turn.is_none();
            tokio::select! {
                changed = watch.changed() => if changed.is_err() {
                    break None;
                },
                turn = given(&mut next_turn) => break turn,
                () = tokio::time::sleep(LOOK), if looks => {}
            }
        };
        context.connection.set_blocked(false);
        if is_told {
            context.send(reply::connection_unblocked);
        }
        turn
    }

    fn ask_for_turn(&self, context: &ConnectionContext) -> oneshot::Receiver<PublisherTurn> {
        let holdings = &context.connection.holdings;
        let unfinished =
            holdings.bytes(HoldingKind::Unfinished) + holdings.bytes(HoldingKind::Transaction);
        let stays = self.stays || unfinished > STAYING_BYTES;
        context.broker.turns.wait(stays, self.patience)
    }

    /// Goes on after [`Self::wait`].
    pub(super) fn go_on(&mut self, turn: Option<PublisherTurn>) {
        self.turn = turn;
    }

    /// Waits until a turn has been idle for too long; for ever without a turn.
    pub(super) async fn idle(&self) {
        match self.turn {
            Some(_) => tokio::time::sleep(IDLE).await,
            None => pending().await,
        }
    }

    /// Ends a turn in which nothing came. The next one is further away.
    pub(super) fn give_up_turn(&mut self) {
        self.turn = None;
        self.patience = (2 * self.patience).min(LONGEST_PATIENCE);
    }
}

/// What a unit of work may have added to memory, in bytes, that took so many bytes from the client:
/// a small message can go to very many queues.
fn memory_for(used: usize, effects: &Effects) -> usize {
    used + effects.published() as usize * ENTRY_BYTES
}

/// The turn, once it is given.
async fn given(next_turn: &mut Option<oneshot::Receiver<PublisherTurn>>) -> Option<PublisherTurn> {
    match next_turn {
        Some(receiver) => receiver.await.ok(),
        None => pending().await,
    }
}

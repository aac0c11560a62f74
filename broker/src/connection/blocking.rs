//! Blocks a connection that publishes while there is no room for its messages, except for what a
//! grant allows. Depends on `alarms` and `publisher_grants`.

use std::future::pending;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::alarms::AlarmState;
use crate::channel::ConnectionContext;
use crate::delivery::effects::Effects;
use crate::memory::{self, HoldingKind, MemoryLevel};
use crate::publisher_grants::PublisherGrant;
use crate::wire::reply;

/// How long a publisher is blocked before it gets a grant.
const PATIENCE: Duration = Duration::from_secs(1);
/// The longest such wait, for a publisher that sent nothing during its last grants.
const LONGEST_PATIENCE: Duration = Duration::from_secs(8);
/// A grant ends after this long without bytes from the client.
const IDLE: Duration = Duration::from_millis(100);
/// How often the broker checks whether a blocked publisher has sent something.
const CHECK_EVERY: Duration = Duration::from_millis(100);
/// A connection with more bytes than this in publishes that are not whole or not committed counts
/// as one whose messages stay in memory.
const STAYING_BYTES: usize = 64 * 1024;

/// What a publish adds to memory for each queue: the entry of the message there.
const ENTRY_BYTES: usize = 128;

/// Whether this connection is blocked when publishers are.
#[derive(Debug)]
pub(super) struct PublisherBlocking {
    /// The connection has published, so it is blocked when publishers are.
    has_published: bool,
    /// The messages that it published last stay in memory.
    stays: bool,
    /// What it may send although publishers are blocked.
    grant: Option<PublisherGrant>,
    patience: Duration,
}

impl PublisherBlocking {
    pub(super) fn new() -> Self {
        Self {
            has_published: false,
            stays: false,
            grant: None,
            patience: PATIENCE,
        }
    }

    pub(super) fn note_publish(&mut self) {
        self.has_published = true;
    }

    pub(super) fn has_published(&self) -> bool {
        self.has_published
    }

    /// Whether a unit of work must end because there is no memory for more messages of this
    /// connection.
    pub(super) fn is_short(&self) -> bool {
        let is_short =
            || memory::level() == MemoryLevel::Short || (self.stays && memory::is_transient_full());
        self.has_published && self.grant.is_none() && is_short()
    }

    /// Whether a unit of work must end because the grant is used up by these bytes and publishes.
    pub(super) fn is_grant_over(&self, used: usize, effects: &Effects) -> bool {
        let is_over = |grant: &PublisherGrant| grant.is_over(memory_for(used, effects));
        self.grant.as_ref().is_some_and(is_over)
    }

    /// Records what a unit of work did, which used `used` bytes from the client.
    pub(super) fn end_unit(&mut self, used: usize, effects: &Effects) {
        if let Some(stays) = effects.stays_in_memory() {
            self.stays = stays;
        }
        let Some(grant) = &mut self.grant else {
            return;
        };
        if used > 0 {
            self.patience = PATIENCE;
        }
        grant.spend(memory_for(used, effects));
        if grant.is_over(0) {
            self.grant = None;
        }
    }

    /// Whether the connection must wait now.
    pub(super) fn is_due(&self, alarms: AlarmState) -> bool {
        self.has_published && self.grant.is_none() && alarms.blocks(self.stays)
    }

    /// Waits until publishers are no longer blocked, or until the connection gets a grant. Sends
    /// `connection.blocked` if the client supports it and the reason is one that AMQP knows.
    ///
    /// A grant is requested once the client has sent something (`has_input`: it already has). For a
    /// client that was sent `connection.blocked` it is requested at once, because such a client
    /// sends nothing until it gets `connection.unblocked`.
    pub(super) async fn wait_until_unblocked(
        &self,
        context: &ConnectionContext,
        has_input: bool,
    ) -> Option<PublisherGrant> {
        let received = || context.connection.received.get();
        let before = received();
        let has_come = || has_input || received() != before;
        let mut watch = context.broker.alarms.watch();
        let mut next_grant = None;
        let mut is_informed = false;
        context.connection.set_blocked(true);
        let grant = loop {
            let alarms = *watch.borrow_and_update();
            if !alarms.blocks(self.stays) {
                break None;
            }
            let reason = alarms.blocked_reason(self.stays);
            if let Some(reason) = reason.filter(|_| !is_informed && context.wants_blocked) {
                is_informed = true;
                context.send(|out| reply::connection_blocked(out, reason));
            }
            let may_ask = next_grant.is_none() && alarms.is_memory_alone();
            if may_ask && (is_informed || has_come()) {
                next_grant = Some(self.ask_for_grant(context));
            }
            let must_check = may_ask && next_grant.is_none();
            tokio::select! {
                changed = watch.changed() => if changed.is_err() {
                    break None;
                },
                grant = receive_grant(&mut next_grant) => break grant,
                () = tokio::time::sleep(CHECK_EVERY), if must_check => {}
            }
        };
        context.connection.set_blocked(false);
        if is_informed {
            context.send(reply::connection_unblocked);
        }
        grant
    }

    fn ask_for_grant(&self, context: &ConnectionContext) -> oneshot::Receiver<PublisherGrant> {
        let holdings = &context.connection.holdings;
        let unfinished =
            holdings.bytes(HoldingKind::Unfinished) + holdings.bytes(HoldingKind::Transaction);
        let stays = self.stays || unfinished > STAYING_BYTES;
        context
            .broker
            .publisher_grants
            .request(stays, self.patience)
    }

    /// Sets the result of [`Self::wait_until_unblocked`].
    pub(super) fn set_grant(&mut self, grant: Option<PublisherGrant>) {
        self.grant = grant;
    }

    /// Waits until a grant has been idle for too long; for ever without a grant.
    pub(super) async fn idle(&self) {
        match self.grant {
            Some(_) => tokio::time::sleep(IDLE).await,
            None => pending().await,
        }
    }

    /// Ends a grant during which nothing was received. The next one takes longer.
    pub(super) fn give_up_grant(&mut self) {
        self.grant = None;
        self.patience = (2 * self.patience).min(LONGEST_PATIENCE);
    }
}

/// An upper bound of the bytes that a unit of work added to memory, if it used `used` bytes from
/// the client: a small message can go to very many queues.
fn memory_for(used: usize, effects: &Effects) -> usize {
    used + effects.published() as usize * ENTRY_BYTES
}

/// Waits for a requested grant; for ever if none was requested.
async fn receive_grant(
    next_grant: &mut Option<oneshot::Receiver<PublisherGrant>>,
) -> Option<PublisherGrant> {
    match next_grant {
        Some(receiver) => receiver.await.ok(),
        None => pending().await,
    }
}

//! Transactions: publishes and settles that wait for a commit. Relies on `publish` and `settle` for
//! what a commit does.

use std::collections::HashSet;
use std::iter::Peekable;
use std::sync::Arc;

use super::access;
use super::fan_out::{Continuation, FanOut, PublishReply};
use super::routes::TargetQueues;
use super::settle::AT_ONCE;
use super::{Channel, ChannelMode, FrameResult};
use crate::delivery::confirms::RouteOutcome;
use crate::delivery::effects::Effects;
use crate::delivery::ledger::{Credit, UnsettledDelivery};
use crate::fault::Fault;
use crate::memory::{self, ConnectionHoldings, Holding, HoldingKind};
use crate::persist::{CommitPause, Ticket};
use crate::queue::Disposition;
use crate::queue::message::Message;
use crate::vhost::Vhost;
use crate::wire::method_id::MethodId;
use crate::wire::properties::Properties;
use crate::wire::reply;

/// The contents of a transaction, in order.
#[derive(Debug)]
pub(super) struct Transaction {
    publishes: Vec<PendingPublish>,
    settles: Vec<(UnsettledDelivery, Disposition)>,
    rights: UsedRights,
    /// The addresses of the lists of queues that the publishes keep, to count each list once.
    lists: HashSet<usize>,
    holding: Holding,
    /// The deliveries of `settles`: until the commit they are the client's, as unsettled ones.
    uncommitted: Holding,
}

/// The rights by which the publishes of a transaction were accepted. The commit checks them again,
/// so that a right that was withdrawn meanwhile does not count any more.
#[derive(Debug, Default)]
struct UsedRights {
    /// The generation of the vhost before the first publish. Any change of permissions changes it.
    generation: u64,
    exchanges: HashSet<Box<[u8]>>,
    /// Users named by the property `user-id`.
    users: HashSet<Box<[u8]>>,
}

/// What a name in [`UsedRights`] takes beside its bytes.
const NAME_BYTES: usize = 64;

/// What a list in [`Transaction::lists`] takes beside its queues.
const LIST_BYTES: usize = 64;

impl UsedRights {
    /// Records the rights that a message needs. Returns the bytes that this takes.
    fn record_rights(&mut self, message: &Message, generation: u64) -> usize {
        if self.exchanges.is_empty() {
            self.generation = generation;
        }
        let content = message.content();
        let user = Properties::scan(content.properties).ok();
        let user = user.and_then(|properties| properties.user_id);
        let exchange = (&mut self.exchanges, content.exchange);
        let each = [exchange].into_iter();
        let mut taken = 0;
        for (names, name) in each.chain(user.map(|user| (&mut self.users, user))) {
            if !names.contains(name) {
                names.insert(name.into());
                taken += NAME_BYTES + name.len();
            }
        }
        taken
    }
}

#[derive(Debug)]
struct PendingPublish {
    message: Message,
    targets: TargetQueues,
    is_mandatory: bool,
}

/// A commit in progress.
#[derive(Debug)]
pub(super) struct Commit {
    publishes: std::vec::IntoIter<PendingPublish>,
    current: Option<FanOut>,
    settles: Peekable<std::vec::IntoIter<(UnsettledDelivery, Disposition)>>,
    last: Ticket,
    /// Whether a queue refused a publish. The commit completes everything else, and then fails.
    is_refused: bool,
    /// One commit of the store: after a crash the transaction is whole or absent.
    whole: CommitPause,
    /// Kept until the end: what is committed is still in memory.
    _holding: Holding,
    /// The deliveries of `settles`.
    uncommitted: Holding,
}

impl Transaction {
    pub(super) fn new(holdings: &Arc<ConnectionHoldings>) -> Self {
        Self {
            publishes: Vec::new(),
            settles: Vec::new(),
            rights: UsedRights::default(),
            lists: HashSet::new(),
            holding: Holding::new(holdings, HoldingKind::Transaction),
            uncommitted: Holding::new(holdings, HoldingKind::Unsettled),
        }
    }

    /// Adds a publish that was accepted in this generation of the vhost, unless the transaction
    /// would be larger than its connection's part of memory.
    pub(super) fn publish(
        &mut self,
        (message, generation): (Message, u64),
        targets: TargetQueues,
        is_mandatory: bool,
    ) -> Result<(), Fault> {
        let names = self.rights.record_rights(&message, generation);
        let more = names + self.record_targets(&targets) + size_of::<PendingPublish>();
        // What the commit adds to memory: an entry in each queue, which is charged then.
        let entries = targets.len() * memory::ENTRY_CHARGE_BYTES;
        self.charge(message.footprint() + entries, more);
        self.publishes.push(PendingPublish {
            message,
            targets,
            is_mandatory,
        });
        self.check()
    }

    /// Records a list of queues. Returns the bytes that this takes.
    fn record_targets(&mut self, targets: &TargetQueues) -> usize {
        let is_new = self.lists.insert(targets.as_ptr().addr());
        if is_new {
            LIST_BYTES + size_of_val(&**targets)
        } else {
            0
        }
    }

    pub(super) fn settle(
        &mut self,
        deliveries: impl Iterator<Item = UnsettledDelivery>,
        disposition: Disposition,
    ) {
        let before = self.settles.len();
        let deliveries = deliveries.map(|mut delivery| {
            // Its publisher is confirmed with the batch: the settle may never be committed.
            delivery.entry.confirm = None;
            (delivery, disposition)
        });
        self.settles.extend(deliveries);
        let added = &self.settles[before..];
        let bytes = added.iter().map(|(delivery, _)| delivery.entry.footprint());
        let bytes = self.uncommitted.bytes() + bytes.sum::<usize>();
        let places = size_of_val(added);
        self.uncommitted.set(bytes, 0);
        self.charge(0, places);
    }

    /// Adds `bytes` that are on the account already and `more` that are not.
    fn charge(&mut self, bytes: usize, more: usize) {
        let (all, charged) = (self.holding.bytes(), self.holding.charged());
        self.holding.set(all + bytes + more, charged + more);
    }

    fn check(&self) -> Result<(), Fault> {
        if self.holding.is_within_limit() {
            return Ok(());
        }
        Err(Fault::precondition(format!(
            "a transaction may hold {} bytes, and all together twice as much",
            memory::connection_limit()
        )))
    }

    /// Returns the deliveries whose settles are rolled back.
    pub(super) fn take_settled(&mut self) -> Vec<UnsettledDelivery> {
        self.publishes = Vec::new();
        self.rights = UsedRights::default();
        self.lists = HashSet::new();
        self.holding.set(0, 0);
        self.uncommitted.set(0, 0);
        std::mem::take(&mut self.settles)
            .into_iter()
            .map(|(delivery, _)| delivery)
            .collect()
    }
}

impl Channel {
    pub(super) fn tx_select(&mut self, effects: &mut Effects) -> Result<FrameResult, Fault> {
        match self.mode {
            ChannelMode::Confirming(_) => {
                return Err(Fault::precondition("cannot switch from confirm to tx mode"));
            }
            ChannelMode::Transactional(_) => {}
            ChannelMode::Plain => {
                let transaction = Transaction::new(&self.context.connection.holdings);
                self.mode = ChannelMode::Transactional(Box::new(transaction));
                self.view
                    .is_transactional
                    .store(true, std::sync::atomic::Ordering::Relaxed);
            }
        }
        self.send(effects, |out, channel| {
            reply::empty_method(out, channel, MethodId::TX_SELECT_OK);
        });
        Ok(FrameResult::Done)
    }

    /// Takes the open transaction; the next one has begun.
    fn transaction(&mut self) -> Result<Transaction, Fault> {
        let holdings = &self.context.connection.holdings;
        match &mut self.mode {
            ChannelMode::Transactional(transaction) => {
                let next = Transaction::new(holdings);
                Ok(std::mem::replace(&mut **transaction, next))
            }
            _ => Err(Fault::precondition("channel is not transactional")),
        }
    }

    /// Refuses a commit if a right that it needs was withdrawn.
    fn check_rights(&self) -> Result<(), Fault> {
        let ChannelMode::Transactional(transaction) = &self.mode else {
            return Ok(());
        };
        let rights = &transaction.rights;
        if rights.exchanges.is_empty() || rights.generation == self.context.vhost.generation() {
            return Ok(());
        }
        for exchange in &rights.exchanges {
            let name = std::str::from_utf8(exchange).unwrap_or_default();
            access::check_write_exchange(&self.context, name)?;
        }
        let mut users = rights.users.iter();
        users.try_for_each(|user| access::check_user_id(&self.context, user, None))
    }

    pub(super) fn tx_commit(&mut self, effects: &mut Effects) -> Result<FrameResult, Fault> {
        self.check_rights()?;
        let transaction = self.transaction()?;
        let commit = Commit {
            publishes: transaction.publishes.into_iter(),
            current: None,
            settles: transaction.settles.into_iter().peekable(),
            last: Ticket::NONE,
            is_refused: false,
            whole: self.context.vhost.pause_commits(),
            _holding: transaction.holding,
            uncommitted: transaction.uncommitted,
        };
        self.commit(Box::new(commit), effects)
    }

    /// Whether a commit goes on in the next unit of work.
    pub(crate) fn is_committing(&self) -> bool {
        matches!(self.continuation, Some(Continuation::Commit(_)))
    }

    /// Whether the store's commits wait for that commit.
    pub(crate) fn is_commit_awaited(&self) -> bool {
        match &self.continuation {
            Some(Continuation::Commit(commit)) => commit.whole.is_awaited(),
            _ => false,
        }
    }

    /// Commits as far as the budget allows.
    pub(super) fn commit(
        &mut self,
        mut commit: Box<Commit>,
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        while let Some(mut publish) = commit.next_publish(&self.context.vhost, effects) {
            match self.advance_commit(&mut publish, effects)? {
                None => {
                    commit.current = Some(publish);
                    self.continuation = Some(Continuation::Commit(commit));
                    return Ok(FrameResult::Unfinished);
                }
                Some(RouteOutcome::Ticket(ticket)) => commit.last = commit.last.max(ticket),
                Some(RouteOutcome::Refused) => commit.is_refused = true,
            }
            if effects.is_spent() && commit.has_more() {
                self.continuation = Some(Continuation::Commit(commit));
                return Ok(FrameResult::Unfinished);
            }
        }
        let mut run = Vec::new();
        while let Some(disposition) = commit.next_settles(&mut run) {
            self.settle_in_queues(&mut run, (disposition, Credit::Later), effects)?;
            if effects.is_spent() && commit.settles.peek().is_some() {
                self.continuation = Some(Continuation::Commit(commit));
                return Ok(FrameResult::Unfinished);
            }
        }
        if commit.is_refused {
            return Err(Fault::precondition("partial tx completion"));
        }
        Ok(self.reply_after(commit.last, effects, |out, channel| {
            reply::empty_method(out, channel, MethodId::TX_COMMIT_OK);
        }))
    }

    pub(super) fn tx_rollback(&mut self, effects: &mut Effects) -> Result<FrameResult, Fault> {
        let mut transaction = self.transaction()?;
        self.ledger.put_back(transaction.take_settled(), effects);
        self.send(effects, |out, channel| {
            reply::empty_method(out, channel, MethodId::TX_ROLLBACK_OK);
        });
        Ok(FrameResult::Done)
    }
}

impl Commit {
    /// Whether publishes or settles are left that were not begun.
    fn has_more(&mut self) -> bool {
        self.publishes.len() > 0 || self.settles.peek().is_some()
    }

    /// Moves the next settles of one kind into `run`. `None` after the last.
    fn next_settles(&mut self, run: &mut Vec<UnsettledDelivery>) -> Option<Disposition> {
        let (first, disposition) = self.settles.next()?;
        run.push(first);
        while run.len() < AT_ONCE
            && let Some((delivery, _)) = self.settles.next_if(|(_, next)| *next == disposition)
        {
            run.push(delivery);
        }
        // These make room for the next deliveries of their queues.
        let bytes = run.iter().map(|delivery| delivery.entry.footprint());
        let left = self.uncommitted.bytes().saturating_sub(bytes.sum());
        self.uncommitted.set(left, 0);
        Some(disposition)
    }

    /// Returns the publish in progress, or the next one. Its time to live starts now.
    fn next_publish(&mut self, vhost: &Arc<Vhost>, effects: &Effects) -> Option<FanOut> {
        self.current.take().or_else(|| {
            let publish = self.publishes.next()?;
            let message = publish.message.published_at(effects.now_ms);
            let reply = PublishReply::ByCommit(Arc::clone(vhost));
            Some(FanOut::new(
                message,
                publish.targets,
                publish.is_mandatory,
                reply,
            ))
        })
    }
}

#[cfg(test)]
mod tests;

//! Declares and deletes queues. Depends on `detaching` for the bindings to them.

use std::sync::Arc;

use super::{Destination, Vhost, check_name, check_room};
use crate::delivery::effects::{Effects, REMOVAL_STEPS};
use crate::fault::{Fault, ReplyCode};
use crate::lock::{lock, read, write};
use crate::persist::{QueueStore, Ticket};
use crate::queue::arguments::{ArgumentError, QueueArguments};
use crate::queue::closing::{CancelledConsumers, CloseCondition, KeptQueue};
use crate::queue::{Queue, QueueIdentity};
use crate::wire::table::Table;

/// Who declares a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeclareOrigin {
    Client,
    /// A line of definitions, which a broker may have written that accepts more.
    Definitions,
}

/// The arguments of a queue declare.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "the protocol's own bits")]
pub(crate) struct Declare<'a> {
    pub(crate) name: &'a str,
    pub(crate) durable: bool,
    pub(crate) exclusive: bool,
    pub(crate) auto_delete: bool,
    /// Whether the server generated the name, which allows the reserved prefix.
    pub(crate) is_server_named: bool,
    pub(crate) origin: DeclareOrigin,
    pub(crate) arguments: Table,
    pub(crate) connection: u64,
    /// The maximum number of queues in a vhost.
    pub(crate) limit: usize,
}

#[cfg(test)]
impl<'a> Declare<'a> {
    /// A queue without arguments that no store keeps, for connection 1.
    pub(crate) fn transient(name: &'a str) -> Self {
        Self {
            name,
            durable: false,
            exclusive: false,
            auto_delete: false,
            is_server_named: false,
            origin: DeclareOrigin::Client,
            arguments: Table::new(),
            connection: 1,
            limit: usize::MAX,
        }
    }
}

/// The result of a declare.
#[derive(Debug)]
pub(crate) struct Declared {
    pub(crate) queue: Arc<Queue>,
    /// The declare is durable when this ticket is committed.
    pub(crate) ticket: Ticket,
}

/// The conditions of a delete.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct DeleteCondition {
    pub(crate) unused: bool,
    pub(crate) empty: bool,
    /// Only if its lease is over, by the clock of the unit of work.
    pub(crate) expired: bool,
    /// The connection that asks, or `None` for the server itself.
    pub(crate) connection: Option<u64>,
}

impl DeleteCondition {
    fn of_queue(self) -> CloseCondition {
        CloseCondition {
            unused: self.unused,
            empty: self.empty,
            expired: self.expired,
        }
    }
}

impl Vhost {
    /// Creates a queue, or checks that the existing one is equivalent. `None` while bindings to an
    /// older one of its name are left: the caller tries again.
    pub(crate) fn declare_queue(
        &self,
        declare: Declare<'_>,
        effects: &mut Effects,
    ) -> Result<Option<Declared>, Fault> {
        if !declare.is_server_named {
            check_name("queue", declare.name)?;
        }
        let mut tables = loop {
            if let Some(queue) = self.queue(declare.name)
                && let Some(declared) = self.declared_already(queue, &declare, effects)?
            {
                return Ok(Some(declared));
            }
            // A queue that was just deleted has left them once they are locked.
            let tables = self.open_tables()?;
            if !tables.queues.contains_key(declare.name) {
                break tables;
            }
        };
        let arguments = match declare.origin {
            DeclareOrigin::Client => QueueArguments::parse(&declare.arguments),
            DeclareOrigin::Definitions => QueueArguments::parse_stored(&declare.arguments),
        };
        let arguments = arguments.map_err(|error| self.argument_fault(&error, declare.name))?;
        if tables
            .detaching
            .has(|| Destination::Queue(declare.name.into()))
        {
            return Ok(None);
        }
        if tables.queues.len() >= declare.limit {
            let reason = format!(
                "cannot declare queue '{}': queue limit in vhost '{}' ({}) is reached",
                declare.name, self.name, declare.limit
            );
            return Err(Fault::precondition(reason));
        }
        let identity = QueueIdentity {
            name: declare.name.into(),
            vhost: Arc::clone(&self.name),
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            owner: declare.exclusive.then_some(declare.connection),
            arguments,
            table: declare.arguments,
        };
        check_room(Queue::footprint(&identity), || {
            format!("declare queue '{}' in vhost '{}'", identity.name, self.name)
        })?;
        let (store, ticket) = self.open_store(&identity)?;
        let queue = Arc::new(Queue::new(identity, store, effects.now_ms));
        tables
            .queues
            .insert(Arc::clone(queue.name()), Arc::clone(&queue));
        if let Some(owner) = queue.identity.owner {
            tables.exclusive.insert((owner, Arc::clone(queue.name())));
        }
        self.move_on();
        drop(tables);
        queue.touch(effects);
        Ok(Some(Declared { queue, ticket }))
    }

    /// Reserves a place in the store for a queue that survives a restart. An exclusive queue does
    /// not: it ends with its connection.
    fn open_store(&self, identity: &QueueIdentity) -> Result<(Option<QueueStore>, Ticket), Fault> {
        if !identity.durable || identity.owner.is_some() {
            return Ok((None, Ticket::NONE));
        }
        let levels = u64::from(identity.arguments.max_priority.unwrap_or(0)) + 1;
        let store = self.definitions.queue_store(levels)?;
        let ticket = self
            .definitions
            .save(&self.queue_definition(identity, store.base()))?;
        Ok((Some(store), self.note_change(ticket)))
    }

    /// Refuses a declare that is not equivalent to the existing queue.
    pub(crate) fn check_same(&self, queue: &Queue, declare: &Declare<'_>) -> Result<(), Fault> {
        let (name, is) = (declare.name, &queue.identity);
        if is.owner != declare.exclusive.then_some(declare.connection) {
            return Err(Fault::locked(name, &self.name));
        }
        for (field, received, current) in [
            ("durable", declare.durable, is.durable),
            ("auto_delete", declare.auto_delete, is.auto_delete),
        ] {
            if received != current {
                let reason = format!(
                    "inequivalent arg '{field}' for queue '{name}' in vhost '{}': \
                     received '{received}' but current is '{current}'",
                    self.name
                );
                return Err(Fault::precondition(reason));
            }
        }
        QueueArguments::check_equivalent(&is.table, &declare.arguments)
            .map_err(|error| self.argument_fault(&error, name))
    }

    /// A declare of a queue that exists. `None` if the queue has just been deleted.
    fn declared_already(
        &self,
        queue: Arc<Queue>,
        declare: &Declare<'_>,
        effects: &mut Effects,
    ) -> Result<Option<Declared>, Fault> {
        self.check_same(&queue, declare)?;
        if !queue.touch(effects) {
            return Ok(None);
        }
        let ticket = if queue.store().is_some() {
            self.note_change(Ticket::NONE)
        } else {
            Ticket::NONE
        };
        Ok(Some(Declared { queue, ticket }))
    }

    fn argument_fault(&self, error: &ArgumentError, queue: &str) -> Fault {
        let text = error.text(queue, &self.name);
        match error {
            ArgumentError::Stream => Fault::connection(ReplyCode::NotImplemented, text),
            _ => Fault::precondition(text),
        }
    }

    /// Deletes a queue by name. Returns the number of its ready messages. A missing queue counts as
    /// deleted.
    pub(crate) fn delete_queue(
        &self,
        name: &str,
        condition: DeleteCondition,
        effects: &mut Effects,
    ) -> Result<(u64, Ticket), Fault> {
        match self.queue(name) {
            Some(queue) => self.remove_queue(&queue, condition, effects),
            None => Ok((0, Ticket::NONE)),
        }
    }

    /// Deletes exactly this queue. A newer queue of the same name stays.
    pub(crate) fn remove_queue(
        &self,
        queue: &Arc<Queue>,
        condition: DeleteCondition,
        effects: &mut Effects,
    ) -> Result<(u64, Ticket), Fault> {
        if let Some(connection) = condition.connection {
            queue.check_access(connection)?;
        }
        let mut tables = write(&self.tables);
        if !tables
            .queues
            .get(queue.name())
            .is_some_and(|other| Arc::ptr_eq(other, queue))
        {
            return Ok((0, Ticket::NONE));
        }
        // First: what the conditions say stays true, and no message enters the store behind the
        // deletion.
        let closed = match queue.close_if(condition.of_queue(), effects.now_ms) {
            Ok(closed) => closed,
            Err(KeptQueue::NotExpired) => return Ok((0, Ticket::NONE)),
            Err(kept) => return Err(self.kept_fault(queue, kept)),
        };
        tables.queues.remove(queue.name());
        if let Some(owner) = queue.identity.owner {
            tables.exclusive.remove(&(owner, Arc::clone(queue.name())));
        }
        self.move_on();
        // The queue, its messages and its bindings, where they are not very many, are deleted in
        // one commit.
        let whole = self.definitions.pause_commits();
        let mut ticket = self.detach_queue(&mut tables, queue.name(), effects)?;
        drop(tables);
        effects.cancel(CancelledConsumers::new(
            closed.consumers,
            condition.connection,
        ));
        let mut removed = queue.remove_ready(effects);
        if let Some(store) = queue.store() {
            store.drop_all(queue.identity.arguments.max_priority.unwrap_or(0))?;
            ticket = ticket.max(
                self.definitions
                    .forget(&self.queue_definition(&queue.identity, store.base()))?,
            );
            self.note_change(ticket);
        }
        drop(whole);
        if removed.end_some(effects)? {
            effects.removed.push(removed);
        }
        let counters = queue.snapshot().counters;
        *lock(&self.deleted_queues) += counters;
        Ok((closed.ready, ticket))
    }

    fn kept_fault(&self, queue: &Queue, kept: KeptQueue) -> Fault {
        let why = match kept {
            KeptQueue::InUse | KeptQueue::NotExpired => "in use",
            KeptQueue::NotEmpty => "not empty",
        };
        let (name, vhost) = (queue.name(), &self.name);
        Fault::precondition(format!("queue '{name}' in vhost '{vhost}' {why}"))
    }

    /// Deletes an auto-delete queue unless it has a consumer again.
    pub(crate) fn remove_unused(&self, queue: &Arc<Queue>, effects: &mut Effects) {
        let condition = DeleteCondition {
            unused: true,
            ..DeleteCondition::default()
        };
        if let Err(fault) = self.remove_queue(queue, condition, effects) {
            tracing::debug!(queue = %queue.name(), %fault, "an auto-delete queue is kept");
        }
    }

    /// Deletes every exclusive queue of a closed connection, and returns true. Returns false when
    /// the budget is spent before that; the next unit of work calls it again.
    pub(crate) fn remove_exclusive(&self, connection: u64, effects: &mut Effects) -> bool {
        while let Some(queue) = self.exclusive_queue(connection) {
            if effects.is_spent() {
                return false;
            }
            effects.spend(REMOVAL_STEPS);
            if let Err(fault) = self.remove_queue(&queue, DeleteCondition::default(), effects) {
                tracing::warn!(
                    queue = %queue.name(), %fault,
                    "an exclusive queue could not be deleted"
                );
            }
        }
        true
    }

    /// Any exclusive queue of a connection.
    fn exclusive_queue(&self, connection: u64) -> Option<Arc<Queue>> {
        let tables = read(&self.tables);
        let (owner, name) = tables.exclusive.range((connection, "".into())..).next()?;
        let queue = tables.queues.get(name).filter(|_| *owner == connection);
        queue.cloned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::broker_state::BrokerState;
    use crate::queue::message::Message;
    use crate::queue::{ConfirmMode, PublishResult};
    use crate::tests::opened;
    use crate::vhost::{BindRequest, Destination};

    fn declare(broker: &Arc<BrokerState>, name: &str, connection: u64, exclusive: bool) {
        let declare = Declare {
            exclusive,
            connection,
            ..Declare::transient(name)
        };
        let mut effects = broker.begin_unit();
        let vhost = broker.vhost("/").unwrap();
        vhost.declare_queue(declare, &mut effects).unwrap();
        broker.end_unit(effects);
    }

    #[tokio::test]
    async fn the_exclusive_queues_of_a_connection_go_with_it_and_no_others() {
        let (broker, _kept) = opened().await;
        let vhost = broker.vhost("/").unwrap();
        for name in ["a", "b", "once exclusive"] {
            declare(&broker, name, 2, true);
        }
        declare(&broker, "again", 2, true);
        declare(&broker, "again", 2, true);
        declare(&broker, "of the one before", 1, true);
        declare(&broker, "of the next one", 3, true);
        let mut effects = Effects::new(0);
        let condition = DeleteCondition::default();
        let name = "once exclusive";
        vhost.delete_queue(name, condition, &mut effects).unwrap();
        declare(&broker, name, 2, false);
        assert!(vhost.remove_exclusive(2, &mut effects));
        let mut left: Vec<_> = vhost.queues();
        left.sort_by(|one, other| one.name().cmp(other.name()));
        let names: Vec<_> = left.iter().map(|queue| &**queue.name()).collect();
        assert_eq!(names, ["of the next one", "of the one before", name]);
        assert!(read(&vhost.tables).exclusive.len() == 2);
        broker.store.clone().close().unwrap();
    }

    /// A queue with many bindings, so that its deletion takes a while. `act` is called at some time
    /// during the deletion, later in each round, and gives what the queue answered.
    fn delete_while<R: Send>(
        vhost: &Vhost,
        condition: DeleteCondition,
        round: u32,
        act: impl Fn(&Arc<Queue>) -> R + Sync,
    ) -> (bool, R) {
        let mut effects = Effects::new(0);
        let declared = vhost.declare_queue(Declare::transient("q"), &mut effects);
        let queue = declared.unwrap().unwrap().queue;
        for key in 0..250_u8 {
            let bind = BindRequest {
                key: vec![key].into(),
                connection: 1,
                ..BindRequest::plain("amq.direct", Destination::Queue("q".into()))
            };
            vhost.bind(bind).unwrap();
        }
        let barrier = std::sync::Barrier::new(2);
        let (deleted, answer) = std::thread::scope(|scope| {
            let acting = scope.spawn(|| {
                barrier.wait();
                (0..100 * round).for_each(|_| std::hint::spin_loop());
                act(&queue)
            });
            barrier.wait();
            let deleted = vhost.delete_queue("q", condition, &mut effects);
            (deleted.is_ok(), acting.join().unwrap())
        });
        if !deleted {
            let condition = DeleteCondition::default();
            vhost.delete_queue("q", condition, &mut effects).unwrap();
        }
        (deleted, answer)
    }

    /// It was looked at before the bindings were removed, and the queue was closed after that: a
    /// message was confirmed, and deleted with the queue.
    #[tokio::test]
    async fn a_queue_that_is_deleted_if_empty_has_taken_no_message_meanwhile() {
        let (broker, _kept) = opened().await;
        let vhost = broker.vhost("/").unwrap();
        let message = Message::transient((b"", b"q"), b"x");
        let condition = DeleteCondition {
            empty: true,
            ..DeleteCondition::default()
        };
        for round in 0..300 {
            let publish = |queue: &Arc<Queue>| {
                let published = queue.publish(&message, ConfirmMode::Nothing, &mut Effects::new(0));
                published.unwrap()
            };
            let (deleted, published) = delete_while(&vhost, condition, round, publish);
            assert_eq!(deleted, published == PublishResult::Gone, "round {round}");
        }
        broker.store.clone().close().unwrap();
    }
}

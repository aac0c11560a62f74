//! The read interface of the management API and the metrics: views of queues, consumers, exchanges
//! and connections. A view of a queue or a consumer takes a lock only while it is asked; one of an
//! exchange exists only while its vhost's tables are locked. None changes anything. Depends on
//! `broker_state` and all below it.

use std::sync::Arc;

pub(crate) use crate::exchange::Binding;
pub(crate) use crate::queue::QueueSnapshot;
pub(crate) use crate::queue::browse::{BrowseLimit, QueuePosition, WaitingMessage};
pub(crate) use crate::queue::message::Message;
pub(crate) use crate::registry::{ChannelView, ConnectionHandle};

use crate::broker_state::BrokerState;
use crate::exchange::{Declaration, Exchange, ExchangeType};
use crate::fault::Fault;
use crate::lock::lock;
use crate::persist::ReadFailed;
use crate::queue::Queue;
use crate::queue::consumer::Consumer;
use crate::vhost::{Destination, Vhost};
use crate::wire::table::Table;

/// The types of exchanges.
pub(crate) const EXCHANGE_TYPES: [ExchangeType; 4] = [
    ExchangeType::Direct,
    ExchangeType::Fanout,
    ExchangeType::Topic,
    ExchangeType::Headers,
];

/// Returns every open connection.
pub(crate) fn connections(broker: &BrokerState) -> Vec<Arc<ConnectionHandle>> {
    broker.connections()
}

/// Returns the open connection of this number.
pub(crate) fn connection(broker: &BrokerState, id: u64) -> Option<Arc<ConnectionHandle>> {
    lock(&broker.connections).get(&id).cloned()
}

/// Returns the bytes that the store has on disk, and those that wait for their commit.
pub(crate) fn store_bytes(broker: &BrokerState) -> (u64, u64) {
    let store = &broker.store;
    (store.disk_bytes(), store.pending_bytes() as u64)
}

/// Returns all queues of a vhost, in no particular order.
pub(crate) fn queues(vhost: &Vhost) -> impl Iterator<Item = QueueView> + use<> {
    vhost.queues().into_iter().map(QueueView)
}

/// Returns the queue of this name.
pub(crate) fn queue(vhost: &Vhost, name: &str) -> Option<QueueView> {
    vhost.queue(name).map(QueueView)
}

/// Returns the sums of a vhost's deleted queues.
pub(crate) fn deleted_queues(vhost: &Vhost) -> QueueSnapshot {
    QueueSnapshot {
        counters: vhost.deleted_queues(),
        ..QueueSnapshot::default()
    }
}

/// Calls `with` on every exchange of a vhost, in no particular order.
pub(crate) fn each_exchange(vhost: &Vhost, mut with: impl FnMut(ExchangeView<'_>)) {
    vhost.each_exchange(|exchange| with(ExchangeView { vhost, exchange }));
}

/// Calls `with` on the exchange of this name.
pub(crate) fn with_exchange<R>(
    vhost: &Vhost,
    name: &str,
    with: impl FnOnce(ExchangeView<'_>) -> R,
) -> Option<R> {
    vhost.with_exchange(name, |exchange| with(ExchangeView { vhost, exchange }))
}

/// A queue.
#[derive(Debug, Clone)]
pub(crate) struct QueueView(Arc<Queue>);

impl QueueView {
    pub(crate) fn name(&self) -> &Arc<str> {
        self.0.name()
    }

    pub(crate) fn vhost(&self) -> &Arc<str> {
        self.0.vhost()
    }

    pub(crate) fn is_durable(&self) -> bool {
        self.0.identity.durable
    }

    pub(crate) fn is_auto_delete(&self) -> bool {
        self.0.identity.auto_delete
    }

    /// The connection that alone may use it.
    pub(crate) fn owner(&self) -> Option<u64> {
        self.0.identity.owner
    }

    /// Refuses a connection that is not the owner of an exclusive queue; 0 owns none.
    pub(crate) fn check_access(&self, connection: u64) -> Result<(), Fault> {
        self.0.check_access(connection)
    }

    /// The arguments as the client sent them.
    pub(crate) fn arguments(&self) -> &Table {
        &self.0.identity.table
    }

    pub(crate) fn snapshot(&self) -> QueueSnapshot {
        self.0.snapshot()
    }

    /// The number of consumers.
    pub(crate) fn consumer_count(&self) -> usize {
        self.0.counts().1
    }

    pub(crate) fn consumers(&self) -> Vec<ConsumerView> {
        self.0.with(|state| {
            let consumers = &state.consumers;
            let view = |consumer| ConsumerView {
                consumer: Arc::clone(consumer),
                is_active: consumers.is_active(consumer),
            };
            consumers.iter().map(view).collect()
        })
    }

    /// The tags of the single active consumer and of the exclusive one, where it has them.
    pub(crate) fn special_consumers(&self) -> (Option<Arc<str>>, Option<Arc<str>>) {
        self.0.with(|state| {
            let tag = |consumer: &Arc<Consumer>| Arc::clone(&consumer.subscription.tag);
            let mut all = state.consumers.iter();
            let exclusive = all.find(|consumer| consumer.subscription.exclusive);
            (state.consumers.single().map(tag), exclusive.map(tag))
        })
    }

    /// Reads messages that wait behind a position and leaves them where they are. May block on the
    /// disk. `charge` is called before with the bytes that it takes, and may refuse.
    pub(crate) fn browse<E: From<ReadFailed>>(
        &self,
        after: Option<QueuePosition>,
        most: BrowseLimit,
        charge: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<Vec<WaitingMessage>, E> {
        self.0.browse(after, most, charge)
    }
}

/// A consumer of a queue.
#[derive(Debug)]
pub(crate) struct ConsumerView {
    consumer: Arc<Consumer>,
    is_active: bool,
}

impl ConsumerView {
    pub(crate) fn tag(&self) -> &str {
        &self.consumer.subscription.tag
    }

    /// The number of its connection, and that of its channel there.
    pub(crate) fn channel(&self) -> (u64, u16) {
        let subscription = &self.consumer.subscription;
        (subscription.connection, subscription.framing.channel)
    }

    /// Whether its deliveries must be acknowledged.
    pub(crate) fn is_acking(&self) -> bool {
        !self.consumer.subscription.no_ack
    }

    pub(crate) fn is_exclusive(&self) -> bool {
        self.consumer.subscription.exclusive
    }

    /// Whether it is given messages: false beside a single active consumer.
    pub(crate) fn is_active(&self) -> bool {
        self.is_active
    }

    pub(crate) fn prefetch(&self) -> u32 {
        self.consumer.subscription.prefetch
    }

    pub(crate) fn arguments(&self) -> &Table {
        &self.consumer.subscription.arguments
    }
}

/// An exchange, while its vhost's tables are locked for reading.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExchangeView<'a> {
    vhost: &'a Vhost,
    exchange: &'a Exchange<Destination>,
}

impl<'a> ExchangeView<'a> {
    pub(crate) fn name(&self) -> &'a str {
        self.exchange.name()
    }

    pub(crate) fn vhost(&self) -> &'a Arc<str> {
        self.vhost.name()
    }

    pub(crate) fn declaration(&self) -> &'a Declaration {
        self.exchange.declaration()
    }

    /// How many messages came in, and to how many queues they went.
    pub(crate) fn counts(&self) -> [u64; 2] {
        let counters = self.exchange.counters();
        [counters.published.get(), counters.routed.get()]
    }

    /// The bindings to one destination.
    pub(crate) fn bindings_to(
        &self,
        destination: &Destination,
    ) -> impl Iterator<Item = Binding<'a, Destination>> {
        self.exchange.bindings_to(destination)
    }

    pub(crate) fn bindings(&self) -> impl Iterator<Item = Binding<'a, Destination>> + use<'a> {
        self.exchange.bindings()
    }
}

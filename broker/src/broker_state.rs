//! What all connections share: vhosts, users, the store and how far it is durable, the clock,
//! limits. Relies on `vhost`, `persist` and `users`.
//!
//! A unit of work ends here: dead letters are routed, unused queues removed, due confirms sent, and
//! writers are woken last.

mod administration;
mod busy_mark;
mod cancelling;
mod confirming;
mod dead_lettering;
mod detaching;
mod every_queue;
mod memory_relief;
mod queue_timers;
mod removed_messages;
mod vhost_removal;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};

use crate::alarms::{AlarmState, Alarms};
use crate::clock::Clock;
use crate::config::ClientLimits;
use crate::delivery::budget::StepBudget;
use crate::delivery::cascade::LetterBacklog;
use crate::delivery::confirms::AwaitingConfirms;
use crate::delivery::effects::{Effects, REMOVAL_STEPS};
use crate::delivery::ends::EndSender;
use crate::delivery::outbox::Outbox;
use crate::fault::Fault;
use crate::lock::{lock, read};
use crate::login_places::LoginPlaces;
use crate::login_throttle::LoginThrottle;
use crate::memory_watch::MemoryWatch;
use crate::persist::definition::SignInDefinition;
use crate::persist::{DefinitionStore, Store, Ticket};
use crate::publisher_grants::PublisherGrants;
use crate::queue::Queue;
use crate::queue::level::LoadRequest;
use crate::quotas::Quotas;
use crate::registry::ConnectionHandle;
use crate::stats::Totals;
use crate::tap::{Tap, TapQueue, TapReaders};
use crate::time::now_ms;
use crate::users::Users;
use crate::vhost::Vhost;

pub(crate) use administration::{check_access_room, permission_definition};
pub(crate) use busy_mark::BusyMark;

/// The memory for the messages that all queues together read at the start.
const LOOK_AHEAD_BYTES: usize = 32 * 1024 * 1024;

/// Reads of the store at once: each brings a slice of a queue into memory.
const LOADS: usize = 8;

/// The broker as its connections see it.
#[derive(Debug)]
pub struct BrokerState {
    pub(crate) limits: ClientLimits,
    /// Exchanges to which every message must carry its publisher's own name or none.
    pub(crate) own_names_at: &'static [&'static str],
    pub(crate) store: Store,
    pub(crate) definitions: DefinitionStore,
    pub(crate) alarms: Arc<Alarms>,
    pub(crate) clock: Clock,
    memory_watch: MemoryWatch,
    /// What publishers may send while memory is short.
    pub(crate) publisher_grants: Arc<PublisherGrants>,
    /// Reads of the store that may be under way at once.
    loads: Arc<Semaphore>,
    /// Those of them that may make dead letters.
    letter_loads: Arc<Semaphore>,
    /// Users, their passwords and their permissions.
    pub users: RwLock<Users>,
    /// How much vhosts and users may open and declare. Changed by [`Self::change_quota`] alone.
    pub(crate) quotas: RwLock<Quotas>,
    /// Delays logins after wrong passwords.
    pub(crate) throttle: LoginThrottle,
    /// Connections without a login.
    pub(crate) login_places: Arc<LoginPlaces>,
    /// The sign-ins at the management page from before the start; that page takes them.
    pub(crate) sign_ins: Mutex<Vec<SignInDefinition>>,
    /// Counts changes of users and permissions.
    pub(crate) access_changes: watch::Sender<u64>,
    /// Counted since the start.
    pub totals: Totals,
    /// The recent traffic, for the listeners of the tap.
    pub tap: Arc<Tap>,
    /// Reports ended messages to the program's observer.
    ends: Option<EndSender>,
    /// Deleted queues whose messages are still being freed.
    freeing: AtomicU32,
    vhosts: RwLock<BTreeMap<Arc<str>, Arc<Vhost>>>,
    /// Names of vhosts that have left `vhosts` and are being deleted.
    vhosts_being_deleted: Mutex<HashSet<Arc<str>>>,
    pub(crate) connections: Mutex<HashMap<u64, Arc<ConnectionHandle>>>,
    next_id: AtomicU64,
    /// Connections that have work left over from their last unit of work.
    busy: AtomicU32,
    /// Channels whose confirms wait for the store.
    awaiting: AwaitingConfirms,
    /// Dead letters that units of work had no budget for.
    letters: LetterBacklog,
    /// Notified whenever a queue has loaded a slice, or a large deletion is over.
    pub(crate) loaded: Notify,
}

/// The parts of a new [`BrokerState`].
pub(crate) struct BrokerParts {
    pub(crate) limits: ClientLimits,
    pub(crate) own_names_at: &'static [&'static str],
    pub(crate) memory_limit: u64,
    pub(crate) store: Store,
    pub(crate) definitions: DefinitionStore,
    pub(crate) alarms: Arc<Alarms>,
    pub(crate) users: Users,
    pub(crate) quotas: Quotas,
    pub(crate) sign_ins: Vec<SignInDefinition>,
    pub(crate) vhosts: Vec<Vhost>,
    pub(crate) ends: Option<EndSender>,
}

impl BrokerState {
    pub(crate) fn new(parts: BrokerParts) -> Self {
        let vhosts = parts
            .vhosts
            .into_iter()
            .map(|vhost| (Arc::clone(vhost.name()), Arc::new(vhost)))
            .collect();
        Self {
            limits: parts.limits,
            own_names_at: parts.own_names_at,
            store: parts.store,
            definitions: parts.definitions,
            alarms: parts.alarms,
            clock: Clock::default(),
            memory_watch: MemoryWatch::new(parts.memory_limit),
            publisher_grants: Arc::default(),
            loads: Arc::new(Semaphore::new(LOADS)),
            letter_loads: Arc::new(Semaphore::new(LOADS)),
            users: RwLock::new(parts.users),
            quotas: RwLock::new(parts.quotas),
            throttle: LoginThrottle::default(),
            login_places: Arc::default(),
            access_changes: watch::Sender::default(),
            sign_ins: Mutex::new(parts.sign_ins),
            totals: Totals::default(),
            tap: Arc::default(),
            ends: parts.ends,
            freeing: AtomicU32::new(0),
            vhosts: RwLock::new(vhosts),
            vhosts_being_deleted: Mutex::default(),
            connections: Mutex::default(),
            next_id: AtomicU64::new(1),
            busy: AtomicU32::new(0),
            awaiting: AwaitingConfirms::default(),
            letters: LetterBacklog::default(),
            loaded: Notify::new(),
        }
    }

    /// A number that no other connection has had.
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Relaxed)
    }

    /// The vhost with this name.
    pub fn vhost(&self, name: &str) -> Option<Arc<Vhost>> {
        read(&self.vhosts).get(name).cloned()
    }

    /// Every vhost, by name.
    pub fn vhosts(&self) -> Vec<Arc<Vhost>> {
        read(&self.vhosts).values().cloned().collect()
    }

    pub(crate) fn alarm_state(&self) -> AlarmState {
        self.alarms.now()
    }

    /// Begins a unit of work.
    pub(crate) fn begin_unit(&self) -> Effects {
        let observed = self.ends.as_ref().map(EndSender::observed);
        Effects::new(now_ms())
            .with_limit(StepBudget::shared_by(self.busy.load(Relaxed)))
            .with_observed(observed)
    }

    /// Ends a unit of work: carries out its effects, then wakes the writers. No lock may be held.
    pub(crate) fn end_unit(self: &Arc<Self>, mut effects: Effects) {
        self.carry_out(&mut effects);
        effects.wake_writers();
        self.totals
            .longest_work_unit
            .raise_to(effects.spent().into());
        if !effects.garbage.is_empty() {
            tokio::task::spawn_blocking(move || drop(effects.garbage));
        }
        for vhost in effects.detaching.drain(..) {
            // One that is being deleted goes on by itself.
            if let Some(vhost) = self.vhost(&vhost) {
                tokio::spawn(Arc::clone(self).detach_rest(vhost));
            }
        }
        for cancelled in effects.cancelled.drain(..) {
            self.spawn_cancels(cancelled);
        }
        for removed in effects.removed.drain(..) {
            self.spawn_end_of_removed(removed);
        }
        if !effects.unpumped.is_empty() {
            tokio::spawn(Arc::clone(self).pump_deferred(effects.unpumped));
        }
    }

    /// Delivers messages that a budget was too small for, in separate units of work.
    #[expect(
        clippy::manual_async_fn,
        reason = "it is spawned by what it calls, so its type must say that it is Send"
    )]
    fn pump_deferred(
        self: Arc<Self>,
        queues: Vec<Arc<Queue>>,
    ) -> impl Future<Output = ()> + Send + 'static {
        async move {
            for queue in queues {
                tokio::task::yield_now().await;
                let mut effects = self.begin_unit();
                if let Err(error) = queue.pump(&mut effects) {
                    tracing::debug!(queue = %queue.name(), %error, "not delivered");
                }
                self.end_unit(effects);
            }
        }
    }

    /// Carries out the effects so far of a unit of work that goes on. No lock may be held.
    pub(crate) fn carry_out(self: &Arc<Self>, effects: &mut Effects) {
        loop {
            if !effects.dead_letters.is_empty() {
                self.route_dead_letters(effects);
            } else if let Some(queue) = effects.unused_queues.pop() {
                effects.spend(REMOVAL_STEPS);
                if let Some(vhost) = self.vhost(queue.vhost()) {
                    vhost.remove_unused(&queue, effects);
                }
            } else if let Some(confirms) = effects.confirms.pop() {
                self.release_confirms(&confirms, effects);
            } else {
                break;
            }
        }
        effects.settle_tally();
        if let Some(ends) = &self.ends {
            ends.send(effects.ended.drain(..));
        }
        for (at, queue) in effects.timers.drain(..) {
            self.clock.arm(at, queue);
        }
        for (queue, wanted) in effects.loads.drain(..) {
            self.load(queue, wanted);
        }
    }

    /// Loads the next slice of a long queue, on a thread that may wait for the disk. A queue with a
    /// dead-letter exchange first waits until there is room for dead letters.
    fn load(self: &Arc<Self>, queue: Arc<Queue>, wanted: LoadRequest) {
        let broker = Arc::clone(self);
        tokio::spawn(async move {
            let _room = if queue.makes_letters() {
                let Some(room) = broker.room_for_letters(&queue, wanted).await else {
                    // It asks for another read if it needs one.
                    return broker.pump_deferred(vec![queue]).await;
                };
                Some(room)
            } else {
                None
            };
            // An error says that the semaphore was closed, which never happens.
            let Ok(_permit) = Arc::clone(&broker.loads).acquire_owned().await else {
                return;
            };
            let loading = tokio::task::spawn_blocking(move || {
                let mut effects = broker.begin_unit();
                queue.load(wanted, &mut effects);
                broker.end_unit(effects);
                broker.loaded.notify_waiters();
            });
            if let Err(error) = loading.await {
                tracing::error!(%error, "a queue could not be loaded");
            }
        });
    }

    /// Waits until the store is durable up to `ticket`; false when it has stopped.
    pub(crate) async fn durable(&self, ticket: Ticket) -> bool {
        if ticket <= self.store.durable() {
            return true;
        }
        let mut watch = self.alarms.watch();
        let reached = watch
            .wait_for(|state| state.durable >= ticket || state.is_stopped)
            .await;
        reached.is_ok_and(|state| state.durable >= ticket)
    }

    /// Waits until the ticket is durable or the disk has no room for it; `false` when the store
    /// stopped before.
    pub(crate) async fn durable_or_out_of_room(&self, ticket: Ticket) -> bool {
        if ticket <= self.store.durable() {
            return true;
        }
        let mut watch = self.alarms.watch();
        let reached = watch
            .wait_for(|state| state.durable >= ticket || state.is_disk_full || state.is_stopped);
        reached.await.is_ok_and(|state| !state.is_stopped)
    }

    /// Waits while the store has a backlog.
    pub(crate) async fn store_drained(&self) {
        let mut watch = self.alarms.watch();
        // An error means that the sender is gone, but `alarms` holds it.
        let _ = watch
            .wait_for(|state| !state.is_backlogged || state.is_stopped)
            .await;
    }

    /// Waits while the store is behind with its changes. Returns at once on a full disk.
    pub(crate) async fn store_caught_up(&self) {
        let mut watch = self.alarms.watch();
        // An error means that the sender is gone, but `alarms` holds it.
        let _ = watch.wait_for(|state| !state.is_behind()).await;
    }

    /// Waits until publishers whose messages go to the store are not blocked.
    pub(crate) async fn publishers_unblocked(&self) {
        let mut watch = self.alarms.watch();
        // An error means that the sender is gone, but `alarms` holds it.
        let _ = watch.wait_for(|state| !state.blocks(false)).await;
    }

    /// Permissions have changed: channels ask again where they remembered that they may publish,
    /// and so do taps.
    pub fn permissions_changed(&self) {
        self.access_changes.send_modify(|count| *count += 1);
        for vhost in self.vhosts() {
            vhost.move_on();
        }
    }

    /// Asks for the first messages of every recovered queue.
    pub(crate) fn look_ahead(self: &Arc<Self>) {
        let mut effects = self.begin_unit();
        let queues: Vec<_> = self
            .vhosts()
            .iter()
            .flat_map(|vhost| vhost.queues())
            .collect();
        let limit_bytes = (LOOK_AHEAD_BYTES / queues.len().max(1)).max(1);
        for queue in queues {
            queue.look_ahead(limit_bytes, &mut effects);
        }
        self.end_unit(effects);
    }

    /// Delivers messages that waited until a client settles or memory is free.
    pub(crate) async fn pump_waiting(self: &Arc<Self>) {
        for connection in self.connections() {
            self.pump_waiting_for(&connection.outbox).await;
        }
    }

    /// Like [`Self::pump_waiting`], for one connection, in as many units of work as that takes.
    /// Returns the work done in the last unit of work, after which the caller has not yielded.
    pub(crate) async fn pump_waiting_for(self: &Arc<Self>, outbox: &Outbox) -> u32 {
        let mut count = outbox.waiting();
        loop {
            let mut effects = self.begin_unit();
            count = outbox.pump_waiting(count, &mut effects);
            let spent = effects.spent();
            self.end_unit(effects);
            if count == 0 {
                return spent;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Every open connection.
    pub fn connections(&self) -> Vec<Arc<ConnectionHandle>> {
        lock(&self.connections).values().cloned().collect()
    }

    /// A queue as the tap names it. No queue may be locked.
    pub(crate) fn tap_queue(&self, queue: &Queue) -> TapQueue {
        let readers = match queue.identity.owner {
            None => TapReaders::Permitted,
            Some(owner) => {
                let connection = lock(&self.connections).get(&owner).cloned();
                let opened = connection.as_ref().and_then(|found| found.opened.get());
                opened.map_or(TapReaders::Gone, |opened| {
                    TapReaders::Connection(Arc::clone(&opened.user))
                })
            }
        };
        TapQueue {
            name: Arc::clone(queue.name()),
            readers,
        }
    }

    /// Tells every connection to end, and cuts those that are still there after `patience`.
    pub(crate) async fn end_all(&self, fault: &Fault, patience: Duration) {
        let connections = self.connections();
        for connection in &connections {
            connection.end(fault.clone());
        }
        let gone = async {
            while !lock(&self.connections).is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(patience, gone).await.is_err() {
            for connection in self.connections() {
                connection.cut();
            }
        }
    }
}

//! The account of memory that clients make the broker hold, and the limits that follow from it.
//!
//! Every holder charges what it allocates and releases it when it is freed: messages
//! ([`crate::block`]), entries of queues, outgoing frames, read buffers, unfinished publishes,
//! transactions, the tap, exchanges, queues, bindings, consumers, channels, connections, users and
//! vhosts. Charges are values that release themselves when they are dropped. What one connection
//! alone holds is counted in its [`ConnectionHoldings`] too.
//!
//! The account is the process's, as resident memory is; the limit is the largest of the brokers
//! that run in it.
//!
//! # Cost
//! A charge adds to a number of its own thread. A thread reports to the shared account in steps of
//! [`STEP`] bytes, so the account is wrong by at most that much for each thread. Looking at the
//! level is one relaxed load.

mod kinds;
mod letters;
mod parts;
mod reads;
mod transient;

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed,
};

pub(crate) use kinds::{ACCESS, CHANNELS, CONNECTIONS, CONSUMERS, KindCharge, TOPOLOGY};
pub(crate) use letters::{LetterBytes, are_letters_full};
use parts::{MIB, part, transactions_limit};
pub(crate) use parts::{
    connection_limit, kept_drafts, outbox_share, pool_bytes, store_pending_bytes, tap_bytes,
    unfinished_limit, windows_bytes,
};
pub(crate) use reads::{ReadRoom, RoomWanted, is_room_wanted};
pub(crate) use transient::{
    TransientBytes, is_transient_full, is_transient_still_full, transient_bytes,
};

/// Bytes that a thread may be ahead of or behind the account.
const STEP: u64 = 32 * 1024;
/// The step in which a channel reports to its connection's [`ConnectionHoldings`].
const HOLDING_STEP: usize = 16 * 1024;
/// What an allocation costs beside its bytes.
pub(crate) const ALLOCATION_BYTES: usize = 16;
/// What a message costs in each queue or channel that holds it: the entry, its place in a
/// collection that may be twice as large as needed, and its delivery.
pub(crate) const ENTRY_CHARGE_BYTES: usize = 128;

static HELD: AtomicI64 = AtomicI64::new(0);
static LIMIT: AtomicU64 = AtomicU64::new(0);
static LEVEL: AtomicU8 = AtomicU8::new(0);
static TRANSACTIONS: AtomicUsize = AtomicUsize::new(0);
static UNFINISHED: AtomicUsize = AtomicUsize::new(0);
static UNSETTLED: AtomicUsize = AtomicUsize::new(0);
static IS_ALARM_RAISED: AtomicBool = AtomicBool::new(false);
static IS_ANYBODY_WAITING: AtomicBool = AtomicBool::new(false);

thread_local! {
    static UNREPORTED: Unreported = const { Unreported(Cell::new(0)) };
}

/// What this thread has not reported yet.
struct Unreported(Cell<i64>);

impl Drop for Unreported {
    fn drop(&mut self) {
        report(self.0.get());
    }
}

/// How much of the limit is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum MemoryLevel {
    /// Less than half.
    Calm,
    /// Half or more: buffers stay small.
    Tight,
    /// [`mark`] or more, fifteen sixteenths: nothing more is taken from publishers.
    Short,
}

/// Adds `bytes` to the account.
pub(crate) fn charge(bytes: usize) {
    add(signed(bytes));
}

/// Takes `bytes` off the account.
pub(crate) fn release(bytes: usize) {
    add(-signed(bytes));
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn add(bytes: i64) {
    let is_added = UNREPORTED.try_with(|Unreported(unreported)| {
        let sum = unreported.get() + bytes;
        if sum.unsigned_abs() < STEP {
            unreported.set(sum);
        } else {
            unreported.set(0);
            report(sum);
        }
    });
    // The thread is ending and has reported already.
    if is_added.is_err() {
        report(bytes);
    }
}

#[cold]
fn report(bytes: i64) {
    let held = HELD.fetch_add(bytes, Relaxed) + bytes;
    set_level(u64::try_from(held).unwrap_or(0));
}

fn set_level(held: u64) {
    let limit = LIMIT.load(Relaxed);
    let level = match held {
        _ if limit == 0 => MemoryLevel::Calm,
        held if held >= mark(limit) => MemoryLevel::Short,
        held if held >= limit / 2 => MemoryLevel::Tight,
        _ => MemoryLevel::Calm,
    };
    LEVEL.store(level as u8, Relaxed);
}

/// Held bytes at which publishers wait. The rest of the limit is for what is under way meanwhile.
pub(crate) fn mark(limit: u64) -> u64 {
    limit - limit / 16
}

/// A broker with this limit starts; 0 is none.
pub(crate) fn set_limit(bytes: u64) {
    LIMIT.fetch_max(bytes, Relaxed);
    refresh();
}

/// Works the level out anew: two threads that report at once may leave the older one's.
pub(crate) fn refresh() {
    set_level(held());
}

/// Bytes that are held.
pub(crate) fn held() -> u64 {
    u64::try_from(HELD.load(Relaxed)).unwrap_or(0)
}

/// How much of the limit is held.
pub(crate) fn level() -> MemoryLevel {
    match LEVEL.load(Relaxed) {
        0 => MemoryLevel::Calm,
        1 => MemoryLevel::Tight,
        _ => MemoryLevel::Short,
    }
}

/// Unsent bytes of a connection above which its consumers are given nothing more.
pub(crate) fn outbox_room() -> usize {
    match level() {
        MemoryLevel::Calm => 512 * 1024,
        MemoryLevel::Tight => 64 * 1024,
        MemoryLevel::Short => 16 * 1024,
    }
}

/// Whether they hold more.
pub(crate) fn is_much_unfinished() -> bool {
    UNFINISHED.load(Relaxed) > unfinished_limit()
}

/// The largest body, where `configured` is not less.
pub(crate) fn largest_body(limit: u64, configured: u64) -> u64 {
    match limit {
        0 => configured,
        limit => configured.min((limit / 4).max(MIB as u64)),
    }
}

/// Sets whether publishers are blocked because of memory.
pub(crate) fn set_alarm(is_raised: bool) {
    IS_ALARM_RAISED.store(is_raised, Relaxed);
}

/// True while nothing more should be taken into memory than what frees some.
pub(crate) fn is_short() -> bool {
    level() == MemoryLevel::Short || IS_ALARM_RAISED.load(Relaxed)
}

/// What a client may hold unsettled whatever else is held: it must get something to settle.
const LEAST_UNSETTLED_BYTES: usize = 64 * 1024;

/// What one connection may hold unsettled. While memory is short, or all clients together hold half
/// of the limit unsettled, that is a part; once all of the limit is held, it is little more than
/// one message.
pub(crate) fn unsettled_room() -> usize {
    let is_much_unsettled = || UNSETTLED.load(Relaxed) >= part(2, 2 * MIB, usize::MAX);
    match LIMIT.load(Relaxed) {
        _ if !is_short() && !is_much_unsettled() => usize::MAX,
        limit if limit > 0 && held() >= limit => LEAST_UNSETTLED_BYTES,
        _ => part(16, MIB, 8 * MIB),
    }
}

/// Notes that a consumer is given nothing because of what its connection holds.
pub(crate) fn note_waiting() {
    IS_ANYBODY_WAITING.store(true, Relaxed);
}

/// Whether [`note_waiting`] was called since the last call of this.
pub(crate) fn take_waiting() -> bool {
    IS_ANYBODY_WAITING.load(Relaxed) && IS_ANYBODY_WAITING.swap(false, Relaxed)
}

/// Entries that a collection keeps room for, however few are in it.
const KEPT_ENTRIES: usize = 1024;

/// Gives back what a collection took for entries that are gone. An entry is charged for up to four
/// places, so nothing is held that no entry pays for.
pub(crate) fn give_back_room<T>(entries: &mut VecDeque<T>) {
    if entries.capacity() > KEPT_ENTRIES && entries.len() < entries.capacity() / 4 {
        entries.shrink_to(2 * entries.len());
    }
}

/// Bytes on the account, released when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Charge(usize);

impl Charge {
    /// Changes the charge to `bytes`.
    pub(crate) fn set(&mut self, bytes: usize) {
        if bytes > self.0 {
            charge(bytes - self.0);
        } else if bytes < self.0 {
            release(self.0 - bytes);
        }
        self.0 = bytes;
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        release(self.0);
    }
}

/// The charge of one entry: a message in one queue, or in a client's hands.
#[derive(Debug)]
pub(crate) struct EntryCharge(());

impl EntryCharge {
    pub(crate) fn new() -> Self {
        charge(ENTRY_CHARGE_BYTES);
        Self(())
    }
}

impl Drop for EntryCharge {
    fn drop(&mut self) {
        release(ENTRY_CHARGE_BYTES);
    }
}

/// What one connection alone makes the broker hold, beside what waits in its outbox.
#[derive(Debug, Default)]
pub(crate) struct ConnectionHoldings {
    unfinished: AtomicUsize,
    transactions: AtomicUsize,
    read: AtomicUsize,
    unsettled: AtomicUsize,
}

/// What a [`Holding`] is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HoldingKind {
    /// Publishes of which parts are missing.
    Unfinished,
    /// Publishes and settles that wait for a commit.
    Transaction,
    /// Bytes that were read and not used yet.
    Read,
    /// Messages in the client's hands.
    Unsettled,
}

impl HoldingKind {
    /// What all connections together hold of this kind, where that has a limit.
    fn of_all(self) -> Option<&'static AtomicUsize> {
        match self {
            Self::Unfinished => Some(&UNFINISHED),
            Self::Transaction => Some(&TRANSACTIONS),
            Self::Unsettled => Some(&UNSETTLED),
            Self::Read => None,
        }
    }
}

impl ConnectionHoldings {
    fn of(&self, kind: HoldingKind) -> &AtomicUsize {
        match kind {
            HoldingKind::Unfinished => &self.unfinished,
            HoldingKind::Transaction => &self.transactions,
            HoldingKind::Read => &self.read,
            HoldingKind::Unsettled => &self.unsettled,
        }
    }

    /// Brings what was last reported of a kind up to `bytes`, where that is a step or more; 0 is
    /// always reported. For messages, which are on the account already.
    pub(crate) fn report(&self, kind: HoldingKind, reported: &mut usize, bytes: usize) {
        if bytes.abs_diff(*reported) < HOLDING_STEP && (bytes > 0 || *reported == 0) {
            return;
        }
        for counter in [Some(self.of(kind)), kind.of_all()].into_iter().flatten() {
            if bytes > *reported {
                counter.fetch_add(bytes - *reported, Relaxed);
            } else {
                counter.fetch_sub(*reported - bytes, Relaxed);
            }
        }
        *reported = bytes;
    }

    /// Bytes held for this reason.
    pub(crate) fn bytes(&self, kind: HoldingKind) -> usize {
        self.of(kind).load(Relaxed)
    }

    /// Bytes held for any reason.
    pub(crate) fn total(&self) -> usize {
        let kinds = [
            HoldingKind::Unfinished,
            HoldingKind::Transaction,
            HoldingKind::Read,
            HoldingKind::Unsettled,
        ];
        kinds.into_iter().map(|kind| self.bytes(kind)).sum()
    }
}

/// A charge to a connection and to the account.
#[derive(Debug)]
pub(crate) struct Holding {
    holdings: Arc<ConnectionHoldings>,
    kind: HoldingKind,
    bytes: usize,
    charge: Charge,
}

impl Holding {
    pub(crate) fn new(holdings: &Arc<ConnectionHoldings>, kind: HoldingKind) -> Self {
        Self {
            holdings: Arc::clone(holdings),
            kind,
            bytes: 0,
            charge: Charge::default(),
        }
    }

    /// Changes what is held to `bytes`, of which `charged` are not on the account otherwise: blocks
    /// are.
    pub(crate) fn set(&mut self, bytes: usize, charged: usize) {
        self.charge.set(charged);
        let before = std::mem::replace(&mut self.bytes, bytes);
        if bytes == before {
            return;
        }
        let counters = [Some(self.holdings.of(self.kind)), self.kind.of_all()];
        for counter in counters.into_iter().flatten() {
            if bytes > before {
                counter.fetch_add(bytes - before, Relaxed);
            } else {
                counter.fetch_sub(before - bytes, Relaxed);
            }
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn charged(&self) -> usize {
        self.charge.bytes()
    }

    /// What the connection holds of this kind.
    pub(crate) fn of_connection(&self) -> usize {
        self.holdings.bytes(self.kind)
    }

    /// True while this connection and all together hold no more of this kind than they may.
    pub(crate) fn is_within_limit(&self) -> bool {
        self.holdings.bytes(self.kind) <= connection_limit()
            && (self.kind != HoldingKind::Transaction
                || TRANSACTIONS.load(Relaxed) <= transactions_limit())
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.set(0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Large enough to stand out from what other tests hold meanwhile.
    const LARGE: usize = 1 << 40;

    #[test]
    fn a_charge_is_on_the_account_until_it_is_dropped_wherever_that_is() {
        let mut charge = Charge::default();
        charge.set(LARGE);
        charge.set(3 * LARGE);
        assert!(held() > 2 * LARGE as u64);
        let elsewhere = std::thread::spawn(move || drop(charge));
        assert!(elsewhere.join().is_ok());
        assert!(held() < LARGE as u64);
    }

    #[test]
    fn a_collection_gives_back_the_room_of_entries_that_are_gone() {
        let mut entries: VecDeque<u64> = (0..100_000).collect();
        while entries.len() > 10 {
            entries.pop_front();
            give_back_room(&mut entries);
            let room = entries.capacity();
            assert!(
                room <= KEPT_ENTRIES || room <= 4 * entries.len() + 4,
                "{room}"
            );
        }
        assert_eq!(entries.len(), 10);
    }

    #[test]
    fn a_connection_gives_back_what_it_held_of_each_kind() {
        let holdings = Arc::<ConnectionHoldings>::default();
        let mut unfinished = Holding::new(&holdings, HoldingKind::Unfinished);
        let mut read = Holding::new(&holdings, HoldingKind::Read);
        unfinished.set(1000, 10);
        read.set(10, 10);
        unfinished.set(700, 0);
        assert_eq!(
            (holdings.bytes(HoldingKind::Unfinished), holdings.total()),
            (700, 710)
        );
        drop(unfinished);
        assert_eq!(holdings.total(), 10);
    }
}

//! Routes dead letters at the end of a unit of work, and those that it has no budget for in units
//! of work of their own. Relies on `vhost` for their routes and on `delivery/cascade.rs`.
//!
//! A letter of a stored message takes memory until the store has its copies. So the messages of a
//! queue with a dead-letter exchange are read from the store no faster than letters arrive, whether
//! they expire, are pushed out or are delivered and rejected. Acks, purges and other queues do not
//! wait. A persistent letter is routed when the store keeps up, and one whose copies exceed a
//! commit of the store waits for it in between too.
//!
//! A queue that is not durable keeps its letters in memory. While memory is short, the messages
//! that would become such letters are not read from the store. Nothing but a consumer of the
//! letters may ever free that memory, so a read that waits for it holds nothing that others need,
//! and a `basic.get` fails instead of waiting.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::BrokerState;
use crate::delivery::budget::FULL_STEPS;
use crate::delivery::cascade::{Cascade, CascadeStep};
use crate::delivery::effects::Effects;
use crate::log_limit::LogLimit;
use crate::memory;
use crate::observer::BrokerEnd;
use crate::queue::Queue;
use crate::queue::level::LoadRequest;
use crate::time::now_ms;

/// What a unit of work may spend on its dead letters beyond what it has spent before, in steps. It
/// is enough for as many as a unit of work collects, where each goes to one queue.
const ALLOWANCE: u32 = FULL_STEPS / 2;
/// How often a read of the store looks whether letters have arrived.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How often a read that waits for memory checks that it is still wanted.
const LOOK_IF_WANTED: Duration = Duration::from_secs(1);
/// How often it is logged that a queue is not read.
const LOG_EVERY_MS: u64 = 60_000;

impl BrokerState {
    /// Routes the dead letters so far. What the allowance is too small for, and what must stay
    /// behind letters of its queue that wait already, follows in later units of work.
    pub(super) fn route_dead_letters(self: &Arc<Self>, effects: &mut Effects) {
        let until = effects.spent().saturating_add(ALLOWANCE);
        while let Some(letter) = effects.next_dead_letter() {
            let must_wait = effects.spent() >= until || self.letters.has(&letter.queue);
            let mut cascade = Cascade::new(letter);
            if (must_wait || !self.advance(&mut cascade, until, effects))
                && self.letters.add(cascade)
            {
                tokio::spawn(Arc::clone(self).route_waiting_letters());
            }
        }
    }

    /// Waits until the store keeps up with its changes and letters hold less than their part, and
    /// while memory is short if letters of this queue stay in it. Returns what a read of the store
    /// that may make letters keeps until it is over; `None` if the read is no longer wanted.
    ///
    /// On a full disk it does not wait: the client that gets the messages may free the disk by its
    /// acks.
    pub(super) async fn room_for_letters(
        self: &Arc<Self>,
        queue: &Arc<Queue>,
        wanted: LoadRequest,
    ) -> Option<OwnedSemaphorePermit> {
        loop {
            if !self.memory_for_letters(queue, wanted).await {
                return None;
            }
            // Never closed.
            let permit = Arc::clone(&self.letter_loads).acquire_owned().await.ok()?;
            loop {
                self.store_caught_up().await;
                if !memory::are_letters_full() {
                    break;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            if !self.holds_back_reads(queue) {
                return Some(permit);
            }
        }
    }

    /// Waits while memory is short and letters of this queue stay in it. False if the read is no
    /// longer wanted.
    async fn memory_for_letters(self: &Arc<Self>, queue: &Arc<Queue>, wanted: LoadRequest) -> bool {
        static LOG: LogLimit = LogLimit::new(LOG_EVERY_MS);
        if !self.holds_back_reads(queue) {
            return true;
        }
        if let Some(others) = LOG.admit(now_ms()) {
            tracing::warn!(
                queue = %queue.name(), vhost = %queue.vhost(), others,
                "memory is short, and dead letters of a queue would stay in it: the messages of \
                 the queue stay in the store until the letters are consumed"
            );
        }
        let _held_back = queue.hold_back_read();
        // Those who wait for this read.
        self.loaded.notify_waiters();
        let mut holding_back = self.alarms.holding_back();
        while *holding_back.borrow_and_update() {
            let _ = tokio::time::timeout(LOOK_IF_WANTED, holding_back.changed()).await;
            if !queue.is_load_wanted(wanted) {
                return false;
            }
        }
        true
    }

    /// Whether memory is short and letters of this queue stay in it.
    fn holds_back_reads(self: &Arc<Self>, queue: &Queue) -> bool {
        if !queue.do_letters_stay() {
            return false;
        }
        self.look_at_memory();
        self.alarm_state().holds_back_reads()
    }

    /// Routes a letter and those that follow from it, until the unit of work has spent `until`
    /// steps. True when none is left.
    fn advance(&self, cascade: &mut Cascade, until: u32, effects: &mut Effects) -> bool {
        while let Some(step) = cascade.next() {
            if effects.spent() >= until || self.must_wait_for_store(&step) {
                cascade.put_back(step);
                return false;
            }
            let mut route = match step {
                CascadeStep::Route(route) => route,
                CascadeStep::Letter(letter) => {
                    // Not a newer vhost of the same name, whose users may not see the message.
                    let vhost = self.vhost(letter.queue.vhost());
                    let own = vhost.filter(|vhost| vhost.is_home_of(&letter.queue));
                    let Some(vhost) = own else {
                        effects.note_end(&letter.queue, &letter.message, BrokerEnd::Deleted);
                        continue;
                    };
                    let generation = vhost.generation();
                    // A long one waits behind the one that is under way.
                    if letter.is_long_in(generation) && self.letters.has_route() {
                        effects.spend(1);
                        cascade.put_back(CascadeStep::Letter(letter));
                        return false;
                    }
                    let route = vhost.dead_letter(letter, effects);
                    if route.is_long() && self.letters.has_route() {
                        cascade.put_back(CascadeStep::Letter(route.into_letter(generation)));
                        return false;
                    }
                    route
                }
            };
            let made_before = effects.dead_letters.len();
            let is_store_behind = || self.alarm_state().is_behind();
            let is_done = route.offer(until, is_store_behind, effects);
            cascade.follow(effects.dead_letters.drain(made_before..));
            if !is_done {
                // First, since its commit waits for it.
                cascade.put_back(CascadeStep::Route(route));
            }
        }
        true
    }

    /// Whether the step would begin to add copies to a store that is behind.
    fn must_wait_for_store(&self, step: &CascadeStep) -> bool {
        match step {
            CascadeStep::Letter(letter) => {
                letter.message.is_persistent() && self.alarm_state().is_behind()
            }
            CascadeStep::Route(_) => false,
        }
    }

    /// Waits until no letter is being routed. Those that wait stay in their queues.
    pub(crate) async fn letters_routed(&self, limit: Duration) {
        self.letters.close();
        let routed = async {
            while self.letters.is_worked_on() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        // After the limit, the next start repeats the copies that were made.
        let _ = tokio::time::timeout(limit, routed).await;
    }

    /// Routes what waits, one unit of work after the other.
    #[expect(
        clippy::manual_async_fn,
        reason = "it is spawned by what it calls, so its type must say that it is Send"
    )]
    fn route_waiting_letters(self: Arc<Self>) -> impl Future<Output = ()> + Send + 'static {
        async move {
            loop {
                tokio::task::yield_now().await;
                if !self.letters.holds_commits_back() {
                    self.store_caught_up().await;
                }
                let mut effects = self.begin_unit();
                let is_done = self.route_some_letters(&mut effects);
                self.end_unit(effects);
                if is_done {
                    return;
                }
            }
        }
    }

    /// Routes what waits as far as the budget allows; true when nothing is left.
    fn route_some_letters(&self, effects: &mut Effects) -> bool {
        while !effects.is_spent() {
            let Some(mut cascade) = self.letters.take_next() else {
                return true;
            };
            let is_done = self.advance(&mut cascade, effects.limit().steps(), effects);
            self.letters.give_back(cascade);
            if !is_done {
                break;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests;

//! Routes dead letters at the end of a unit of work, and those that it has no budget for in units
//! of work of their own. Relies on `vhost` for their routes and on `delivery/cascade.rs`.
//!
//! A letter of a stored message takes memory until the store has its copies. So the messages of a
//! queue with a dead-letter exchange are read from the store no faster than letters arrive, whether
//! they expire, are pushed out or are delivered and rejected. Acks, purges and other queues do not
//! wait. A letter itself waits for the store only if its copies exceed one commit of the store.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::BrokerState;
use crate::delivery::budget::FULL_STEPS;
use crate::delivery::cascade::{Cascade, CascadeStep};
use crate::delivery::effects::Effects;
use crate::memory;
use crate::observer::BrokerEnd;

/// What a unit of work may spend on its dead letters beyond what it has spent before, in steps. It
/// is enough for as many as a unit of work collects, where each goes to one queue.
const ALLOWANCE: u32 = FULL_STEPS / 2;
/// How often a read of the store looks whether letters have arrived.
const LOOK_EVERY: Duration = Duration::from_millis(5);

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

    /// Waits until the store keeps up with its changes and letters hold less than their part.
    /// Returns what a read of the store that may make letters keeps until it is over.
    ///
    /// On a full disk it does not wait: the client that gets the messages may free the disk by its
    /// acks.
    pub(super) async fn room_for_letters(&self) -> Option<OwnedSemaphorePermit> {
        // Never closed.
        let permit = Arc::clone(&self.letter_loads).acquire_owned().await.ok();
        loop {
            self.store_caught_up().await;
            if !memory::are_letters_full() {
                return permit;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Routes a letter and those that follow from it, until the unit of work has spent `until`
    /// steps. True when none is left.
    fn advance(&self, cascade: &mut Cascade, until: u32, effects: &mut Effects) -> bool {
        while let Some(step) = cascade.next() {
            if effects.spent() >= until {
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

    /// Routes what waits, one unit of work after the other.
    #[expect(
        clippy::manual_async_fn,
        reason = "it is spawned by what it calls, so its type must say that it is Send"
    )]
    fn route_waiting_letters(self: Arc<Self>) -> impl Future<Output = ()> + Send + 'static {
        async move {
            loop {
                tokio::task::yield_now().await;
                if self.letters.has_route() {
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

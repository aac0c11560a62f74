//! Routes dead letters at the end of a unit of work, and those that it has no budget for in units
//! of work of their own. Relies on `vhost` for their routes and on `delivery/cascade.rs`.
//!
//! Who holds a message that becomes a dead letter, and what each waits for:
//!
//! ```text
//! its queue, or the client that   room for letters (memory/letters.rs): a sixteenth of the limit,
//! has it unsettled                whatever else is held. A message that expires or is pushed out
//!       |                         stays in its queue, which looks again every 20 ms; a client
//!       |                         that rejects is not read. While memory is short, few leave whose
//!       v                         letters take more of it (queue/letters.rs).
//! DeadLetter, in the effects or   a budget; the letters of its queue before it; and, if it is
//! in LetterBacklog                persistent, room in the store's batch (an eighth of the limit).
//!       |                         Never memory: its move may be what frees some.
//!       v
//! LetterRoute                     a budget and that room, between two of its queues. The store
//!       |                         gets the copies and the settlement of the original in one
//!       |                         commit, unless it is full meanwhile.
//!       v
//! its new queue                   the store's commit; a message that nobody awaits is then in the
//!                                 store alone.
//! ```
//!
//! So a letter is in memory once while it waits, and on a full disk most are in their queue, where
//! the store has them.

use std::sync::Arc;
use std::time::Duration;

use super::BrokerState;
use crate::delivery::budget::FULL_STEPS;
use crate::delivery::cascade::{Cascade, CascadeStep, RoutingProgress};
use crate::delivery::effects::Effects;
use crate::memory;
use crate::observer::BrokerEnd;

/// What a unit of work may spend on its dead letters beyond what it has spent before, in steps. It
/// is enough for as many as a unit of work collects, where each goes to one queue.
const ALLOWANCE: u32 = FULL_STEPS / 2;
/// The least and the longest wait for the store, before a look whether letters may go on.
const STORE_LOOK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

impl BrokerState {
    /// Routes the dead letters so far. What the allowance is too small for, and what must stay
    /// behind letters of its queue that wait already, follows in later units of work.
    pub(super) fn route_dead_letters(self: &Arc<Self>, effects: &mut Effects) {
        let until = effects.spent().saturating_add(ALLOWANCE);
        while let Some(letter) = effects.next_dead_letter() {
            let must_wait = effects.spent() >= until || self.letters.has(&letter.queue);
            let mut cascade = Cascade::new(letter);
            if (must_wait || self.advance(&mut cascade, until, effects) != RoutingProgress::Done)
                && self.letters.add(cascade)
            {
                tokio::spawn(Arc::clone(self).route_waiting_letters());
            }
        }
    }

    /// Whether persistent letters must wait for the store. One that has stopped never has room
    /// again: it refuses them.
    fn is_store_full(&self) -> bool {
        self.store.pending_bytes() >= memory::store_pending_bytes()
            && !self.alarm_state().is_stopped
    }

    /// Routes a letter and those that follow from it, until the unit of work has spent `until`
    /// steps.
    fn advance(&self, cascade: &mut Cascade, until: u32, effects: &mut Effects) -> RoutingProgress {
        while let Some(step) = cascade.next() {
            if effects.spent() >= until {
                cascade.put_back(step);
                return RoutingProgress::Spent;
            }
            if let CascadeStep::Letter(letter) = &step
                && letter.message.is_persistent()
                && self.is_store_full()
            {
                effects.spend(1);
                cascade.put_back(step);
                return RoutingProgress::StoreFull;
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
                        return RoutingProgress::Spent;
                    }
                    let route = vhost.dead_letter(letter, effects);
                    if route.is_long() && self.letters.has_route() {
                        cascade.put_back(CascadeStep::Letter(route.into_letter(generation)));
                        return RoutingProgress::Spent;
                    }
                    route
                }
            };
            let made_before = effects.dead.len();
            let progress = route.offer(until, || self.is_store_full(), effects);
            cascade.follow(effects.dead.drain(made_before..));
            if progress != RoutingProgress::Done {
                // First, since its commit waits for it.
                cascade.put_back(CascadeStep::Route(route));
                return progress;
            }
        }
        RoutingProgress::Done
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
                let mut effects = self.begin();
                let progress = self.route_some_letters(&mut effects);
                self.end(effects);
                match progress {
                    RoutingProgress::Done => return,
                    RoutingProgress::Spent => {}
                    RoutingProgress::StoreFull => {
                        // The alarm about its backlog may be a moment behind.
                        let (least, longest) = STORE_LOOK;
                        tokio::time::sleep(least).await;
                        let drained = tokio::time::timeout(longest, self.store_drained());
                        // In both cases the letters are looked at again.
                        let _ = drained.await;
                    }
                }
            }
        }
    }

    /// Routes what waits as far as the budget allows.
    fn route_some_letters(&self, effects: &mut Effects) -> RoutingProgress {
        let (mut await_store, mut is_any_routed) = (0, false);
        while !effects.is_spent() {
            let Some(mut cascade) = self.letters.take_next() else {
                return RoutingProgress::Done;
            };
            let progress = self.advance(&mut cascade, effects.limit().steps(), effects);
            if progress == RoutingProgress::StoreFull {
                await_store += 1;
            } else {
                (await_store, is_any_routed) = (0, true);
            }
            self.letters.give_back(cascade, progress);
            // Those of other queues may be transient.
            if await_store > self.letters.sources() {
                return RoutingProgress::StoreFull;
            }
        }
        if is_any_routed {
            RoutingProgress::Spent
        } else {
            RoutingProgress::StoreFull
        }
    }
}

#[cfg(test)]
mod tests;

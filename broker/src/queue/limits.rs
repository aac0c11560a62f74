//! Length limits, TTL and expiry. Relies on `state`.

use std::sync::Arc;

use super::Queue;
use super::arguments::{Overflow, QueueArguments};
use super::dead_letter::Reason;
use super::level::LoadNeed;
use super::message::Message;
use super::queued::QueuedMessage;
use super::state::QueueState;
use crate::delivery::effects::{DeadLetter, Effects};

/// Whether a message whose time is exactly now has expired. A fresh one with a time to live of 0
/// may still be handed to a consumer that waits, but not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strictness {
    Past,
    Reached,
}

/// True when one more message would be too many for a queue that refuses instead of dropping.
pub(super) fn refuses(state: &QueueState, arguments: &QueueArguments, message: &Message) -> bool {
    if arguments.overflow == Overflow::DropHead {
        return false;
    }
    arguments
        .max_length
        .is_some_and(|most| state.ready.ready() + 1 > most)
        || arguments
            .max_length_bytes
            .is_some_and(|most| state.ready.bytes() + message.body_len() as u64 > most)
}

/// What `reject-publish-dlx` does with the message beside refusing it.
pub(super) fn refuse(
    queue: &Arc<Queue>,
    state: &mut QueueState,
    message: &Message,
    effects: &mut Effects,
) {
    state.counters.dropped += 1;
    let arguments = &queue.identity.arguments;
    if arguments.overflow == Overflow::RejectPublishDlx && arguments.dead_letters.is_some() {
        let letter = DeadLetter::new(queue, message.clone(), Reason::MaxLength, None);
        effects.add_dead_letter(letter);
        effects.note_published(queue.do_letters_stay());
    }
}

/// Drops what is too old or too much from the head.
pub(super) fn enforce(queue: &Arc<Queue>, state: &mut QueueState, effects: &mut Effects) {
    if state.is_deleted {
        return;
    }
    // The clock calls again at once where that are too many.
    while !effects.is_overspent() && expire(queue, state, effects, Strictness::Reached) {}
    let arguments = &queue.identity.arguments;
    if arguments.overflow == Overflow::DropHead {
        // Here too.
        while is_over(state, arguments) && !effects.is_overspent() {
            let Some(entry) = state.ready.pop() else {
                break;
            };
            state.counters.dropped += 1;
            effects.spend(1);
            QueueState::discard(queue, entry, Reason::MaxLength, effects);
        }
    }
    // What is too much at the head must be read before it can be dropped.
    let need = if arguments.overflow == Overflow::DropHead && is_over(state, arguments) {
        LoadNeed::Now
    } else {
        LoadNeed::Soon
    };
    state.request_load(queue, need, effects);
    arm(queue, state, effects);
}

fn is_over(state: &QueueState, arguments: &QueueArguments) -> bool {
    arguments
        .max_length
        .is_some_and(|most| state.ready.ready() > most)
        || arguments
            .max_length_bytes
            .is_some_and(|most| state.ready.bytes() > most)
}

/// Takes one expired message from the head of a level; false when there is none.
pub(super) fn expire(
    queue: &Arc<Queue>,
    state: &mut QueueState,
    effects: &mut Effects,
    strictness: Strictness,
) -> bool {
    if !state.may_expire {
        return false;
    }
    let (ttl, now) = (queue.identity.arguments.message_ttl_ms, effects.now_ms);
    let is_due = |entry: &QueuedMessage| {
        entry
            .message
            .deadline_ms(ttl)
            .is_some_and(|deadline| match strictness {
                Strictness::Past => deadline < now,
                Strictness::Reached => deadline <= now,
            })
    };
    let Some(entry) = state.ready.pop_if(is_due) else {
        return false;
    };
    state.counters.expired += 1;
    effects.spend(1);
    QueueState::discard(queue, entry, Reason::Expired, effects);
    true
}

/// Sets the queue's timer: at once if a unit of work ended before all surplus messages were
/// dropped, otherwise for the time at which the next head expires, the lease ends or the store is
/// read again.
pub(super) fn arm(queue: &Arc<Queue>, state: &mut QueueState, effects: &mut Effects) {
    if state.is_deleted {
        return;
    }
    let arguments = &queue.identity.arguments;
    let is_unfinished = effects.is_overspent()
        && arguments.overflow == Overflow::DropHead
        && is_over(state, arguments);
    let next = is_unfinished
        .then_some(effects.now_ms)
        .into_iter()
        .chain(state.unreadable_until(effects))
        .chain(next_deadline(state, arguments, effects))
        .min();
    if let Some(next) = next.filter(|next| *next < state.armed_ms) {
        state.armed_ms = next;
        effects.timers.push((next, Arc::downgrade(queue)));
    }
}

/// When the next head expires or the lease ends.
fn next_deadline(state: &QueueState, arguments: &QueueArguments, effects: &Effects) -> Option<u64> {
    if !state.may_expire {
        return None;
    }
    let head = state
        .ready
        .heads()
        .filter_map(|entry| entry.message.deadline_ms(arguments.message_ttl_ms))
        .chain(
            state
                .ready
                .deadlines_in_store_ms()
                // What has expired is being read.
                .filter(|deadline_ms| *deadline_ms > effects.now_ms),
        )
        .min();
    let lease = arguments
        .expires_ms
        .filter(|_| state.consumers.is_empty())
        .map(|ms| state.used_ms.saturating_add(ms));
    head.into_iter().chain(lease).min()
}

/// True when the queue was unused for as long as `x-expires` allows.
pub(super) fn has_expired(state: &QueueState, arguments: &QueueArguments, now_ms: u64) -> bool {
    let ends = arguments
        .expires_ms
        .map(|ms| state.used_ms.saturating_add(ms));
    ends.is_some_and(|ends| state.consumers.is_empty() && now_ms >= ends)
}

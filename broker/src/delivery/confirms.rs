//! The unsent publisher confirms of one channel: a window of tags, each waiting for a ticket of the
//! store, sent in order. Depends on `outbox`, `effects` and `persist`.
//!
//! A confirm is due when the store is durable up to its ticket. It is due earlier if the message
//! was consumed and settled first, because then it was not and will not be written. They are
//! sent in order; a run of acks, or of nacks, is one frame with `multiple`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use crate::delivery::effects::Effects;
use crate::delivery::outbox::Outbox;
use crate::lock::lock;
use crate::memory;
use crate::persist::Ticket;
use crate::stats::ChannelCounters;
use crate::wire::reply;

/// What the confirm of one publish waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConfirmState {
    /// The message is not routed yet. Later confirms wait behind it.
    Routing,
    /// An ack, due when the store is durable up to this ticket. [`Ticket::NONE`] is always durable.
    Ticket(Ticket),
    /// A nack, due at once: a queue refused the message.
    Refused,
}

/// The confirms of one channel.
#[derive(Debug)]
pub(crate) struct Confirms {
    window: Mutex<Window>,
    outbox: Arc<Outbox>,
    channel: u16,
    counters: Arc<ChannelCounters>,
}

#[derive(Debug)]
struct Window {
    /// The tag of the first entry in `waiting`.
    first: u64,
    waiting: VecDeque<ConfirmState>,
    /// A unit of work has this channel in its list for [`Confirms::release`].
    is_release_asked_for: bool,
    /// The broker's list of channels that wait for the store includes this one.
    is_listed: bool,
}

/// What remains after a release.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Left {
    Nothing,
    /// The caller must add the channel to the list of those that wait for the store.
    Unlisted,
    Listed,
}

impl Confirms {
    pub(crate) fn new(outbox: Arc<Outbox>, channel: u16, counters: Arc<ChannelCounters>) -> Self {
        let window = Window {
            first: 1,
            waiting: VecDeque::new(),
            is_release_asked_for: false,
            is_listed: false,
        };
        Self {
            window: Mutex::new(window),
            outbox,
            channel,
            counters,
        }
    }

    /// Assigns the tag of a publish that is about to be routed.
    pub(crate) fn open(self: &Arc<Self>, effects: &mut Effects) -> u64 {
        let mut window = lock(&self.window);
        window.waiting.push_back(ConfirmState::Routing);
        window.ask_for_release(self, effects);
        window.first + window.waiting.len() as u64 - 1
    }

    /// Sets what the publish with this tag waits for. An earlier call of [`Confirms::settled`]
    /// takes precedence.
    pub(crate) fn set(self: &Arc<Self>, tag: u64, waiting: ConfirmState, effects: &mut Effects) {
        let mut window = lock(&self.window);
        if let Some(slot) = window.slot(tag)
            && *slot == ConfirmState::Routing
        {
            *slot = waiting;
            // Routing can take more than one unit of work.
            window.ask_for_release(self, effects);
        }
    }

    /// Makes the confirm due: its message was settled before the commit.
    pub(crate) fn settled(self: &Arc<Self>, tag: u64, effects: &mut Effects) {
        let mut window = lock(&self.window);
        if let Some(slot) = window.slot(tag) {
            *slot = ConfirmState::Ticket(Ticket::NONE);
            window.ask_for_release(self, effects);
        }
    }

    /// Sends the confirms that are due when the store is durable up to `durable`.
    pub(crate) fn release(&self, durable: Ticket, effects: &mut Effects) -> Left {
        let mut window = lock(&self.window);
        window.is_release_asked_for = false;
        let mut acked = 0;
        while let Some(run) = window.take_run(durable) {
            self.outbox.write(effects, |out| match run {
                ConfirmRun::Acks {
                    last,
                    multiple,
                    count,
                } => {
                    acked += count;
                    reply::ack(out, self.channel, last, multiple);
                }
                ConfirmRun::Nacks { last, multiple } => {
                    reply::nack(out, self.channel, last, multiple);
                }
            });
        }
        if acked > 0 {
            self.counters.confirmed.add(acked);
        }
        if window.waiting.is_empty() {
            Left::Nothing
        } else if std::mem::replace(&mut window.is_listed, true) {
            Left::Listed
        } else {
            Left::Unlisted
        }
    }

    /// Like [`Confirms::release`], for a channel on the broker's list. Returns true if it must stay
    /// there.
    pub(crate) fn release_listed(&self, durable: Ticket, effects: &mut Effects) -> bool {
        lock(&self.window).is_listed = false;
        self.release(durable, effects) == Left::Unlisted
    }

    /// Returns the ticket that the first unsent confirm waits for.
    pub(crate) fn next(&self) -> Option<Ticket> {
        match lock(&self.window).waiting.front()? {
            ConfirmState::Ticket(ticket) => Some(*ticket),
            ConfirmState::Refused => Some(Ticket::NONE),
            ConfirmState::Routing => None,
        }
    }

    /// Returns the number of unsent confirms.
    pub(crate) fn len(&self) -> usize {
        lock(&self.window).waiting.len()
    }

    /// Drops all unsent confirms when the channel closes.
    pub(crate) fn abandon(&self) {
        let mut window = lock(&self.window);
        window.first += window.waiting.len() as u64;
        window.waiting.clear();
    }
}

/// Consecutive confirms that fit into one frame.
enum ConfirmRun {
    Acks {
        last: u64,
        multiple: bool,
        count: u64,
    },
    Nacks {
        last: u64,
        multiple: bool,
    },
}

impl Window {
    fn slot(&mut self, tag: u64) -> Option<&mut ConfirmState> {
        let at = usize::try_from(tag.checked_sub(self.first)?).ok()?;
        self.waiting.get_mut(at)
    }

    fn ask_for_release(&mut self, confirms: &Arc<Confirms>, effects: &mut Effects) {
        if !self.is_release_asked_for {
            self.is_release_asked_for = true;
            effects.confirms.push(Arc::clone(confirms));
        }
    }

    /// Removes the longest run of due confirms of one kind at the front.
    fn take_run(&mut self, durable: Ticket) -> Option<ConfirmRun> {
        let is_refusal = match self.waiting.front()? {
            ConfirmState::Refused => true,
            ConfirmState::Ticket(ticket) if *ticket <= durable => false,
            ConfirmState::Ticket(_) | ConfirmState::Routing => return None,
        };
        let due = |waiting: &ConfirmState| match waiting {
            ConfirmState::Refused => is_refusal,
            ConfirmState::Ticket(ticket) => !is_refusal && *ticket <= durable,
            ConfirmState::Routing => false,
        };
        let count = self
            .waiting
            .iter()
            .take_while(|waiting| due(waiting))
            .count();
        self.waiting.drain(..count);
        memory::give_back_room(&mut self.waiting);
        self.first += count as u64;
        let (last, multiple) = (self.first - 1, count > 1);
        Some(if is_refusal {
            ConfirmRun::Nacks { last, multiple }
        } else {
            ConfirmRun::Acks {
                last,
                multiple,
                count: count as u64,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirms_that_were_sent_leave_no_room_behind() {
        let confirms = Arc::new(Confirms::new(Arc::default(), 1, Arc::default()));
        let mut effects = Effects::new(0);
        for _ in 0..100_000 {
            let tag = confirms.open(&mut effects);
            confirms.set(tag, ConfirmState::Ticket(Ticket::NONE), &mut effects);
        }
        assert_eq!(confirms.release(Ticket::NONE, &mut effects), Left::Nothing);
        assert!(lock(&confirms.window).waiting.capacity() <= 1024);
    }
}

//! The unsent publisher confirms of one channel: a window of tags, each waiting for a ticket of the
//! store, sent in order. Depends on `outbox`, `effects` and `persist`.
//!
//! A confirm is due when the store is durable up to its ticket. It is due earlier if the message
//! was consumed and settled first, because then it was not and will not be written. They are
//! sent in order; a run of acks, or of nacks, is one frame with `multiple`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use crate::delivery::effects::Effects;
use crate::delivery::outbox::Outbox;
use crate::lock::lock;
use crate::memory;
use crate::persist::Ticket;
use crate::stats::ChannelCounters;
use crate::wire::reply;

/// What became of a message that was offered to all its queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RouteOutcome {
    /// The queues took it. It is safe when the store is durable up to this ticket;
    /// [`Ticket::NONE`] is always durable.
    Ticket(Ticket),
    /// A queue refused it.
    Refused,
}

/// What the confirm of one publish waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConfirmState {
    /// The message is not routed yet. Later confirms wait behind it.
    Routing,
    /// An ack, due when the store is durable up to this ticket. [`Ticket::NONE`] is always durable.
    Ticket(Ticket),
    /// A nack, due at once: a queue refused the message.
    Refused,
}

impl From<RouteOutcome> for ConfirmState {
    fn from(outcome: RouteOutcome) -> Self {
        match outcome {
            RouteOutcome::Ticket(ticket) => Self::Ticket(ticket),
            RouteOutcome::Refused => Self::Refused,
        }
    }
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
    /// The lowest ticket under which the broker's list of channels that wait for the store includes
    /// this one.
    listed: Option<Ticket>,
}

/// Who releases the confirms that a release could not send yet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum UnsentConfirms {
    /// None wait for the store. Those behind a publish that is not routed yet are released at the
    /// end of its routing.
    NoneWaitForStore,
    /// The caller must list the channel as one that waits for this ticket.
    MustBeListed(Ticket),
    /// The broker's list includes the channel already, under this ticket or a lower one.
    AlreadyListed,
}

/// Channels whose confirms wait for the store, by the ticket of the first one. The ticket of a
/// large body is far ahead, so a later confirm of the channel can wait for a lower one. If it
/// becomes the first, the channel is listed under that ticket too.
#[derive(Debug, Default)]
pub(crate) struct AwaitingConfirms(Mutex<BTreeMap<Ticket, Vec<Arc<Confirms>>>>);

impl AwaitingConfirms {
    /// Adds a channel that was [`UnsentConfirms::MustBeListed`].
    pub(crate) fn add(&self, ticket: Ticket, confirms: &Arc<Confirms>) {
        let mut awaiting = lock(&self.0);
        awaiting
            .entry(ticket)
            .or_default()
            .push(Arc::clone(confirms));
    }

    /// Removes a channel with confirms that are due when the store is durable up to `durable`.
    pub(crate) fn take_due(&self, durable: Ticket) -> Option<Arc<Confirms>> {
        let mut awaiting = lock(&self.0);
        let mut first = awaiting.first_entry()?;
        if *first.key() > durable {
            return None;
        }
        let confirms = first.get_mut().pop();
        if first.get().is_empty() {
            first.remove();
        }
        confirms
    }
}

impl Confirms {
    pub(crate) fn new(outbox: Arc<Outbox>, channel: u16, counters: Arc<ChannelCounters>) -> Self {
        let window = Window {
            first: 1,
            waiting: VecDeque::new(),
            is_release_asked_for: false,
            listed: None,
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

    /// Sets what the confirm of the publish with this tag waits for. An earlier call of
    /// [`Confirms::settled`] takes precedence.
    pub(crate) fn set(self: &Arc<Self>, tag: u64, outcome: RouteOutcome, effects: &mut Effects) {
        let mut window = lock(&self.window);
        if let Some(slot) = window.slot(tag)
            && *slot == ConfirmState::Routing
        {
            *slot = outcome.into();
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
    pub(crate) fn release(&self, durable: Ticket, effects: &mut Effects) -> UnsentConfirms {
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
        match window.waiting.front() {
            Some(ConfirmState::Ticket(ticket)) => {
                let ticket = *ticket;
                if window.listed.is_some_and(|listed| listed <= ticket) {
                    return UnsentConfirms::AlreadyListed;
                }
                window.listed = Some(ticket);
                UnsentConfirms::MustBeListed(ticket)
            }
            // A refusal was sent above.
            Some(ConfirmState::Routing | ConfirmState::Refused) | None => {
                UnsentConfirms::NoneWaitForStore
            }
        }
    }

    /// Like [`Confirms::release`], for a channel that was taken off the broker's list.
    pub(crate) fn release_listed(&self, durable: Ticket, effects: &mut Effects) -> UnsentConfirms {
        lock(&self.window).listed = None;
        self.release(durable, effects)
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
            confirms.set(tag, RouteOutcome::Ticket(Ticket::NONE), &mut effects);
        }
        assert_eq!(
            confirms.release(Ticket::NONE, &mut effects),
            UnsentConfirms::NoneWaitForStore
        );
        assert!(lock(&confirms.window).waiting.capacity() <= 1024);
    }
}

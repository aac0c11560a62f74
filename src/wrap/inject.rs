//! When a line may be typed, and every step of typing it. Pure: no terminal, no clock.
//!
//! ```text
//! Waiting ──Free──▶ Noting ──synced, still Free──▶ Pasted ──redrawn, quiet, nothing open──▶ Entered ──▶ Waiting
//!    │                 └──no longer Free──▶ Waiting  │                                        │ no turn after 1 s:
//!    │ held > 2 s, hook armed                        │ a person's keys waited too long        │ one more Enter,
//!    └──▶ Noting ──▶ Handed ──taken──▶ Waiting       └──▶ Stranded ◀───────────────────────────┘ then give up
//! ```
//!
//! The caller tells what happened, then asks [`Injection::step`] until it says [`Step::Wait`]. Between the first
//! byte of a text and its Enter, a person's keys go through [`Injection::keys`], which keeps them back and gives
//! them out again, in order, afterwards. Neither Ctrl-C nor Escape is ever written.
//!
//! Relies on [`super::attention`] for whether the agent is free.

mod foreground;
mod pause;
mod queue;
mod steps;
mod text;

use std::time::{Duration, Instant};

use super::attention::{Attention, Event};
use super::hold::Hold;

use queue::Queue;
pub use queue::{Item, Ticket};

/// What a message waits for the keyboard before the hook delivers it.
const PATIENCE: Duration = Duration::from_secs(2);
/// Without a sign of a turn for so long, Enter was not taken.
const TURN_SIGN: Duration = Duration::from_secs(1);
/// A text that the screen has not shown after so long was swallowed.
const LOST: Duration = Duration::from_secs(10);
/// A way in that failed so often is switched off for the session.
const FAILURES: u8 = 2;

/// How messages get in (`--delivery`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The keyboard, and the hook when the keyboard is held back for long.
    Auto,
    /// The keyboard alone.
    Pty,
    /// The hook alone.
    Hook,
    /// Neither: title, bell and `cbroker inbox`.
    Notify,
}

/// What became of a text that a hook was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handover {
    /// It stands in the agent's transcript.
    Taken,
    /// It does not.
    Refused,
}

/// What the caller shall do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Sync the intent to submit these to disk, then say [`Injection::noted`].
    Note(Vec<Ticket>),
    /// Write these bytes to the agent, then say [`Injection::written`] when all of them are out.
    Write(Vec<u8>),
    /// Their Enter was written: note it as done, and ack them.
    Entered(Vec<Ticket>),
    /// Their turn began: receipts may say so.
    Begun(Vec<Ticket>),
    /// Gave up on them for this reason; those that were entered are acked already.
    Stuck(Vec<Ticket>, Hold),
    /// Nothing is left to do about them, though no turn was seen to begin: a person dealt with the text in the box.
    Ended(Vec<Ticket>),
    /// Hand this text to the waiting hook, then say [`Injection::handed`].
    Hand(Vec<Ticket>, String),
    /// Write these keys of the person, kept back until now.
    Replay(Vec<u8>),
    /// Nothing now; ask again at this time or when something happened.
    Wait(Option<Instant>),
}

#[derive(Debug)]
enum Phase {
    /// Nothing of ours is with the agent.
    Waiting,
    /// The intent is on its way to the disk.
    Noting {
        tickets: Vec<Ticket>,
        is_synced: bool,
        way: Way,
    },
    /// The text is (being) written; `out` is when its last byte was.
    Pasted {
        tickets: Vec<Ticket>,
        out: Option<Instant>,
        redrawn: bool,
    },
    /// Enter is (being) written.
    Entered {
        tickets: Vec<Ticket>,
        out: Option<Instant>,
        presses: u8,
    },
    /// Our text stands in the box with no Enter to follow.
    Stranded {
        tickets: Vec<Ticket>,
        was_entered: bool,
        since: Instant,
    },
    /// The hook has it; the transcript will tell.
    Handed { tickets: Vec<Ticket> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Keyboard,
    Hook,
}

/// The one line of messages into one agent.
#[derive(Debug)]
pub struct Injection {
    delivery: Delivery,
    batch: usize,
    queue: Queue,
    phase: Phase,
    kept: pause::Kept,
    hook_is_armed: bool,
    failures: [u8; 2],
    hold: Option<(Hold, Instant)>,
    is_paused: bool,
    begun: Vec<Ticket>,
}

impl Injection {
    /// An empty line. `batch` is how many waiting messages may share one submission.
    pub fn new(delivery: Delivery, batch: usize) -> Self {
        Self {
            delivery,
            batch: batch.max(1),
            queue: Queue::default(),
            phase: Phase::Waiting,
            kept: pause::Kept::default(),
            hook_is_armed: false,
            failures: [0; 2],
            hold: None,
            is_paused: false,
            begun: Vec::new(),
        }
    }

    /// A message joins the end of the line.
    pub fn offer(&mut self, item: Item) {
        self.queue.push(item);
    }

    /// Takes a waiting message out of the line: it was read another way, or the broker has it back.
    ///
    /// `false` when it is not waiting: it may be with the agent already.
    pub fn withdraw(&mut self, ticket: Ticket) -> bool {
        let is_under_way = match &self.phase {
            Phase::Waiting => self.begun.contains(&ticket),
            Phase::Noting { tickets, .. }
            | Phase::Pasted { tickets, .. }
            | Phase::Entered { tickets, .. }
            | Phase::Stranded { tickets, .. }
            | Phase::Handed { tickets, .. } => tickets.contains(&ticket),
        };
        !is_under_way && self.queue.remove(ticket)
    }

    /// `cbroker pause`: nothing goes in until [`Injection::resume`].
    pub fn pause(&mut self) {
        self.is_paused = true;
    }

    /// `cbroker resume`: lets everything go in again, also what was held back for a reason of its own.
    pub fn resume(&mut self) {
        self.is_paused = false;
        self.unblock();
    }

    /// Lets in what was held back for a reason of its own.
    pub fn unblock(&mut self) {
        self.queue.unblock();
    }

    /// Whether a person paused this session.
    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// A hook waits to carry a message in.
    pub fn arm(&mut self) {
        self.hook_is_armed = true;
    }

    /// No hook waits.
    pub fn disarm(&mut self) {
        self.hook_is_armed = false;
    }

    /// Whether anything waits or is under way; while not, nobody needs to look at the screen.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && matches!(self.phase, Phase::Waiting) && self.kept.is_empty()
    }

    /// Messages that wait, in order, each with the reason that it would be given now.
    pub fn waiting(&self) -> impl Iterator<Item = (&Item, Option<Hold>)> {
        let general = if self.is_paused {
            Some(Hold::Paused)
        } else {
            self.hold.as_ref().map(|(hold, _)| hold.clone())
        };
        self.queue
            .items()
            .map(move |item| (item, item.blocked.clone().or_else(|| general.clone())))
    }

    /// Why the first waiting message waits.
    pub fn hold(&self) -> Option<Hold> {
        self.waiting().next().and_then(|(_, hold)| hold)
    }

    /// Ways in that are switched off after failures, for the log.
    pub fn ways_off(&self) -> Vec<&'static str> {
        let ways = [(Way::Keyboard, "the keyboard"), (Way::Hook, "the hook")];
        let off = ways.iter().filter(|(way, _)| self.is_off(*way));
        off.map(|(_, name)| *name).collect()
    }

    /// A person's bytes: those to pass on now. `None` while they are kept back.
    pub fn keys<'a>(&mut self, bytes: &'a [u8], now: Instant) -> Option<&'a [u8]> {
        let passed = self.reports(bytes);
        if passed.is_none() {
            self.kept.is_waited_for(now);
        }
        passed
    }

    /// The same for answers and reports of the terminal: nobody waits for their echo, and nobody typed on.
    pub fn reports<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let is_open = matches!(&self.phase, Phase::Pasted { .. } | Phase::Entered { .. });
        if (is_open || !self.kept.is_empty()) && self.kept.has_room() {
            self.kept.keep(bytes);
            return None;
        }
        Some(bytes)
    }

    /// The intent of the noted messages is on disk.
    pub fn noted(&mut self) {
        if let Phase::Noting { is_synced, .. } = &mut self.phase {
            *is_synced = true;
        }
    }

    /// All bytes of the last [`Step::Write`] are with the terminal.
    pub fn written(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Pasted { out, .. } | Phase::Entered { out, .. } if out.is_none() => {
                *out = Some(now);
            }
            _ => {}
        }
    }

    /// The hook's end of [`Step::Hand`]: the transcript holds the message, or it does not.
    pub fn handed(&mut self, handover: Handover) {
        let Phase::Handed { tickets, .. } = &mut self.phase else {
            return;
        };
        let tickets = std::mem::take(tickets);
        self.phase = Phase::Waiting;
        if handover == Handover::Taken {
            self.failures[Way::Hook as usize] = 0;
            self.begun = tickets;
        } else {
            self.failures[Way::Hook as usize] += 1;
            self.queue.repeat(&tickets);
        }
    }

    /// A hook of the agent spoke.
    pub fn event(&mut self, event: &Event) {
        let Event::PromptSubmitted(prompt) = event else {
            return;
        };
        let is_ours = |tickets: &[Ticket]| self.queue.names(tickets, prompt);
        match &self.phase {
            Phase::Entered { tickets, .. }
            | Phase::Stranded { tickets, .. }
            | Phase::Pasted { tickets, .. }
                if is_ours(tickets) =>
            {
                self.begin();
            }
            _ => {}
        }
    }

    fn begin(&mut self) {
        let phase = std::mem::replace(&mut self.phase, Phase::Waiting);
        let (Phase::Entered { tickets, .. }
        | Phase::Stranded { tickets, .. }
        | Phase::Pasted { tickets, .. }) = phase
        else {
            return;
        };
        self.failures[Way::Keyboard as usize] = 0;
        self.begun = tickets;
    }

    /// The next thing to do at `now`, given what is known of the agent.
    pub fn step(&mut self, agent: &Attention, now: Instant) -> Step {
        if !self.begun.is_empty() {
            // By the hook, or by a person's Enter that we had given up on, nobody was told of an Enter yet.
            let unheard = self.queue.enter(&self.begun);
            if !unheard.is_empty() {
                return Step::Entered(unheard);
            }
            let tickets = std::mem::take(&mut self.begun);
            self.queue.finish(&tickets);
            return Step::Begun(tickets);
        }
        match &self.phase {
            Phase::Waiting => self.step_waiting(agent, now),
            // A handed text has no time limit: a dialog may stand for an hour before the agent reads on.
            Phase::Handed { .. }
            | Phase::Noting {
                is_synced: false, ..
            } => Step::Wait(None),
            Phase::Noting { .. } => self.step_noted(agent, now),
            Phase::Pasted { .. } => self.step_pasted(agent, now),
            Phase::Entered { .. } => self.step_entered(agent, now),
            Phase::Stranded { .. } => self.step_stranded(agent, now),
        }
    }

    fn is_off(&self, way: Way) -> bool {
        self.failures[way as usize] >= FAILURES
    }
}

#[cfg(test)]
mod tests;

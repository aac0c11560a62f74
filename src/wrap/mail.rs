//! The messages that a session has taken from its queue, from delivery to ack.
//!
//! Each has a ticket. A message whose delivery was lost with the connection comes again under a new one; what is with
//! the agent by then keeps its ticket and takes the new delivery, so that it is acked and not injected twice.
//!
//! Relies on the peer for deliveries and on the envelope for what a message is.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::hold::Hold;
use super::inject::Ticket;
use crate::envelope::Envelope;
use crate::peer::Delivery;

/// A hold shorter than this is no news for a sender.
const NEWS_AFTER: Duration = Duration::from_millis(500);
/// A reason that comes back within this is none either: some change with every blink of the screen.
const NEWS_AGAIN: Duration = Duration::from_mins(1);

/// One message.
#[derive(Debug)]
pub(super) struct Letter {
    /// What it says.
    pub(super) envelope: Envelope,
    /// The safe line.
    pub(super) line: String,
    /// Sessions' messages that led to it; `None` where no session sent it.
    pub(super) hops: Option<u32>,
    /// Where its sender waits for receipts.
    pub(super) receipt_to: Option<String>,
    /// The broker's hand; `None` when the connection was lost.
    pub(super) delivery: Option<Delivery>,
    /// Its Enter was written and noted: only its ack is missing.
    pub(super) is_done: bool,
    /// Nothing more is said about it.
    is_over: bool,
    since: Instant,
    /// Reasons that were told, the present one last.
    told: Vec<(Hold, Instant)>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Mail {
    last: u64,
    letters: BTreeMap<Ticket, Letter>,
    /// Deliveries that are no messages, until they are buried.
    dead: BTreeMap<Ticket, Delivery>,
}

impl Mail {
    /// A number for what has just come in.
    pub(super) fn ticket(&mut self) -> Ticket {
        self.last += 1;
        Ticket(self.last)
    }

    pub(super) fn keep(
        &mut self,
        ticket: Ticket,
        delivery: Delivery,
        envelope: Envelope,
        now: Instant,
    ) {
        let letter = Letter {
            line: String::new(),
            hops: delivery.hops(),
            receipt_to: delivery.receipt_to().map(str::to_owned),
            delivery: Some(delivery),
            is_done: false,
            is_over: false,
            since: now,
            told: Vec::new(),
            envelope,
        };
        self.letters.insert(ticket, letter);
    }

    pub(super) fn keep_dead(&mut self, ticket: Ticket, delivery: Delivery) {
        self.dead.insert(ticket, delivery);
    }

    pub(super) fn take_dead(&mut self, ticket: Ticket) -> Option<Delivery> {
        self.dead.remove(&ticket)
    }

    pub(super) fn get(&self, ticket: Ticket) -> Option<&Letter> {
        self.letters.get(&ticket)
    }

    pub(super) fn get_mut(&mut self, ticket: Ticket) -> Option<&mut Letter> {
        self.letters.get_mut(&ticket)
    }

    pub(super) fn take(&mut self, ticket: Ticket) -> Option<Letter> {
        self.letters.remove(&ticket)
    }

    /// The message of this identity that is here already: it came again.
    pub(super) fn again(&self, identity: &str) -> Option<Ticket> {
        self.letters
            .iter()
            .find(|(_, letter)| letter.envelope.identity() == identity)
            .map(|(ticket, _)| *ticket)
    }

    /// Whether a message under this id is here.
    pub(super) fn has_id(&self, id: &str) -> bool {
        self.letters.values().any(|letter| letter.envelope.id == id)
    }

    /// Identities of these messages.
    pub(super) fn identities(&self, tickets: &[Ticket]) -> Vec<String> {
        tickets
            .iter()
            .filter_map(|ticket| Some(self.letters.get(ticket)?.envelope.identity()))
            .collect()
    }

    /// Ids of these messages.
    pub(super) fn ids(&self, tickets: &[Ticket]) -> Vec<String> {
        tickets
            .iter()
            .filter_map(|ticket| Some(self.letters.get(ticket)?.envelope.id.clone()))
            .collect()
    }

    /// The connection is gone, and every open delivery with it.
    pub(super) fn lose_deliveries(&mut self) -> Vec<Ticket> {
        self.dead.clear();
        for letter in self.letters.values_mut() {
            letter.delivery = None;
        }
        self.letters.keys().copied().collect()
    }

    /// Nothing more will be said about it.
    pub(super) fn is_over(&mut self, ticket: Ticket) {
        if let Some(letter) = self.letters.get_mut(&ticket) {
            letter.is_over = true;
        }
    }

    /// Lets go of it once it is both done and over.
    pub(super) fn drop_finished(&mut self, ticket: Ticket) {
        if self
            .letters
            .get(&ticket)
            .is_some_and(|letter| letter.is_done && letter.is_over)
        {
            self.letters.remove(&ticket);
        }
    }

    /// Some were injected and are not noted as done yet.
    pub(super) fn has_unfinished(&self) -> bool {
        self.letters
            .values()
            .any(|letter| letter.is_over && !letter.is_done)
    }

    /// The id that a message claims which is none; empty where it claims none.
    pub(super) fn id_of_dead(delivery: &Delivery) -> String {
        let claimed = serde_json::from_slice::<serde_json::Value>(&delivery.body).ok();
        claimed
            .as_ref()
            .and_then(|body| body.get("id")?.as_str())
            .filter(|id| crate::envelope::is_id(id))
            .unwrap_or_default()
            .to_owned()
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.letters
            .values()
            .filter(|letter| !letter.is_done && !letter.is_over)
            .count()
    }

    /// When the next hold may become news.
    pub(super) fn next_news(&self, now: Instant) -> Option<Instant> {
        self.letters
            .values()
            .filter(|letter| letter.told.is_empty())
            .map(|letter| letter.since + NEWS_AFTER)
            .filter(|&at| at > now)
            .min()
    }

    /// Whether this hold is news for the sender; remembers it as told.
    pub(super) fn is_news(&mut self, ticket: Ticket, hold: &Hold, now: Instant) -> bool {
        let Some(letter) = self.letters.get_mut(&ticket) else {
            return false;
        };
        let is_last = letter.told.last().is_some_and(|(told, _)| told == hold);
        if letter.is_done || now < letter.since + NEWS_AFTER || is_last {
            return false;
        }
        letter.told.retain(|(_, at)| now < *at + NEWS_AGAIN);
        let is_news = letter.told.iter().all(|(told, _)| told != hold);
        if is_news {
            letter.told.push((hold.clone(), now));
        }
        is_news
    }
}

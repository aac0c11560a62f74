//! Messages in the order of their arrival, from the broker's hand to the agent's.
//!
//! Relies on nothing.

use std::collections::VecDeque;

use crate::wrap::hold::Hold;

/// The longest paste that was seen to arrive whole in the agents.
const PASTE_BYTES: usize = 64 * 1024;

/// Names one delivery of one message for as long as this session has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// A message in the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its name here.
    pub ticket: Ticket,
    /// Its sender's name for it.
    pub id: String,
    /// What will be typed: one safe line.
    pub line: String,
    /// The same, marked as a possible repetition.
    pub line_again: String,
    /// It may have reached the agent before.
    pub may_repeat: bool,
    /// Why this one waits whatever the agent does.
    pub blocked: Option<Hold>,
}

impl Item {
    fn text(&self) -> &str {
        if self.may_repeat {
            &self.line_again
        } else {
            &self.line
        }
    }
}

#[derive(Debug)]
struct Entry {
    item: Item,
    is_entered: bool,
}

/// The line.
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: VecDeque<Entry>,
}

impl Queue {
    pub(super) fn push(&mut self, item: Item) {
        self.entries.push_back(Entry {
            item,
            is_entered: false,
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn items(&self) -> impl Iterator<Item = &Item> {
        self.entries.iter().map(|entry| &entry.item)
    }

    pub(super) fn unblock(&mut self) {
        for entry in &mut self.entries {
            entry.item.blocked = None;
        }
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, ticket: Ticket) -> bool {
        let place = self
            .entries
            .iter()
            .position(|entry| entry.item.ticket == ticket);
        place.and_then(|place| self.entries.remove(place)).is_some()
    }

    /// The first message that nothing of its own holds back.
    pub(super) fn first_free(&self) -> Option<&Item> {
        self.items().find(|item| item.blocked.is_none())
    }

    /// The first of those, in order: `count` at most, and as many as fit into one paste. They stay in the line.
    pub(super) fn next(&self, count: usize) -> Vec<Ticket> {
        let mut bytes = 0;
        self.items()
            .filter(|item| item.blocked.is_none())
            .take(count)
            .take_while(|item| {
                let is_first = bytes == 0;
                bytes += item.text().len() + 1;
                is_first || bytes <= PASTE_BYTES
            })
            .map(|item| item.ticket)
            .collect()
    }

    /// Their lines, one below the other.
    pub(super) fn text(&self, tickets: &[Ticket]) -> String {
        let lines: Vec<&str> = self.of(tickets).map(|entry| entry.item.text()).collect();
        lines.join("\n")
    }

    /// Whether `prompt` holds one of these messages.
    pub(super) fn names(&self, tickets: &[Ticket], prompt: &str) -> bool {
        self.of(tickets)
            .any(|entry| prompt.contains(&format!(" id={}]", entry.item.id)))
    }

    /// Their Enter was written. Gives those for which this is news.
    pub(super) fn enter(&mut self, tickets: &[Ticket]) -> Vec<Ticket> {
        let mut news = Vec::new();
        for entry in self
            .entries
            .iter_mut()
            .filter(|entry| tickets.contains(&entry.item.ticket) && !entry.is_entered)
        {
            entry.is_entered = true;
            news.push(entry.item.ticket);
        }
        news
    }

    /// They are with the agent, for good.
    pub(super) fn finish(&mut self, tickets: &[Ticket]) {
        self.entries
            .retain(|entry| !tickets.contains(&entry.item.ticket));
    }

    /// They have to go in again, and may have been seen already.
    pub(super) fn repeat(&mut self, tickets: &[Ticket]) {
        for entry in self
            .entries
            .iter_mut()
            .filter(|entry| tickets.contains(&entry.item.ticket))
        {
            entry.item.may_repeat = true;
        }
    }

    fn of<'a>(&'a self, tickets: &'a [Ticket]) -> impl Iterator<Item = &'a Entry> {
        self.entries
            .iter()
            .filter(|entry| tickets.contains(&entry.item.ticket))
    }
}

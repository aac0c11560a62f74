//! The results of a move, and what is said of them.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Leftover;
use crate::config::Address;
use crate::error::Error;
use crate::exit::Exit;
use crate::name::SessionName;
use crate::output::{Output, counted};

/// One moved queue, as `--json` prints it.
#[derive(Debug, Serialize)]
pub(super) struct MovedQueue {
    pub(super) name: String,
    pub(super) messages: u32,
    /// Why the queue, with the messages that were not moved, is still at the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stays: Option<String>,
}

/// The result for each queue so far.
#[derive(Default)]
pub(super) struct MovedQueues {
    queues: BTreeMap<SessionName, MovedQueue>,
    /// Why queues could not be moved.
    pub(super) failures: BTreeMap<SessionName, Error>,
    /// How many queues the last round found.
    found: usize,
}

impl MovedQueues {
    /// Begins a round: queues that stayed in the one before may be moved, or gone.
    pub(super) fn begin_round(&mut self) {
        self.found = 0;
        for queue in self.queues.values_mut() {
            queue.stays = None;
        }
    }

    /// Adds what one round did to a queue.
    pub(super) fn add(&mut self, name: &SessionName, round: MovedQueue) {
        self.found += 1;
        let before = self.queues.get(name).map_or(0, |queue| queue.messages);
        let messages = before + round.messages;
        let queue = MovedQueue { messages, ..round };
        self.queues.insert(name.clone(), queue);
    }

    /// Whether the last round found no queue.
    pub(super) fn found_none(&self) -> bool {
        self.found == 0
    }

    pub(super) fn messages(&self) -> u32 {
        self.queues.values().map(|queue| queue.messages).sum()
    }

    /// How many queues the last round left at the source.
    pub(super) fn staying(&self) -> usize {
        let queues = self.queues.values();
        queues.filter(|queue| queue.stays.is_some()).count()
    }

    /// Prints why queues stay whose messages were moved.
    pub(super) fn print_what_stays(&self, output: &Output) {
        for (name, queue) in &self.queues {
            let why = queue.stays.as_ref();
            if let Some(why) = why.filter(|_| !self.failures.contains_key(name)) {
                output.notice(format!("the queue `{name}` stays at the source: {why}"));
            }
        }
    }

    pub(super) fn print(&self, there: &Address, output: &Output) -> Result<(), Error> {
        let queues: Vec<&MovedQueue> = self.queues.values().collect();
        output.json(&queues)?;
        let moved = queues.len() - self.failures.len();
        output.line(format!(
            "moved {} with {} to {there}",
            counted(moved as u64, "queue"),
            counted(self.messages(), "message")
        ))
    }

    /// An error unless everything was moved that had to be.
    pub(super) fn verdict(mut self, leftover: Leftover, here: &Address) -> Result<(), Error> {
        let staying = self.staying();
        let last_failure = self.failures.pop_last();
        if last_failure.is_none() && (leftover == Leftover::MayStay || self.found_none()) {
            return Ok(());
        }
        let exit = last_failure
            .as_ref()
            .map_or(Exit::Failed, |(_, error)| error.exit());
        let hint = match last_failure {
            None => "stop the programs that use the source, and run the same command again",
            Some(_) => "repair what was reported for each queue, and run the same command again",
        };
        let what = match staying {
            0 => "messages still come in".to_owned(),
            1 => "1 queue stays".to_owned(),
            count => format!("{count} queues stay"),
        };
        Err(Error::new("not everything was moved")
            .caused_by(format!("{what} at {here}"))
            .with_hint(hint)
            .exit_with(exit))
    }
}

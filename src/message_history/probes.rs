//! Messages of probes (`cbroker doctor --probe`), which are no part of a conversation.
//!
//! `send` does not record them. Versions before did; what they wrote is left out when the history
//! is read, so the commands and the page show the same.

use std::collections::HashSet;

use super::HistoryEntry;
use crate::name::SessionName;

/// The sender that a probe names.
pub const PROBE_SENDER: &str = "doctor";
/// What a probe says.
pub const PROBE_TEXT: &str = "a probe";

/// Whether it is the message of a probe. The page decides it in the same way.
pub fn is_probe(to: &str, from: &str, text: &str) -> bool {
    let is_awaited = || SessionName::new(to).is_ok_and(|to| to.is_answer_queue());
    from == PROBE_SENDER && text == PROBE_TEXT && is_awaited()
}

/// The probes of the user's own among the entries so far, by id and session. Another user may have
/// published what looks like one, so that is shown.
#[derive(Debug, Default)]
pub(super) struct RecordedProbes(HashSet<(String, String)>);

impl RecordedProbes {
    /// Whether the next entry is about a probe. The entry with the text comes first.
    pub(super) fn has(&mut self, entry: &HistoryEntry) -> bool {
        if entry.publisher.is_some() {
            return false;
        }
        let key = || (entry.id.clone(), entry.session.clone());
        match &entry.message {
            Some(message) if is_probe(&entry.session, &message.from, &message.text) => {
                self.0.insert(key());
                true
            }
            _ => !self.0.is_empty() && self.0.contains(&key()),
        }
    }
}

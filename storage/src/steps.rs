//! The changes of one commit, cut into steps: each is applied whole or not at all, in this order, and makes sense by itself.
//!
//! A step is small because the engine keeps every page that a step touches in memory until the step is over. A small
//! commit is one step. Relies on nothing.

use crate::engine::Change;

/// A step is ended when its rows reach this size, or as many changes.
const STEP_BYTES: usize = 1 << 20;
const STEP_CHANGES: usize = 160;

/// Changes in the order in which they have to reach the disk.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    ended: Vec<Vec<Change>>,
    open: Vec<Change>,
    bytes: usize,
}

impl Steps {
    pub(crate) fn push(&mut self, change: Change) {
        if let Change::Put(_, value) = &change {
            self.bytes += value.len();
        }
        self.open.push(change);
    }

    /// Whether the step should be ended as soon as it makes sense by itself.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= STEP_BYTES || self.open.len() >= STEP_CHANGES
    }

    /// Ends the step: what was pushed so far is true without what comes later.
    pub(crate) fn end(&mut self) {
        if !self.open.is_empty() {
            self.ended.push(std::mem::take(&mut self.open));
            self.bytes = 0;
        }
    }

    /// Bytes of all rows so far.
    pub(crate) fn bytes(&self) -> u64 {
        let changes = self.ended.iter().flatten().chain(&self.open);
        changes
            .map(|change| {
                if let Change::Put(_, value) = change {
                    value.len() as u64
                } else {
                    0
                }
            })
            .sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.ended.is_empty()
    }

    /// All steps, in order.
    pub(crate) fn finish(mut self) -> Vec<Vec<Change>> {
        self.end();
        self.ended
    }
}

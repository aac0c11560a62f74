//! When the terminal's foreground has to be looked at: right before the first byte of a text, and
//! before its Enter.
//!
//! Relies on the types of [`super`].

use std::time::Instant;

use super::{Delivery, Injection, Phase, Way};
use crate::wrap::attention::Attention;

impl Injection {
    /// Whether the next step may write something that a shell in the foreground would execute.
    pub fn may_type(&self, agent: &Attention, now: Instant) -> bool {
        match &self.phase {
            Phase::Waiting => {
                !matches!(self.delivery, Delivery::Notify | Delivery::Hook)
                    && !self.is_paused
                    && self.queue.first_free().is_some()
                    && agent.asks_for_foreground(now)
            }
            Phase::Noting {
                is_synced: true,
                way: Way::Keyboard,
                ..
            }
            | Phase::Pasted { out: Some(_), .. }
            | Phase::Entered { out: Some(_), .. } => true,
            _ => false,
        }
    }
}

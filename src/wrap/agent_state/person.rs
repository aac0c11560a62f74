//! The person's keys: whether one may still be on its way to the box, and what they left in it.
//! Pure.
//!
//! A key is on its way until the program has read it (where the system tells), and until what it
//! did was drawn: a slow agent shows an empty box for seconds after a text was typed.
//!
//! Relies on the counting of a draft.

use std::time::{Duration, Instant};

use crate::wrap::agents::reading::Input;
use crate::wrap::keys::{Draft, Press};

/// How soon it is asked again whether the program has read its input.
const UNREAD_AGAIN: Duration = Duration::from_millis(100);

/// What is known of the person's typing.
#[derive(Debug, Default)]
pub(super) struct Person {
    draft: Draft,
    last_key: Option<Instant>,
    /// The program has not read all of its input yet.
    is_unread: bool,
    /// When the last key was known to be read.
    read_at: Option<Instant>,
}

impl Person {
    pub(super) fn press(&mut self, press: Press, now: Instant) {
        self.last_key = Some(now);
        self.read_at = Some(now);
        self.draft.press(press);
    }

    pub(super) fn submitted(&mut self) {
        self.draft.clear();
    }

    /// `None`: the system does not tell, so a key counts as read when it was pressed.
    pub(super) fn input_is_read(&mut self, is_read: Option<bool>, now: Instant) {
        let was_unread = std::mem::replace(&mut self.is_unread, is_read == Some(false));
        if self.is_unread || was_unread {
            self.read_at = self.last_key.map(|_| now);
        }
    }

    pub(super) fn has_read(&self) -> bool {
        !self.is_unread
    }

    /// The box was looked at.
    pub(super) fn box_shows(
        &mut self,
        input: &Input,
        last_output: Instant,
        now: Instant,
        hands: Duration,
    ) {
        let is_settled = self.hands_rest_at(hands, now).is_none();
        if *input == Input::Empty && is_settled && self.was_drawn_after(last_output) {
            self.draft.clear();
        }
    }

    /// Something was drawn since the program read the last key.
    pub(super) fn was_drawn_after(&self, last_output: Instant) -> bool {
        !self.is_unread && self.read_at.is_none_or(|read| last_output > read)
    }

    pub(super) fn has_draft(&self) -> bool {
        self.draft.is_present()
    }

    /// When the person will have pressed no key for `pause`; `None` when that is so already.
    pub(super) fn hands_rest_at(&self, pause: Duration, now: Instant) -> Option<Instant> {
        self.last_key
            .map(|key| key + pause)
            .filter(|&free| free > now)
    }

    /// Whether nothing that a person typed can be on its way to the box. `Err`: it can, and when to
    /// ask again.
    pub(super) fn rests(
        &self,
        last_output: Instant,
        now: Instant,
        hands: Duration,
    ) -> Result<(), Option<Instant>> {
        if let Some(free) = self.hands_rest_at(hands, now) {
            return Err(Some(free));
        }
        if self.is_unread {
            return Err(Some(now + UNREAD_AGAIN));
        }
        if self.draft.is_present() && !self.was_drawn_after(last_output) {
            return Err(None);
        }
        Ok(())
    }
}

//! The person's keys: whether one may still be on its way to the box, and what they left in it.
//! Pure.
//!
//! A key is on its way until the program has read it (where the system tells), and until what it
//! did was drawn: a slow agent shows an empty box for seconds after a text was typed.
//!
//! Relies on `keys::Draft`.

use std::time::{Duration, Instant};

use crate::wrap::agents::reading::Input;
use crate::wrap::keys::{Draft, Press};

/// How soon it is asked again whether the program has read its input.
const UNREAD_AGAIN: Duration = Duration::from_millis(100);
/// A key that recalls a text, and was read, draws something within this, or there was none.
const DRAWN_WITHIN: Duration = Duration::from_secs(10);

/// What is known of the person's typing.
#[derive(Debug, Default)]
pub(super) struct Person {
    draft: Draft,
    /// Letters are among the keys of the draft.
    has_letters: bool,
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
        self.has_letters &= self.draft.is_present();
        self.has_letters |= matches!(press, Press::Text(_));
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
        if *input == Input::Empty && is_settled && self.is_drawn(last_output, now) {
            self.draft.clear();
        }
    }

    /// What the last key did is drawn. What the program wrote before it was seen to have read the
    /// key may be older than that.
    pub(super) fn is_drawn(&self, last_output: Instant, now: Instant) -> bool {
        let is_late = |at: Instant| now >= at;
        !self.is_unread
            && (self.read_at.is_none_or(|read| last_output > read)
                || self.drawn_at_latest().is_some_and(is_late))
    }

    /// When the last key counts as drawn, though nothing is written. Letters never do.
    pub(super) fn drawn_at_latest(&self) -> Option<Instant> {
        let read_at = self.read_at.filter(|_| !self.has_letters);
        read_at.map(|read| read + DRAWN_WITHIN)
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
        if self.draft.is_present() && !self.is_drawn(last_output, now) {
            return Err(self.drawn_at_latest());
        }
        Ok(())
    }
}

//! The person's keys: whether one may not have reached the box yet, and whether they left a draft
//! in it. Pure.
//!
//! A key has reached the box once the program has read it (if the system tells) and its effect was
//! drawn: a slow agent shows an empty box for seconds after a text was typed.
//!
//! Relies on `keys::Draft`.

use std::time::{Duration, Instant};

use crate::wrap::agents::reading::Input;
use crate::wrap::keys::{Draft, KeyPress};

/// Delay before checking again whether the program has read its input.
const RETRY_UNREAD: Duration = Duration::from_millis(100);
/// Time limit for the effect of a key that may recall a text; after it there was none.
const DRAWN_WITHIN: Duration = Duration::from_secs(10);

/// The person's typing.
#[derive(Debug, Default)]
pub(super) struct PersonTyping {
    draft: Draft,
    /// Whether letters are among the keys of the draft.
    has_letters: bool,
    last_key: Option<Instant>,
    /// Whether the program has unread input.
    is_unread: bool,
    /// When it was last checked whether the program has unread input.
    checked_at: Option<Instant>,
    /// When the last key was known to be read.
    read_at: Option<Instant>,
}

impl PersonTyping {
    pub(super) fn press(&mut self, press: KeyPress, now: Instant) {
        self.last_key = Some(now);
        self.read_at = Some(now);
        self.has_letters &= self.draft.is_present();
        self.has_letters |= matches!(press, KeyPress::Text(_));
        self.draft.press(press);
    }

    pub(super) fn submitted(&mut self) {
        self.draft.clear();
    }

    /// Records whether the program has read its input. With `None`, a key counts as read when it
    /// was pressed.
    pub(super) fn record_input_read(&mut self, is_read: Option<bool>, now: Instant) {
        self.checked_at = Some(now);
        let was_unread = std::mem::replace(&mut self.is_unread, is_read == Some(false));
        if self.is_unread || was_unread {
            self.read_at = self.last_key.map(|_| now);
        }
    }

    pub(super) fn has_read(&self) -> bool {
        !self.is_unread
    }

    /// Whether the program has read all input that was written by `written`.
    pub(super) fn has_read_since(&self, written: Instant) -> bool {
        self.has_read() && self.checked_at.is_some_and(|checked| checked >= written)
    }

    /// Records the box in a reading of the screen.
    pub(super) fn record_box(
        &mut self,
        input: &Input,
        last_output: Instant,
        now: Instant,
        pause: Duration,
    ) {
        let is_settled = self.idle_at(pause, now).is_none();
        if *input == Input::Empty && is_settled && self.is_drawn(last_output, now) {
            self.draft.clear();
        }
    }

    /// Whether the effect of the last key is drawn. Output that precedes the reading of the key
    /// does not count.
    pub(super) fn is_drawn(&self, last_output: Instant, now: Instant) -> bool {
        let is_late = |at: Instant| now >= at;
        !self.is_unread
            && (self.read_at.is_none_or(|read| last_output > read)
                || self.drawn_at_latest().is_some_and(is_late))
    }

    /// When the last key counts as drawn without output. Letters never do.
    pub(super) fn drawn_at_latest(&self) -> Option<Instant> {
        let read_at = self.read_at.filter(|_| !self.has_letters);
        read_at.map(|read| read + DRAWN_WITHIN)
    }

    pub(super) fn has_draft(&self) -> bool {
        self.draft.is_present()
    }

    /// When the person will have pressed no key for `pause`; `None` if that is so already.
    pub(super) fn idle_at(&self, pause: Duration, now: Instant) -> Option<Instant> {
        self.last_key
            .map(|key| key + pause)
            .filter(|&free| free > now)
    }

    /// Checks that all keys of the person have reached the box. `Err` holds when to check again.
    pub(super) fn check_idle(
        &self,
        last_output: Instant,
        now: Instant,
        pause: Duration,
    ) -> Result<(), Option<Instant>> {
        if let Some(free) = self.idle_at(pause, now) {
            return Err(Some(free));
        }
        if self.is_unread {
            return Err(Some(now + RETRY_UNREAD));
        }
        if self.draft.is_present() && !self.is_drawn(last_output, now) {
            return Err(self.drawn_at_latest());
        }
        Ok(())
    }
}

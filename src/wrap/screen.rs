//! The screen of a program, drawn from its output when it is read.
//!
//! Drawing is slower than forwarding bytes, so output is buffered and drawn when the screen is read
//! or when the buffer is full. Only a flood is not drawn completely: its last part decides what the
//! screen shows.
//!
//! # Cost
//! Every byte is drawn once, in large pieces. In a flood every byte is copied once, and at most
//! [`BACKLOG`] bytes are drawn in each period of [`CATCH_UP`].
//!
//! Relies on `vt100`. Time is an argument.

use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use super::agents::Profile;
use super::agents::reading::ScreenReading;
use super::screen_socket::ScreenText;

/// Maximum bytes of buffered output, ten times a full screen of coloured text.
const BACKLOG: usize = 512 * 1024;
/// More bytes than this between two readings are a flood; an agent draws far less at once.
const FLOOD: usize = 64 * 1024;
/// Filling the buffer sooner than this after it was drawn is a flood too.
const CATCH_UP: Duration = Duration::from_secs(1);
/// Maximum number of rows and of columns, more than any real window has.
const LARGEST: u16 = 1000;

/// A screen and the output that is not drawn yet.
pub(super) struct Screen {
    parser: vt100::Parser,
    undrawn: Vec<u8>,
    drawn_at: Option<Instant>,
}

impl Screen {
    /// Creates an empty screen.
    pub(super) fn new(rows: u16, columns: u16) -> Self {
        Self {
            parser: vt100::Parser::new(drawable(rows), drawable(columns), 0),
            undrawn: Vec::new(),
            drawn_at: None,
        }
    }

    /// Changes the size of the screen.
    pub(super) fn resize(&mut self, rows: u16, columns: u16) {
        self.draw();
        self.parser
            .screen_mut()
            .set_size(drawable(rows), drawable(columns));
    }

    /// Adds output of the program.
    pub(super) fn write(&mut self, output: &[u8], now: Instant) {
        self.undrawn.extend_from_slice(output);
        if self.undrawn.len() <= BACKLOG {
            return;
        }
        if self.drawn_at.is_none_or(|drawn| now >= drawn + CATCH_UP) {
            self.draw();
            self.drawn_at = Some(now);
        } else {
            self.undrawn.drain(..self.undrawn.len() - BACKLOG / 2);
        }
    }

    /// Whether so much output is buffered that a reading would be out of date at once.
    pub(super) fn is_flooded(&self) -> bool {
        self.undrawn.len() > FLOOD
    }

    /// Draws the screen and reads it.
    pub(super) fn read(&mut self, profile: &Profile, now: Instant) -> ScreenReading {
        self.draw();
        self.drawn_at = Some(now);
        ScreenReading::of(profile, self.parser.screen())
    }

    /// Draws the screen and returns its text.
    pub(super) fn text(&mut self, now: Instant) -> ScreenText {
        self.draw();
        self.drawn_at = Some(now);
        let screen = self.parser.screen();
        let (rows, columns) = screen.size();
        let mut lines: Vec<String> = screen
            .rows(0, columns.get())
            .map(|row| row.trim_end().to_owned())
            .collect();
        let shown = lines.iter().rposition(|line| !line.is_empty());
        lines.truncate(shown.map_or(0, |last| last + 1));
        ScreenText {
            rows: rows.get(),
            columns: columns.get(),
            lines,
        }
    }

    fn draw(&mut self) {
        self.parser.process(&self.undrawn);
        self.undrawn.clear();
        self.undrawn.shrink_to(FLOOD);
    }
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Screen")
            .field("undrawn", &self.undrawn.len())
            .finish_non_exhaustive()
    }
}

/// Limits a window's size, which may be zero or need a hundred gigabytes.
fn drawable(count: u16) -> NonZeroU16 {
    NonZeroU16::new(count.min(LARGEST)).unwrap_or(NonZeroU16::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wrap::agents::CLAUDE;
    use crate::wrap::agents::reading::Input;

    const BOX: &str = "\x1b[H\x1b[2J────────\r\n❯ \x1b7\r\n────────\r\n\x1b8";

    #[test]
    fn the_output_of_a_long_session_is_drawn_completely() {
        // The spinner wrote more than the buffer holds, so the box was dropped with it and never
        // drawn again.
        let mut now = Instant::now();
        let mut screen = Screen::new(24, 80);
        screen.write(BOX.as_bytes(), now);
        for _ in 0..3 * BACKLOG / 4096 {
            now += Duration::from_millis(100);
            screen.write(&b"\x1b[0m\x1b[0m".repeat(512), now);
        }
        assert_eq!(screen.read(&CLAUDE, now).input, Input::Empty);
    }

    #[test]
    fn a_window_of_any_size_can_be_drawn() {
        // Some scripts set the largest possible size, for which memory did not suffice.
        let mut screen = Screen::new(u16::MAX, u16::MAX);
        screen.resize(0, 0);
        screen.resize(u16::MAX, 80);
        screen.write(BOX.as_bytes(), Instant::now());
        assert_eq!(screen.read(&CLAUDE, Instant::now()).input, Input::Empty);
    }

    #[test]
    fn of_a_flood_only_the_end_is_kept_and_drawn() {
        let now = Instant::now();
        let mut screen = Screen::new(24, 80);
        for _ in 0..100 {
            screen.write(&b"flood\r\n".repeat(9000), now);
            assert!(screen.undrawn.len() <= BACKLOG);
        }
        assert!(screen.is_flooded());
        screen.write(BOX.as_bytes(), now);
        assert_eq!(screen.read(&CLAUDE, now).input, Input::Empty);
        assert!(!screen.is_flooded());
    }
}

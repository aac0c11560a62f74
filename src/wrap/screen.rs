//! The drawn screen of a program, for profiles that read it; brought up to date when it is read.
//!
//! Drawing costs more than passing bytes on, so output is kept as it came and drawn when the screen
//! is looked at, or when enough of it has gathered. Only a flood is not drawn whole: of what pours
//! in faster than a person reads, the last screens' worth decides what is shown.
//!
//! # Cost
//! Without a flood every byte is drawn once, in large pieces. In a flood one copy a byte, and a
//! drawing of at most [`BACKLOG`] bytes each [`CATCH_UP`].
//!
//! Relies on `vt100`. Time is an argument.

use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use super::agents::Profile;
use super::agents::reading::Reading;
use super::screen_socket::ScreenText;

/// Kept undrawn at most; a full screen of coloured text is a tenth of it.
const BACKLOG: usize = 512 * 1024;
/// What an agent draws at once is far less; more than this between two looks is a flood.
const FLOOD: usize = 64 * 1024;
/// The backlog filling sooner than this after a drawing is a flood too.
const CATCH_UP: Duration = Duration::from_secs(1);
/// More rows or columns than any person's window has; what is beyond them is not read.
const LARGEST: u16 = 1000;

/// A screen and the output that is not drawn on it yet.
pub(super) struct Screen {
    parser: vt100::Parser,
    undrawn: Vec<u8>,
    drawn_at: Option<Instant>,
}

impl Screen {
    /// An empty screen.
    pub(super) fn new(rows: u16, columns: u16) -> Self {
        Self {
            parser: vt100::Parser::new(drawable(rows), drawable(columns), 0),
            undrawn: Vec::new(),
            drawn_at: None,
        }
    }

    /// The window changed.
    pub(super) fn resize(&mut self, rows: u16, columns: u16) {
        self.draw();
        self.parser
            .screen_mut()
            .set_size(drawable(rows), drawable(columns));
    }

    /// The program wrote this.
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

    /// So much waits to be drawn that a look now would be out of date before it is over.
    pub(super) fn is_flooded(&self) -> bool {
        self.undrawn.len() > FLOOD
    }

    /// What the screen shows now.
    pub(super) fn read(&mut self, profile: &Profile, now: Instant) -> Reading {
        self.draw();
        self.drawn_at = Some(now);
        Reading::of(profile, self.parser.screen())
    }

    /// What it shows now, as text.
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

/// A window may claim any size: none at all, or cells for a hundred gigabytes.
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
        // Its spinner alone wrote more than the backlog; the box was dropped with it and never
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
        // Some scripts claim the largest there is; memory ran out.
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

//! The drawn screen of a program whose looks matter, kept only as up to date as somebody asks for.
//!
//! Drawing costs more than passing bytes on, so output is kept as it came and drawn when the screen is looked at.
//! What floods by between two looks is dropped from its middle: the last screens' worth of it decides what is shown.
//!
//! Relies on `vt100`.

use std::num::NonZeroU16;

use super::agents::Profile;
use super::agents::reading::Reading;

/// Kept undrawn at most; a full screen of coloured text is a tenth of it.
const BACKLOG: usize = 512 * 1024;

/// A screen and the output that is not drawn on it yet.
pub(super) struct Screen {
    parser: vt100::Parser,
    undrawn: Vec<u8>,
}

impl Screen {
    /// An empty screen.
    pub(super) fn new(rows: u16, columns: u16) -> Self {
        Self {
            parser: vt100::Parser::new(at_least_one(rows), at_least_one(columns), 0),
            undrawn: Vec::new(),
        }
    }

    /// The window changed.
    pub(super) fn resize(&mut self, rows: u16, columns: u16) {
        self.draw();
        self.parser
            .screen_mut()
            .set_size(at_least_one(rows), at_least_one(columns));
    }

    /// The program wrote this.
    pub(super) fn write(&mut self, output: &[u8]) {
        if self.undrawn.len() + output.len() > BACKLOG {
            let excess = (self.undrawn.len() + output.len() - BACKLOG / 2).min(self.undrawn.len());
            self.undrawn.drain(..excess);
        }
        self.undrawn.extend_from_slice(output);
    }

    /// What the screen shows now.
    pub(super) fn read(&mut self, profile: &Profile) -> Reading {
        self.draw();
        Reading::of(profile, self.parser.screen())
    }

    fn draw(&mut self) {
        self.parser.process(&self.undrawn);
        self.undrawn.clear();
        self.undrawn.shrink_to(BACKLOG / 8);
    }
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Screen")
            .field("undrawn", &self.undrawn.len())
            .finish_non_exhaustive()
    }
}

fn at_least_one(count: u16) -> NonZeroU16 {
    NonZeroU16::new(count).unwrap_or(NonZeroU16::MIN)
}

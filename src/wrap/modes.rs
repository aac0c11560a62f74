//! Tracks the terminal modes that the program's output sets, and the title.
//!
//! Only escape sequences are parsed; the text between them is skipped. [`super::screen`] draws the
//! output.
//!
//! # Cost
//! It reads every byte of output, so text, and the sequences that only draw, which are nearly all,
//! are skipped with fast searches. (`bash benches/compare/run.sh --programs`)
//!
//! Relies only on `memchr`.

use std::collections::BTreeSet;
use std::fmt::Write;

use memchr::memchr;

const ESCAPE: u8 = 0x1b;
const NEAR: usize = 16;

/// Maximum bytes of a parameter list. Longer lists are ignored.
const PARAMETERS_LIMIT: usize = 64;
/// Maximum bytes of a title. Longer titles are ignored.
const TEXT_LIMIT: usize = 1024;

const ALTERNATE_SCREENS: [u16; 3] = [47, 1047, 1049];
/// Private modes that are off by default and disturb a shell if they stay on: application cursor
/// keys, mouse reports, focus reports, bracketed paste, synchronized output, colour scheme reports,
/// size reports.
const LEFT_ON: [u16; 15] = [
    1, 9, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 2004, 2026, 2031, 2048,
];
const CURSOR: u16 = 25;
const WRAPS: u16 = 7;
const PASTE: u16 = 2004;
const FRAME: u16 = 2026;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum OutputState {
    #[default]
    Ground,
    Escape,
    /// Within `ESC [ …`.
    Control,
    /// Within `ESC ] …`, a title or another operating system command.
    Command,
    CommandEscape,
    /// Within a device control string, which is ignored.
    Text,
    TextEscape,
}

/// The terminal modes of one program.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an independent mode of a terminal"
)]
pub struct Modes {
    state: OutputState,
    collected: Vec<u8>,
    on: BTreeSet<u16>,
    cursor_hidden: bool,
    wraps_off: bool,
    keypad: bool,
    cursor_styled: bool,
    other_keys: bool,
    kitty_depth: u16,
    title: Option<String>,
    /// Number of missing bytes of the last UTF-8 character in the ground state.
    character_left: u8,
}

impl Modes {
    /// Parses a piece of output, which may be split anywhere.
    pub fn read(&mut self, mut bytes: &[u8]) {
        while let Some(&byte) = bytes.first() {
            let passed = match self.state {
                OutputState::Ground => self.pass(bytes),
                _ => 0,
            };
            if passed == 0 {
                self.step(byte);
            }
            bytes = &bytes[passed.max(1)..];
        }
    }

    /// Whether bracketed paste is on.
    pub fn takes_paste(&self) -> bool {
        self.on.contains(&PASTE)
    }

    /// Whether the cursor is shown.
    pub fn shows_cursor(&self) -> bool {
        !self.cursor_hidden
    }

    /// Whether a synchronized frame is incomplete, so that the screen must not be read.
    pub fn is_within_frame(&self) -> bool {
        self.on.contains(&FRAME)
    }

    /// The last title that was set.
    pub fn title(&self) -> Option<&str> {
        self.title.as_deref()
    }

    /// Whether the output is between two sequences and two characters, so that other bytes may be
    /// inserted.
    pub fn is_at_boundary(&self) -> bool {
        self.state == OutputState::Ground && self.character_left == 0
    }

    /// The bytes that reset the modes which the program left on; empty if there are none.
    pub fn resets(&self) -> Vec<u8> {
        let mut out = String::new();
        if self.kitty_depth > 0 {
            let _infallible = write!(out, "\x1b[<{}u", self.kitty_depth);
        }
        if self.other_keys {
            out.push_str("\x1b[>4m");
        }
        for mode in LEFT_ON.iter().filter(|mode| self.on.contains(mode)) {
            let _infallible = write!(out, "\x1b[?{mode}l");
        }
        if let Some(mode) = ALTERNATE_SCREENS.iter().find(|mode| self.on.contains(mode)) {
            let _infallible = write!(out, "\x1b[?{mode}l");
        }
        let rest = [
            (self.keypad, "\x1b>"),
            (self.wraps_off, "\x1b[?7h"),
            (self.cursor_styled, "\x1b[0 q"),
            (self.cursor_hidden, "\x1b[?25h"),
        ];
        for (_, reset) in rest.iter().filter(|(is_needed, _)| *is_needed) {
            out.push_str(reset);
        }
        out.into_bytes()
    }

    /// Skips text and drawing sequences at the front of `bytes`, and returns their length.
    fn pass(&mut self, bytes: &[u8]) -> usize {
        match length_of_text(bytes) {
            // Only the end of a piece may split a character.
            text if text == bytes.len() => {
                self.follow_characters(bytes);
                text
            }
            text => {
                self.character_left = 0;
                text + length_of_drawing(&bytes[text..])
            }
        }
    }

    fn step(&mut self, byte: u8) {
        self.state = match (self.state, byte) {
            // ESC always begins a new sequence, except in strings, where it may begin their
            // terminator.
            (OutputState::Command, ESCAPE) => OutputState::CommandEscape,
            (OutputState::Text, ESCAPE) => OutputState::TextEscape,
            (OutputState::Ground | OutputState::Escape | OutputState::Control, ESCAPE) => {
                self.begin(OutputState::Escape)
            }
            // An ESC within a string that is not its terminator begins a sequence too.
            (OutputState::Escape | OutputState::CommandEscape | OutputState::TextEscape, b'[') => {
                self.begin(OutputState::Control)
            }
            (OutputState::Escape, b'P' | b'X' | b'^' | b'_') => OutputState::Text,
            (OutputState::Escape, b']') => self.begin(OutputState::Command),
            (OutputState::Escape, 0x20..=0x2f) => OutputState::Escape,
            (OutputState::Escape, _) => self.end_escape(byte),
            (OutputState::Control, 0x20..=0x3f) => self.collect(byte, PARAMETERS_LIMIT),
            (OutputState::Control, 0x40..=0x7e) => self.end_control(byte),
            (OutputState::Control, _) => OutputState::Control,
            (OutputState::Command, 0x07) | (OutputState::CommandEscape, b'\\') => {
                self.end_command()
            }
            (OutputState::Command, _) => self.collect(byte, TEXT_LIMIT),
            (OutputState::Ground | OutputState::TextEscape | OutputState::CommandEscape, _)
            | (OutputState::Text, 0x18 | 0x1a) => OutputState::Ground,
            (OutputState::Text, _) => self.state,
        };
        if self.state == OutputState::Ground {
            // The collected bytes are cleared here, so that skipped and parsed sequences leave the
            // same state.
            self.collected.clear();
        }
    }

    fn begin(&mut self, state: OutputState) -> OutputState {
        self.collected.clear();
        state
    }

    fn collect(&mut self, byte: u8, limit: usize) -> OutputState {
        if self.collected.len() <= limit {
            self.collected.push(byte);
        }
        self.state
    }

    fn end_escape(&mut self, last: u8) -> OutputState {
        match last {
            b'=' => self.keypad = true,
            b'>' => self.keypad = false,
            // A full reset.
            b'c' => {
                *self = Self {
                    title: self.title.take(),
                    ..Self::default()
                }
            }
            _ => {}
        }
        OutputState::Ground
    }

    fn end_control(&mut self, last: u8) -> OutputState {
        let collected = std::mem::take(&mut self.collected);
        if collected.len() <= PARAMETERS_LIMIT {
            match (collected.as_slice(), last) {
                ([b'?', numbers @ ..], b'h') => self.switch(numbers, true),
                ([b'?', numbers @ ..], b'l') => self.switch(numbers, false),
                ([b'>', b'4', b';', level @ ..], b'm') => self.other_keys = level != b"0",
                ([b'>', b'4'], b'm') => self.other_keys = false,
                ([b'>', ..], b'u') => self.kitty_depth = self.kitty_depth.saturating_add(1),
                ([b'<', count @ ..], b'u') => {
                    let count = numbers_of(count).next().unwrap_or(1).max(1);
                    self.kitty_depth = self.kitty_depth.saturating_sub(count);
                }
                ([style @ .., b' '], b'q') => self.cursor_styled = !matches!(style, b"" | b"0"),
                _ => {}
            }
        }
        self.collected = collected;
        OutputState::Ground
    }

    fn switch(&mut self, numbers: &[u8], is_on: bool) {
        for mode in numbers_of(numbers) {
            match mode {
                CURSOR => self.cursor_hidden = !is_on,
                WRAPS => self.wraps_off = !is_on,
                _ if is_on => {
                    if LEFT_ON.contains(&mode) || ALTERNATE_SCREENS.contains(&mode) {
                        self.on.insert(mode);
                    }
                }
                _ if ALTERNATE_SCREENS.contains(&mode) => {
                    self.on.retain(|on| !ALTERNATE_SCREENS.contains(on));
                }
                _ => {
                    self.on.remove(&mode);
                }
            }
        }
    }

    fn end_command(&mut self) -> OutputState {
        if self.collected.len() <= TEXT_LIMIT
            && let [b'0' | b'2', b';', title @ ..] = self.collected.as_slice()
        {
            self.title = Some(String::from_utf8_lossy(title).into_owned());
        }
        OutputState::Ground
    }

    fn follow_characters(&mut self, plain: &[u8]) {
        let tail = &plain[plain.len().saturating_sub(3)..];
        if tail.len() < plain.len() {
            self.character_left = 0;
        }
        for &byte in tail {
            self.follow_character(byte);
        }
    }

    fn follow_character(&mut self, byte: u8) {
        self.character_left = match byte {
            0x80..=0xbf => self.character_left.saturating_sub(1),
            0xc0..=0xdf => 1,
            0xe0..=0xef => 2,
            0xf0..=0xf7 => 3,
            _ => 0,
        };
    }
}

/// The length of the text before the next escape sequence. Most sequences are near, so the first
/// bytes are searched without `memchr`, which is slow to start.
fn length_of_text(bytes: &[u8]) -> usize {
    let near = bytes.len().min(NEAR);
    let found = bytes[..near].iter().position(|&byte| byte == ESCAPE);
    found
        .or_else(|| Some(near + memchr(ESCAPE, &bytes[near..])?))
        .unwrap_or(bytes.len())
}

/// The length of a complete control sequence at the front that only draws (colours, cursor,
/// erasing); 0 if there is none.
fn length_of_drawing(bytes: &[u8]) -> usize {
    let [ESCAPE, b'[', rest @ ..] = bytes else {
        return 0;
    };
    let parameters = rest
        .iter()
        .take_while(|byte| matches!(byte, 0x20..=0x3f))
        .count();
    match (rest.first(), rest.get(parameters)) {
        (_, None | Some(b'h' | b'l' | b'u' | b'q')) | (Some(b'>'), Some(b'm')) => 0,
        (_, Some(0x40..=0x7e)) => parameters + 3,
        _ => 0,
    }
}

fn numbers_of(list: &[u8]) -> impl Iterator<Item = u16> + '_ {
    list.split(|&byte| byte == b';')
        .filter_map(|number| std::str::from_utf8(number).ok()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(output: &str) -> Modes {
        let mut modes = Modes::default();
        modes.read(output.as_bytes());
        modes
    }

    #[test]
    fn only_modes_that_were_left_on_are_reset() {
        let modes = after("\x1b[?2004h\x1b[?1004h\x1b[>1u\x1b[?25l\x1b[?1049htext");
        let resets = String::from_utf8_lossy(&modes.resets()).into_owned();
        assert_eq!(resets, "\x1b[<1u\x1b[?1004l\x1b[?2004l\x1b[?1049l\x1b[?25h");
        let tidy =
            after("\x1b[?2004h\x1b[>1u\x1b[?25l\x1b[?1049h\x1b[?1049l\x1b[?25h\x1b[<u\x1b[?2004l");
        assert!(tidy.resets().is_empty());
    }

    #[test]
    fn a_sequence_may_be_split_anywhere() {
        let output = b"x\x1b[?2004h\x1b]0;\xe2\x9c\xb3 Claude Code\x07y";
        for cut in 0..output.len() {
            let mut modes = Modes::default();
            modes.read(&output[..cut]);
            modes.read(&output[cut..]);
            assert!(modes.takes_paste(), "cut at {cut}");
            assert_eq!(modes.title(), Some("✳ Claude Code"), "cut at {cut}");
        }
    }

    /// Bytes that begin, end or fill sequences.
    const LETTERS: &[u8] = b"\x1b\x1b[[]?;2004hlmu>< q0\x07\\P\x18a\xe2\x94\x80\xf0c";

    proptest! {
        #[test]
        fn however_output_is_cut_it_means_the_same(
            output in prop::collection::vec(prop::sample::select(LETTERS.to_vec()), 0..200),
            cut in any::<prop::sample::Index>(),
        ) {
            let read = |pieces: &[&[u8]]| {
                let mut modes = Modes::default();
                for piece in pieces {
                    modes.read(piece);
                }
                format!("{modes:?}")
            };
            let whole = read(&[&output]);
            let (first, second) = output.split_at(cut.index(output.len() + 1));
            prop_assert_eq!(&read(&[first, second]), &whole);
            prop_assert_eq!(&read(&output.chunks(1).collect::<Vec<_>>()), &whole);
        }
    }

    #[test]
    fn an_endless_parameter_list_uses_limited_memory() {
        let mut modes = after(&format!("\x1b[?2004h\x1b[{}h", "1".repeat(100_000)));
        assert!(modes.collected.len() <= PARAMETERS_LIMIT + 1);
        modes.read(b"\x1b[?2004l");
        assert!(!modes.takes_paste());
    }

    #[test]
    fn boundaries_are_between_sequences_and_characters() {
        assert!(after("text").is_at_boundary());
        assert!(!after("text\x1b[1").is_at_boundary());
        assert!(!after("\x1b]0;half").is_at_boundary());
        let mut modes = Modes::default();
        modes.read(&"─".as_bytes()[..2]);
        assert!(!modes.is_at_boundary());
        modes.read(&"─".as_bytes()[2..]);
        assert!(modes.is_at_boundary());
    }

    #[test]
    fn a_title_may_end_with_a_string_terminator() {
        assert_eq!(after("\x1b]2;one\x1b\\").title(), Some("one"));
        assert_eq!(
            after("\x1bPq title\x1b\\\x1b]2;two\x1b\\").title(),
            Some("two")
        );
    }
}

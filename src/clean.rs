//! Makes untrusted text safe to show: removes control characters, invisible characters, and
//! characters that reorder a line.
//!
//! The line that an agent reads, the terminal, tables, logs and JSON all use this module.

use std::fmt::Write;

use icu_properties::props::{
    DefaultIgnorableCodePoint, ExtendedPictographic, GeneralCategory, PrependedConcatenationMark,
};
use icu_properties::{CodePointMapData, CodePointSetData};

/// The variation selector that shows the preceding symbol in colour.
const EMOJI_STYLE: char = '\u{FE0F}';

/// What becomes of the line breaks in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineBreaks {
    /// Each becomes one space.
    Flatten,
    /// Each becomes `\n`.
    Keep,
}

/// Removes control and invisible characters. Tabs become spaces.
pub fn clean(text: &str, breaks: LineBreaks) -> String {
    let line_break = match breaks {
        LineBreaks::Flatten => ' ',
        LineBreaks::Keep => '\n',
    };
    let mut out = String::with_capacity(text.len());
    let mut before = ' ';
    let mut letters = text.chars().peekable();
    while let Some(c) = letters.next() {
        match c {
            '\r' => {
                letters.next_if_eq(&'\n');
                out.push(line_break);
            }
            '\n' => out.push(line_break),
            '\t' => out.push(' '),
            EMOJI_STYLE if is_pictograph(before) => out.push(c),
            c if c.is_control() || is_hidden(c) => continue,
            c => out.push(c),
        }
        before = c;
    }
    out
}

/// Cleans a text into one line, for a table cell, a log line or an error.
pub fn line(text: &str) -> String {
    clean(text, LineBreaks::Flatten)
}

/// Escapes the characters of a JSON text that would act on a terminal or be invisible. Its meaning
/// does not change.
pub fn json(text: &str) -> String {
    let acts = |c: char| c.is_control() || is_hidden(c);
    if !text.chars().any(acts) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if acts(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _infallible = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// Whether the character is shown as nothing, or only changes how others are shown: what Unicode
/// calls default-ignorable (joiners, variation selectors, bidirectional controls, fillers, tags) or
/// a format control (but for the number and verse signs among these, which are visible), a line
/// separator, the Khitan filler, and the mirror sign of hieroglyphs.
pub fn is_hidden(c: char) -> bool {
    !c.is_ascii()
        && (CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
            || is_invisible_format(c)
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{13440}' | '\u{16FE4}'))
}

fn is_invisible_format(c: char) -> bool {
    CodePointMapData::<GeneralCategory>::new().get(c) == GeneralCategory::Format
        && !CodePointSetData::new::<PrependedConcatenationMark>().contains(c)
}

fn is_pictograph(c: char) -> bool {
    !c.is_ascii() && CodePointSetData::new::<ExtendedPictographic>().contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_character_that_is_shown_as_nothing_passes() {
        let hidden = [
            '\u{AD}',
            '\u{34F}',
            '\u{61C}',
            '\u{115F}',
            '\u{1160}',
            '\u{17B4}',
            '\u{180B}',
            '\u{180E}',
            '\u{200B}',
            '\u{200D}',
            '\u{202E}',
            '\u{2060}',
            '\u{2064}',
            '\u{2066}',
            '\u{3164}',
            '\u{FE00}',
            '\u{FE0E}',
            '\u{FE0F}',
            '\u{FEFF}',
            '\u{FFA0}',
            '\u{FFF0}',
            '\u{FFF9}',
            '\u{FFFB}',
            '\u{13430}',
            '\u{1343F}',
            '\u{13440}',
            '\u{16FE4}',
            '\u{1BCA0}',
            '\u{1D173}',
            '\u{E0001}',
            '\u{E0041}',
            '\u{E0100}',
            '\u{E01EF}',
        ];
        for c in hidden {
            assert_eq!(line(&format!("a{c}b")), "ab", "U+{:04X}", u32::from(c));
        }
        // The Arabic number sign is a format control too, and visible.
        assert_eq!(line("\u{600}\u{661}"), "\u{600}\u{661}");
    }

    #[test]
    fn one_style_mark_may_follow_an_emoji_and_a_row_of_them_carries_no_secret() {
        assert_eq!(line("\u{2764}\u{FE0F}!"), "\u{2764}\u{FE0F}!");
        let smuggled = "\u{1F600}\u{FE0F}\u{FE0F}\u{FE01}\u{E0100}\u{FE0F}";
        assert_eq!(line(smuggled), "\u{1F600}\u{FE0F}");
        assert_eq!(line("a\u{FE0F}"), "a");
    }

    #[test]
    fn json_keeps_its_meaning_and_loses_what_acts_on_a_terminal() {
        let value = serde_json::json!({ "a": "x\u{9b}31m\u{202e}\u{e0041}\u{7f}é" });
        let text = json(&value.to_string());
        assert!(
            text.contains("\\u009b31m\\u202e\\udb40\\udc41\\u007fé"),
            "{text}"
        );
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).ok(),
            Some(value)
        );
    }
}

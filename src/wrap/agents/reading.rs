//! Reads an agent's state from a drawn screen.
//!
//! Relies on `vt100` for the cells, and on the profile for the patterns.

use vt100::Screen;

use super::history::History;
use super::{InputLine, Profile, Prompt};

/// Maximum number of rows above the input line that show the status.
const STATUS_ROWS: usize = 8;

/// The state of the input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Input {
    /// It does not have the focus.
    #[default]
    Absent,
    /// It is empty.
    Empty,
    /// It holds this text (the visible part, or the first row).
    Holds(String),
    /// It is in shell mode.
    Shell,
    /// Keys are commands.
    Command,
}

/// The vim mode in the footer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Vim {
    /// The footer shows no mode.
    #[default]
    Unsaid,
    /// INSERT mode.
    Insert,
    /// The plain footer: vim mode is not used, or it is in NORMAL mode.
    Plain,
}

/// A reading of the screen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScreenReading {
    /// The input; always [`Input::Absent`] if the profile describes none.
    pub input: Input,
    /// Whether a text shows that a turn runs.
    pub shows_busy: bool,
    /// Whether a row shows that an entered text waits and the model has not read it.
    pub shows_waiting: bool,
    /// The name of the open dialog, if a text shows one.
    pub dialog: Option<String>,
    /// The vim mode in the footer.
    pub vim: Vim,
    /// Whether the box is scrolled, so that it shows only the end of its text.
    pub is_scrolled: bool,
    /// The history above the input line, for an agent without a box; all rows if the line is not
    /// recognized.
    pub history: History,
}

impl ScreenReading {
    /// Reads `screen` as `profile` describes it.
    pub fn of(profile: &Profile, screen: &Screen) -> Self {
        let (_, columns) = screen.size();
        let rows: Vec<String> = screen
            .rows(0, columns.get())
            .map(|row| row.trim_end().to_owned())
            .collect();
        let found = match (profile.prompt, profile.line) {
            (Some(prompt), _) => FoundInput::in_box(prompt, screen, &rows),
            (None, Some(line)) => FoundInput::on_line(&line, screen, &rows),
            (None, None) => None,
        };
        let Some(found) = found else {
            let is_asked_in = profile.line.is_some_and(|line| line.is_asked_in);
            let dialog = profile.dialogs.iter().find(|(text, _)| {
                if is_asked_in {
                    InputLine::asks(text, screen)
                } else {
                    rows.iter().any(|row| row.contains(text))
                }
            });
            return Self {
                input: Input::Absent,
                shows_busy: shows(&rows, profile.busy),
                shows_waiting: shows_row(&rows, profile.waits),
                dialog: dialog.map(|(_, name)| (*name).to_owned()),
                vim: Vim::Unsaid,
                is_scrolled: false,
                history: profile
                    .line
                    .map_or_else(History::default, |_| History::of(&rows)),
            };
        };
        // The rows above are history and untrusted text; only the rows around the input show the
        // current state.
        let below = &rows[found.last + 1..];
        let is_elsewhere = shows(below, profile.other_views)
            || shows(std::slice::from_ref(&found.suggestion), profile.other_views);
        let shows_waiting = shows_row(below, profile.waits)
            || shows_row(&rows[found.status.clone()], profile.waits);
        let input = if is_elsewhere {
            Input::Absent
        } else {
            in_mode(profile, found.input, below)
        };
        Self {
            input,
            shows_busy: shows(below, profile.busy) || shows(&rows[found.status], profile.busy),
            shows_waiting,
            dialog: is_elsewhere.then(|| "another view".to_owned()),
            is_scrolled: found.is_scrolled,
            history: found.history,
            vim: profile.vim.map_or(Vim::Unsaid, |footer| {
                if shows(below, &[footer.insert]) {
                    Vim::Insert
                } else if shows(below, &[footer.plain]) {
                    Vim::Plain
                } else {
                    Vim::Unsaid
                }
            }),
        }
    }
}

/// Adjusts the reading of the input by the rows below it, which show whether keys are commands or
/// the text would run in a shell.
fn in_mode(profile: &Profile, input: Input, below: &[String]) -> Input {
    let would_run = |line: InputLine| shows_row(below, line.shell_modes);
    if input == Input::Shell || profile.line.is_some_and(would_run) {
        Input::Shell
    } else if shows(below, profile.command_modes) {
        Input::Command
    } else {
        input
    }
}

fn shows(rows: &[String], texts: &[&str]) -> bool {
    rows.iter()
        .any(|row| texts.iter().any(|text| row.contains(text)))
}

/// Whether one of the rows begins with one of the texts, after a frame, with any other text of the
/// row at some distance.
fn shows_row(rows: &[String], texts: &[&str]) -> bool {
    let begins = |row: &String, text: &str| {
        let inside = row.trim_start_matches([' ', '┃']);
        let rest = inside.strip_prefix(text);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("  "))
    };
    rows.iter()
        .any(|row| texts.iter().any(|text| begins(row, text)))
}

/// The input at the cursor.
struct FoundInput {
    /// Its last row.
    last: usize,
    /// Rows above it that show the current state too.
    status: std::ops::Range<usize>,
    input: Input,
    /// The history above it, if it is a line.
    history: History,
    /// The agent's placeholder text in the empty box.
    suggestion: String,
    is_scrolled: bool,
}

impl FoundInput {
    fn on_line(line: &InputLine, screen: &Screen, rows: &[String]) -> Option<Self> {
        let (cursor, _) = screen.cursor_position();
        let (first, input) = line.find(screen, rows)?;
        Some(Self {
            last: usize::from(cursor),
            status: first.saturating_sub(STATUS_ROWS)..first,
            input,
            history: line.history(screen, rows, first),
            suggestion: String::new(),
            is_scrolled: false,
        })
    }

    fn in_box(prompt: Prompt, screen: &Screen, rows: &[String]) -> Option<Self> {
        let (cursor, cursor_column) = screen.cursor_position();
        let cursor = usize::from(cursor);
        let is_rule = |row: &String| row.chars().take(3).filter(|&c| c == prompt.rule).count() == 3;
        let below = rows.iter().skip(cursor + 1).position(is_rule)? + cursor + 1;
        let above = rows.iter().take(cursor + 1).rposition(is_rule)?;
        if above == cursor {
            return None;
        }
        let found = |input, suggestion, is_scrolled| {
            Some(Self {
                last: below,
                status: 0..0,
                input,
                history: History::default(),
                suggestion,
                is_scrolled,
            })
        };
        // A scrolled box shows that in its upper rule: `─── ↑ 3 more ───`.
        let is_scrolled = rows[above].contains('↑') && rows[above].contains("more");
        let first = &rows[above + 1];
        if is_scrolled {
            let BoxContent { text, .. } = content(prompt, screen, above + 1..below);
            return found(Input::Holds(text), String::new(), true);
        }
        if first.starts_with(prompt.shell_mark) {
            return found(Input::Shell, String::new(), false);
        }
        if !first.starts_with(prompt.mark) {
            return None;
        }
        let BoxContent { text, suggestion } = content(prompt, screen, above + 1..below);
        // A cursor away from the first column follows typed text, even if that is only spaces.
        let is_empty = text.trim().is_empty() && cursor == above + 1 && cursor_column <= 2;
        let input = if is_empty {
            Input::Empty
        } else {
            Input::Holds(text)
        };
        found(input, suggestion, false)
    }
}

/// The content of the box, without its mark.
#[derive(Default)]
struct BoxContent {
    /// The typed text.
    text: String,
    /// The agent's grey suggestion.
    suggestion: String,
}

fn content(prompt: Prompt, screen: &Screen, rows: std::ops::Range<usize>) -> BoxContent {
    let (_, columns) = screen.size();
    let mut cells = Vec::new();
    let first = rows.start;
    for row in rows {
        // Rows begin with the mark or its width in blanks, except rows that the terminal wrapped.
        let Ok(row_number) = u16::try_from(row) else {
            continue;
        };
        let has_letter = |column| {
            let cell = screen.cell(row_number, column);
            cell.is_some_and(|cell| !cell.contents().trim().is_empty())
        };
        let begin = if row > first && (has_letter(0) || has_letter(1)) {
            0
        } else {
            2
        };
        let row = row_number;
        cells.extend(
            (begin..columns.get())
                .filter_map(|column| screen.cell(row, column))
                .filter(|cell| cell.has_contents()),
        );
    }
    let text = cells.iter().map(|cell| cell.contents()).collect();
    let is_suggested = |cell: &&vt100::Cell| {
        let is_grey = |colour: &u8| cell.fgcolor() == vt100::Color::Idx(*colour);
        cell.dim() || prompt.placeholder_colours.iter().any(is_grey)
    };
    // The cursor inverts the first character of a suggestion, so only the rest is checked.
    let rest = cells.get(1..).unwrap_or_default();
    let is_suggestion = rest.iter().any(is_suggested)
        && rest
            .iter()
            .all(|cell| is_suggested(cell) || cell.contents().trim().is_empty());
    if is_suggestion {
        return BoxContent {
            suggestion: text,
            ..BoxContent::default()
        };
    }
    BoxContent {
        text,
        ..BoxContent::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::wrap::agents::CLAUDE;

    const RULE: &str = "────────────────────────────────────────";

    fn read(drawn: &str) -> ScreenReading {
        let mut parser = vt100::Parser::new(20.try_into().unwrap(), 40.try_into().unwrap(), 0);
        parser.process(drawn.replace('\n', "\r\n").as_bytes());
        ScreenReading::of(&CLAUDE, parser.screen())
    }

    /// Reads a box with `text`, the cursor behind it, and `footer` below.
    fn boxed(history: &str, text: &str, footer: &str) -> ScreenReading {
        read(&format!(
            "{history}\n{RULE}\n{text}\x1b7\n{RULE}\n{footer}\x1b8"
        ))
    }

    #[test]
    fn an_empty_box_is_empty() {
        assert_eq!(boxed("", "❯ ", "  ? for shortcuts").input, Input::Empty);
        assert_eq!(
            boxed("Do you want to proceed?", "❯ ", "").dialog,
            None,
            "history is no dialog"
        );
    }

    #[test]
    fn a_suggestion_in_grey_is_not_a_draft() {
        let drawn =
            format!("{RULE}\n❯ \x1b7\x1b[7mT\x1b[27m\x1b[2mry \"fix lint\"\x1b[0m\n{RULE}\n\x1b8");
        assert_eq!(read(&drawn).input, Input::Empty);
        let drawn = format!(
            "{RULE}\n❯ \x1b7\x1b[7mT\x1b[27m\x1b[38;5;246mry \"fix\"\x1b[0m\n{RULE}\n\x1b8"
        );
        assert_eq!(read(&drawn).input, Input::Empty);
    }

    #[test]
    fn a_draft_is_seen_even_if_it_is_one_letter_or_spaces() {
        assert_eq!(boxed("", "❯ x", "").input, Input::Holds("x".to_owned()));
        assert!(matches!(boxed("", "❯    ", "").input, Input::Holds(_)));
        assert!(matches!(
            boxed("", "❯ one\n  two", "").input,
            Input::Holds(_)
        ));
    }

    #[test]
    fn modes_in_which_text_is_a_command_are_seen() {
        assert_eq!(boxed("", "! ", "  ! for shell mode").input, Input::Shell);
        assert_eq!(boxed("", "❯ ", "  -- NORMAL --").input, Input::Command);
    }

    #[test]
    fn the_footer_shows_insert_mode() {
        assert_eq!(boxed("", "❯ ", "  -- INSERT --").vim, Vim::Insert);
        assert_eq!(boxed("", "❯ ", "  ? for shortcuts").vim, Vim::Plain);
        assert_eq!(boxed("", "❯ ", "  paste again to expand").vim, Vim::Unsaid);
    }

    #[test]
    fn a_running_turn_is_seen_below_the_box_only() {
        assert!(boxed("", "❯ ", "  esc to interrupt").shows_busy);
        assert!(!boxed("he said: esc to interrupt", "❯ ", "").shows_busy);
    }

    #[test]
    fn a_dialog_has_no_box() {
        let dialog = read(&format!(
            "{RULE}\n Bash command\n\n Do you want to proceed?\n ❯ 1. Yes\n   2. No\n Esc to cancel"
        ));
        assert_eq!(dialog.input, Input::Absent);
        assert_eq!(dialog.dialog.as_deref(), Some("permission"));
    }

    #[test]
    fn a_box_that_scrolls_holds_the_end_of_a_text() {
        // The box was not recognized, so no Enter followed, and every later message was stuck.
        let more = format!("─── ↑ 1 more {}", "─".repeat(20));
        let reading = read(&format!(
            "{more}\n  and the end [end]\x1b7\n{RULE}\n  ? for shortcuts\x1b8"
        ));
        assert!(reading.is_scrolled);
        assert_eq!(reading.input, Input::Holds("and the end [end]".to_owned()));
    }

    #[test]
    fn boxes_of_other_views_are_not_the_prompt() {
        // Messages went to a subagent, or began a session of their own.
        let grey = "❯ \x1b7\x1b[7mM\x1b[27m\x1b[2message @general-purpose…\x1b[0m\x1b8\x1b7";
        assert_eq!(boxed("", grey, "").input, Input::Absent);
        let agents = boxed("", "❯ ", "  enter to open · space to reply");
        assert_eq!(agents.input, Input::Absent);
        assert_eq!(agents.dialog.as_deref(), Some("another view"));
    }

    #[test]
    fn greys_of_all_versions_are_suggestions() {
        for grey in ["2", "38;5;246", "90", "38;5;8"] {
            let text = format!("❯ \x1b7\x1b[7mT\x1b[27m\x1b[{grey}mry it\x1b[0m\x1b8\x1b7");
            assert_eq!(boxed("", &text, "").input, Input::Empty, "{grey}");
        }
    }

    #[test]
    fn another_view_is_unknown() {
        assert_eq!(read("❯ an old prompt\n\n some text").input, Input::Absent);
    }
}

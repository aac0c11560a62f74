//! What a drawn screen shows of an agent's state.
//!
//! Relies on `vt100` for the cells, and on the profile for what to look for.

use vt100::Screen;

use super::{Line, Profile, Prompt};

/// Where a line has its status: so many rows above it, at most.
const STATUS_ROWS: usize = 8;

/// The state of the input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Input {
    /// It has not the focus.
    #[default]
    Absent,
    /// It waits, empty.
    Empty,
    /// It holds this text (its visible part, or its first row).
    Holds(String),
    /// It is in shell mode.
    Shell,
    /// Keys are commands.
    Command,
}

/// What the footer says of vim's modes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Vim {
    /// Nothing.
    #[default]
    Unsaid,
    /// INSERT mode.
    Insert,
    /// The footer of everybody who does not use vim's keys, or is in NORMAL mode.
    Plain,
}

/// One look at the screen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The input; [`Input::Absent`] always where the profile describes none.
    pub input: Input,
    /// A text says that a turn runs.
    pub shows_busy: bool,
    /// A text says that a dialog is open: its name.
    pub dialog: Option<String>,
    /// What the footer says of vim's modes.
    pub vim: Vim,
}

impl Reading {
    /// Looks at `screen` as `profile` describes it.
    pub fn of(profile: &Profile, screen: &Screen) -> Self {
        let (_, columns) = screen.size();
        let rows: Vec<String> = screen
            .rows(0, columns.get())
            .map(|row| row.trim_end().to_owned())
            .collect();
        let found = match (profile.prompt, profile.line) {
            (Some(prompt), _) => Found::in_box(prompt, screen, &rows),
            (None, Some(line)) => Found::on_line(&line, screen, &rows),
            (None, None) => None,
        };
        let Some(found) = found else {
            let is_asked_in = profile.line.is_some_and(|line| line.is_asked_in);
            let dialog = profile.dialogs.iter().find(|(text, _)| {
                if is_asked_in {
                    Line::asks(text, screen)
                } else {
                    rows.iter().any(|row| row.contains(text))
                }
            });
            return Self {
                input: Input::Absent,
                shows_busy: shows(&rows, profile.busy),
                dialog: dialog.map(|(_, name)| (*name).to_owned()),
                vim: Vim::Unsaid,
            };
        };
        // What stands above is history, written by anybody; only the rows around the input speak of now.
        let below = &rows[found.last + 1..];
        let input = if shows(below, profile.command_modes) {
            Input::Command
        } else {
            found.input
        };
        Self {
            input,
            shows_busy: shows(below, profile.busy) || shows(&rows[found.status], profile.busy),
            dialog: None,
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

fn shows(rows: &[String], texts: &[&str]) -> bool {
    rows.iter()
        .any(|row| texts.iter().any(|text| row.contains(text)))
}

/// The input that holds the cursor.
struct Found {
    /// Its last row.
    last: usize,
    /// Rows above it that speak of now as well.
    status: std::ops::Range<usize>,
    input: Input,
}

impl Found {
    fn on_line(line: &Line, screen: &Screen, rows: &[String]) -> Option<Self> {
        let (cursor, _) = screen.cursor_position();
        let (first, input) = line.find(screen, rows)?;
        Some(Self {
            last: usize::from(cursor),
            status: first.saturating_sub(STATUS_ROWS)..first,
            input,
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
        let first = &rows[above + 1];
        if first.starts_with(prompt.shell_mark) {
            return Some(Self {
                last: below,
                status: 0..0,
                input: Input::Shell,
            });
        }
        if !first.starts_with(prompt.mark) {
            return None;
        }
        let text = typed(prompt, screen, above + 1..below);
        // A cursor away from the first column stands behind something, even if that is only spaces.
        let is_empty = text.trim().is_empty() && cursor == above + 1 && cursor_column <= 2;
        Some(Self {
            last: below,
            status: 0..0,
            input: if is_empty {
                Input::Empty
            } else {
                Input::Holds(text)
            },
        })
    }
}

/// The text of the box without its mark and without what the agent itself suggests in grey.
fn typed(prompt: Prompt, screen: &Screen, rows: std::ops::Range<usize>) -> String {
    let (_, columns) = screen.size();
    let placeholder = vt100::Color::Idx(prompt.placeholder_colour);
    let mut text = String::new();
    let mut cells = Vec::new();
    for row in rows {
        let Ok(row) = u16::try_from(row) else {
            continue;
        };
        cells.extend(
            (2..columns.get())
                .filter_map(|column| screen.cell(row, column))
                .filter(|cell| cell.has_contents()),
        );
    }
    let is_suggested = |cell: &&vt100::Cell| cell.dim() || cell.fgcolor() == placeholder;
    // The cursor inverts the first character of a suggestion; the rest of it gives it away.
    let rest = cells.get(1..).unwrap_or_default();
    if rest.iter().any(is_suggested)
        && rest
            .iter()
            .all(|cell| is_suggested(cell) || cell.contents().trim().is_empty())
    {
        return text;
    }
    for cell in cells {
        text.push_str(cell.contents());
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::wrap::agents::CLAUDE;

    const RULE: &str = "────────────────────────────────────────";

    fn read(drawn: &str) -> Reading {
        let mut parser = vt100::Parser::new(20.try_into().unwrap(), 40.try_into().unwrap(), 0);
        parser.process(drawn.replace('\n', "\r\n").as_bytes());
        Reading::of(&CLAUDE, parser.screen())
    }

    /// A box with `text`, the cursor behind it, and `footer` below.
    fn boxed(history: &str, text: &str, footer: &str) -> Reading {
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
    fn the_footer_tells_insert_mode_from_everybody_else() {
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
    fn another_view_is_unknown() {
        assert_eq!(read("❯ an old prompt\n\n some text").input, Input::Absent);
    }
}

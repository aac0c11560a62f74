//! What a drawn screen shows of an agent's state.
//!
//! Relies on `vt100` for the cells, and on the profile for what to look for.

use vt100::Screen;

use super::{Profile, Prompt};

/// The state of the input box.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Input {
    /// No box has the focus.
    #[default]
    Absent,
    /// The box waits, empty.
    Empty,
    /// The box holds this text (its visible part).
    Holds(String),
    /// The box is in shell mode.
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
    /// The input box; [`Input::Absent`] always where the profile describes none.
    pub input: Input,
    /// A text says that the box waits; for profiles that know one.
    pub shows_rest: bool,
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
        let found = profile
            .prompt
            .and_then(|prompt| InputBox::find(prompt, screen, &rows));
        let Some(found) = found else {
            let dialog = profile
                .dialogs
                .iter()
                .find(|(text, _)| rows.iter().any(|row| row.contains(text)));
            return Self {
                input: Input::Absent,
                shows_rest: shows(&rows, profile.resting),
                shows_busy: shows(&rows, profile.busy),
                dialog: dialog.map(|(_, name)| (*name).to_owned()),
                vim: Vim::Unsaid,
            };
        };
        // What stands above the box is history, written by anybody; only the rows around it speak of now.
        let around = &rows[found.last + 1..];
        let input = if shows(around, profile.command_modes) {
            Input::Command
        } else {
            found.input
        };
        Self {
            input,
            shows_rest: false,
            shows_busy: shows(around, profile.busy),
            dialog: None,
            vim: profile.vim.map_or(Vim::Unsaid, |footer| {
                if shows(around, &[footer.insert]) {
                    Vim::Insert
                } else if shows(around, &[footer.plain]) {
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

/// The input box that holds the cursor.
struct InputBox {
    /// The row of its lower rule.
    last: usize,
    input: Input,
}

impl InputBox {
    fn find(prompt: Prompt, screen: &Screen, rows: &[String]) -> Option<Self> {
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
    fn gemini_rests_where_its_placeholder_stands_and_its_menus_are_dialogs() {
        let gemini = Profile::of("gemini".as_ref(), &[]);
        let read = |drawn: &str| {
            let mut parser = vt100::Parser::new(20.try_into().unwrap(), 60.try_into().unwrap(), 0);
            parser.process(drawn.replace('\n', "\r\n").as_bytes());
            Reading::of(gemini, parser.screen())
        };
        let rest =
            read(" Shift+Tab to accept edits\n >   Type your message or @path/to/file\n workspace");
        assert!(rest.shows_rest && rest.dialog.is_none());
        let trust = read(
            " │ Do you trust the files in this folder?\n │ ● 1. Trust folder (work)\n │   2. Trust parent",
        );
        assert!(!trust.shows_rest && trust.dialog.is_some());
        let menu = read(" │   1. Yes\n │ ● 2. No");
        assert_eq!(menu.dialog.as_deref(), Some("menu"));
    }

    #[test]
    fn another_view_is_unknown() {
        assert_eq!(read("❯ an old prompt\n\n some text").input, Input::Absent);
    }
}

//! Recognizes the input line of agents that draw no box between two rules: whether it has the
//! cursor, and whether it is empty.
//!
//! Only the rows at the cursor show the current state. Everything else on the screen is history and
//! untrusted text: an answered question stays there, and so does an answer that looks like a
//! question.
//!
//! Relies on `vt100` for the cursor.

use std::ops::Range;

use vt100::Screen;

use super::history::History;
use super::reading::Input;

/// The appearance of an input line.
#[derive(Clone, Copy, Debug)]
pub struct InputLine {
    /// The possible beginnings of its first row, up to the cursor.
    pub marks: &'static [&'static str],
    /// The beginning of the row if the text would run in a shell.
    pub shell_mark: Option<&'static str>,
    /// The rows below it that show that the text would run in a shell.
    pub shell_modes: &'static [&'static str],
    /// Placeholder texts behind the cursor that are not dim.
    pub placeholders: &'static [&'static str],
    /// The further rows of a long text.
    pub long_text: LongTextRows,
    /// Whether the terminal's cursor is shown in the line.
    pub has_cursor: bool,
    /// Whether questions are asked on the line itself: a dialog's text counts only directly before
    /// the cursor.
    pub is_asked_in: bool,
}

/// The further rows of a long text.
#[derive(Clone, Copy, Debug)]
pub enum LongTextRows {
    /// They begin with the mark again, or with anything if the terminal wraps them, so only the row
    /// at the cursor is known.
    Marked,
    /// They begin with this.
    Indented(&'static str),
    /// All rows begin with the mark, as do a blank row above and others below, down to a row that
    /// begins with this.
    Framed(&'static str),
}

impl InputLine {
    /// Finds the line: its first row and its input; `None` if something else has the cursor.
    pub(super) fn find(&self, screen: &Screen, rows: &[String]) -> Option<(usize, Input)> {
        if self.has_cursor && screen.hide_cursor() {
            return None;
        }
        let at = Cursor::of(screen, rows)?;
        match self.long_text {
            LongTextRows::Marked => self.begun(at.row, &at),
            LongTextRows::Indented(blank) => {
                let is_further =
                    |row: &String| !self.begins(row) && (row.is_empty() || row.starts_with(blank));
                let further = rows[..=at.row]
                    .iter()
                    .rev()
                    .take_while(|row| is_further(row));
                self.begun(at.row.checked_sub(further.count())?, &at)
            }
            LongTextRows::Framed(foot) => self.framed(foot, &at),
        }
    }

    /// The history in the rows above `first`, the line's first row. Only the columns of its frame
    /// count.
    pub(super) fn history(&self, screen: &Screen, rows: &[String], first: usize) -> History {
        let frame = match self.long_text {
            LongTextRows::Framed(foot) => self.frame(foot, &rows[first..]),
            LongTextRows::Marked | LongTextRows::Indented(_) => None,
        };
        let Some((mark, columns)) = frame else {
            return History::of(&rows[..first]);
        };
        let inside = screen.rows(columns.start, columns.end - columns.start);
        let inside: Vec<String> = inside.take(first).collect();
        History::with_frames(&inside, |row| row.starts_with(mark))
    }

    /// The mark and the columns of the frame whose foot is in one of the rows.
    fn frame(&self, foot: &str, rows: &[String]) -> Option<(&'static str, Range<u16>)> {
        let mark = self.marks.first()?.trim_end();
        let row = rows.iter().find(|row| row.trim_start().starts_with(foot))?;
        let drawn = row.trim_start();
        let start = row.chars().count() - drawn.chars().count();
        let width = drawn.chars().take_while(|c| *c != ' ').count();
        let start = u16::try_from(start).ok()?;
        Some((mark, start..start + u16::try_from(width).ok()?))
    }

    /// Whether the cursor directly follows `question`.
    pub(super) fn asks(question: &str, screen: &Screen) -> bool {
        let (row, column) = screen.cursor_position();
        let left = screen.rows(0, column).nth(usize::from(row));
        left.is_some_and(|left| left.trim_end().ends_with(question))
    }

    fn begins(&self, row: &str) -> bool {
        let mut marks = self.marks.iter().chain(&self.shell_mark);
        marks.any(|mark| row.starts_with(mark) || row == mark.trim_end())
    }

    fn begun(&self, first: usize, at: &Cursor<'_>) -> Option<(usize, Input)> {
        let row = at.rows.get(first).filter(|row| self.begins(row))?;
        let is_shell = self
            .shell_mark
            .is_some_and(|mark| row.starts_with(mark.trim_end()));
        let input = if is_shell {
            Input::Shell
        } else if first == at.row && self.waits(at) {
            Input::Empty
        } else {
            Input::Holds(row.clone())
        };
        Some((first, input))
    }

    fn framed(&self, foot: &str, at: &Cursor<'_>) -> Option<(usize, Input)> {
        let mark = self.marks.first()?.trim_end();
        let is_inside = |row: &&String| row.trim_start().starts_with(mark);
        let above = at.rows[..at.row].iter().rev().take_while(is_inside).count();
        let below = at.rows[at.row..].iter().take_while(is_inside).count();
        let end = at.rows.get(at.row + below)?;
        if below == 0 || !end.trim_start().starts_with(foot) {
            return None;
        }
        let is_blank = |row: &String| {
            let inside = row.trim_start().strip_prefix(mark);
            inside.is_some_and(is_nothing)
        };
        // One blank row above, one below, and the rows of the foot.
        let is_alone = above == 1
            && below == 3
            && is_blank(&at.rows[at.row - 1])
            && is_blank(&at.rows[at.row + 1]);
        let input = if is_alone && self.waits(at) {
            Input::Empty
        } else {
            Input::Holds(at.rows[at.row].clone())
        };
        Some((at.row - above, input))
    }

    /// Whether the cursor directly follows a mark, and no text follows the cursor.
    fn waits(&self, at: &Cursor<'_>) -> bool {
        let left = match self.long_text {
            LongTextRows::Framed(_) => at.left.trim_start(),
            LongTextRows::Marked | LongTextRows::Indented(_) => &at.left,
        };
        let is_further = matches!(self.long_text, LongTextRows::Marked)
            && at
                .row
                .checked_sub(1)
                .is_some_and(|above| self.begins(&at.rows[above]));
        let is_behind_mark = self.marks.contains(&left);
        let is_suggested = at.is_dim
            || self
                .placeholders
                .iter()
                .any(|text| at.right.starts_with(text));
        is_behind_mark && !is_further && (is_suggested || is_nothing(&at.right))
    }
}

/// Whether the text is blank, at least up to other text at some distance in the row.
fn is_nothing(text: &str) -> bool {
    text.trim().is_empty() || text.starts_with("  ")
}

/// The cursor and the text around it.
struct Cursor<'a> {
    rows: &'a [String],
    row: usize,
    /// The row up to the cursor, with trailing blanks.
    left: String,
    /// The row from the cursor on.
    right: String,
    /// Whether the cell at the cursor is dim, which marks a suggestion.
    is_dim: bool,
}

impl<'a> Cursor<'a> {
    fn of(screen: &Screen, rows: &'a [String]) -> Option<Self> {
        let (row, column) = screen.cursor_position();
        let is_dim = screen.cell(row, column).is_some_and(vt100::Cell::dim);
        let row = usize::from(row);
        let (_, columns) = screen.size();
        rows.get(row)?;
        let mut left = screen.rows(0, column).nth(row)?;
        let missing = usize::from(column).saturating_sub(left.chars().count());
        left.extend(std::iter::repeat_n(' ', missing));
        let right = screen
            .rows(column, columns.get().saturating_sub(column))
            .nth(row)?;
        Some(Self {
            rows,
            row,
            left,
            right,
            is_dim,
        })
    }
}

#[cfg(test)]
mod tests {
    //! The screens were captured from the agents themselves, in the versions that their profiles
    //! name.
    #![allow(clippy::unwrap_used)]

    use crate::wrap::agents::Profile;
    use crate::wrap::agents::reading::{Input, ScreenReading};

    /// Reads rows drawn by `program`. `¦` marks the cursor; without it the cursor is hidden in a
    /// corner.
    fn read(program: &str, rows: &str) -> ScreenReading {
        let mut parser = vt100::Parser::new(20.try_into().unwrap(), 80.try_into().unwrap(), 0);
        let cursor = if rows.contains('¦') { "\x1b7" } else { "" };
        parser.process(rows.replace('\n', "\r\n").replace('¦', cursor).as_bytes());
        let after: &[u8] = if cursor.is_empty() {
            b"\x1b[?25l\x1b[20;80H"
        } else {
            b"\x1b8"
        };
        parser.process(after);
        ScreenReading::of(Profile::of(program.as_ref(), &[]), parser.screen())
    }

    fn is_draft(reading: &ScreenReading) -> bool {
        matches!(reading.input, Input::Holds(_)) && reading.dialog.is_none()
    }

    fn asks(reading: &ScreenReading, name: &str) -> bool {
        reading.input == Input::Absent && reading.dialog.as_deref() == Some(name)
    }

    #[test]
    fn aiders_question_counts_only_at_the_cursor() {
        // An answered question held all messages until it had scrolled away.
        let question = "https://aider.chat/HISTORY.html#release-notes\n\
            Would you like to see what's new in this version? (Y)es/(N)o [Yes]: ";
        assert!(asks(&read("aider", &format!("{question}¦")), "question"));
        let answered = format!("{question}n\n────────────\n");
        for mark in ["> ", "ask> ", "architect> "] {
            let rest = read("aider", &format!("{answered}{mark}¦"));
            assert_eq!((rest.input, rest.dialog), (Input::Empty, None), "{mark}");
        }
        assert!(is_draft(&read("aider", &format!("{answered}> half¦"))));
        assert!(is_draft(&read("aider", &format!("{answered}> ¦half"))));
        assert!(is_draft(&read("aider", &format!("{answered}> half\n> ¦"))));
    }

    #[test]
    fn aider_at_work_or_in_a_mode_where_enter_is_a_new_line_does_not_wait() {
        let busy = read("aider", "> hello\n░█        Waiting for openai/fake¦");
        assert_eq!(busy.input, Input::Absent);
        assert!(busy.shows_busy);
        let later = read("aider", "See what's new? (Y)es/(N)o [Yes]: n\n> hello\n¦");
        assert_eq!((later.input, later.dialog), (Input::Absent, None));
        let lines = read(
            "aider",
            "Multiline mode: Enabled.\n────────────\nask multi> ¦",
        );
        assert_eq!((lines.input, lines.dialog), (Input::Absent, None));
        let answer = read("aider", "> hello\n> a quotation of the model\nand more¦");
        assert_eq!(answer.input, Input::Absent);
    }

    const GEMINI_FOOT: &str = "\n\n workspace (/directory)       sandbox       /model\n\
        \x20/work       no sandbox       Auto";

    #[test]
    fn geminis_tool_dialogs_hold_only_while_they_are_open() {
        let dialog = "> TOOLBASH{touch ran}\n╭────────────╮\n│ ? Shell  touch ran │\n\
            │ Allow execution of [Shell]?  │\n│ ● 1. Allow once  │\n\
            │   2. Allow for this session │\n\
            │   3. No, suggest changes (esc)  │\n╰────────────╯\n¦";
        assert!(asks(&read("gemini", dialog), "permission"));
        let question = "│ Answer Questions │\n│ Which one? │\n│ ● 1.  Alpha │\n│   2.  Beta │\n\
            │ Enter to select · ↑/↓ to navigate · Esc to cancel │\n╰────────────╯\n¦";
        assert!(asks(&read("gemini", question), "menu"));
        let trust = "│ Do you trust the files in this folder? │\n│ ● 1. Trust folder (work) │\n¦";
        assert!(asks(&read("gemini", trust), "trust"));
        let history = " > may I?\n\n✦ Say: Allow once. Do you want to proceed?\n\n────────────\n\
            \x20Shift+Tab to accept edits\n\n";
        let rest = read(
            "gemini",
            &format!("{history} > ¦  Type your message or @path/to/file{GEMINI_FOOT}"),
        );
        assert_eq!((rest.input, rest.dialog), (Input::Empty, None));
        assert!(!rest.shows_busy);
        assert!(is_draft(&read(
            "gemini",
            &format!("{history} > half draft¦{GEMINI_FOOT}")
        )));
        assert!(is_draft(&read(
            "gemini",
            &format!("{history} > half\n   draft¦{GEMINI_FOOT}")
        )));
        assert_eq!(
            read("gemini", &format!("{history} ! ¦{GEMINI_FOOT}")).input,
            Input::Shell
        );
        // In shell mode the foot says that the text is a command.
        let foot = format!("{GEMINI_FOOT}\n shell mode enabled (esc to disable)");
        let shell = read("gemini", &format!("{history} ! ¦{foot}"));
        assert_eq!(shell.input, Input::Shell);
        let busy = format!(
            "⠏ Thinking… (esc to cancel, 3s)\n────────────\n Shift+Tab to accept edits\n\n\
             \x20> ¦  Type your message{GEMINI_FOOT}"
        );
        assert!(read("gemini", &busy).shows_busy);
    }

    #[test]
    fn geminis_menus_without_a_number_are_dialogs() {
        // `list` showed Gemini as idle.
        for menu in [
            " > /settings\n╭────────────╮\n│  ● Vim Mode       false  │\n\
             │  (Use Enter to select, Ctrl+L to reset, Tab to change focus, Esc to close)  │\n\
             ╰────────────╯\n¦",
            " > /theme\n╭────────────╮\n│ > Select Theme    Preview │\n│    1. ANSI Dark  │\n\
             │ (Use Enter to select, Tab to configure scope, Esc to close)  │\n╰────────────╯\n¦",
            " > /model\n╭────────────╮\n│ Select Model │\n│   1. Auto │\n\
             │ > To use a specific Gemini model on startup, use the --model flag. │\n\
             │ (Press Esc to close) │\n╰────────────╯\n¦",
            " > /resume\n\n Chat Sessions (1 total)\n Navigate: ↑/↓   Resume: Enter   Quit: q\n\
             \x20  Index │ Msgs │ Age  │ Name\n ❯ #1    │ 2    │ 34s  │ hello (current)\n ▼\n¦",
        ] {
            assert!(asks(&read("gemini", menu), "menu"), "{menu}");
        }
    }

    const CODEX_FOOT: &str = "\n\n  gpt-5 default · /work\n  ← for agents · ? for shortcuts";

    #[test]
    fn codex_asks_in_place_of_its_line_and_answers_that_look_like_questions_do_not_count() {
        let dialog = "  Would you like to run the following command?\n\n  $ touch ran\n\n\
            › 1. Yes, proceed (y)\n  3. No, and tell Codex what to do differently (esc)\n\n\
            \u{20} Press enter to confirm or esc to cancel";
        assert!(asks(&read("codex", dialog), "approval"));
        // Messages were taken as the choice of a model.
        let menu =
            "  Select Model and Effort\n\n› 1. GPT\n  2. GPT-6-Astra\n\n  enter select · esc back";
        assert_eq!(read("codex", menu).input, Input::Absent);
        // Its answer held all messages until it had scrolled away.
        let history = "› hello\n\n• Would you like to see more?\n\n";
        let rest = read(
            "codex",
            &format!("{history}› ¦\x1b[2mAsk Codex to do anything\x1b[m{CODEX_FOOT}"),
        );
        assert_eq!((rest.input, rest.dialog), (Input::Empty, None));
        let other = read(
            "codex",
            &format!("{history}› ¦\x1b[2mExplain this\x1b[m{CODEX_FOOT}"),
        );
        assert_eq!(other.input, Input::Empty);
        for draft in [
            "› half¦",
            "› ¦half",
            "› one\n  two¦",
            "› Would you like to …¦",
            "› one\n  ¦",
        ] {
            assert!(
                is_draft(&read("codex", &format!("{history}{draft}{CODEX_FOOT}"))),
                "{draft}"
            );
        }
        let busy = format!("• Working (3s • esc to interrupt)\n\n\n› ¦{CODEX_FOOT}");
        assert!(read("codex", &busy).shows_busy);
    }

    #[test]
    fn codex_shows_entered_text_in_its_line_until_its_thread_has_begun() {
        let above = "  >_ OpenAI Codex (v0.171.0)\n     loading\n\n\n";
        let waiting = read(
            "codex",
            &format!("{above}› hello there¦\n\n  Waiting for startup  · esc cancel"),
        );
        assert!(waiting.shows_waiting && !waiting.shows_busy);
        let hidden = format!("{above}› hello there\n\n  Waiting for startup  · esc cancel");
        assert!(read("codex", &hidden).shows_waiting);
        // Any text may look like this.
        let quoted = format!("{above}• Waiting for startup of a server\n\n› ¦{CODEX_FOOT}");
        assert!(!read("codex", &quoted).shows_waiting);
    }

    #[test]
    fn opencode_shows_below_a_prompt_that_it_waits_for_the_running_turn() {
        let prompt = "  ┃\n  ┃  hello\n  ┃  QUEUED\n  ┃";
        assert!(boxed(prompt, "  ┃  ¦").shows_waiting);
        let beside = prompt.replace("QUEUED", "QUEUED          Context");
        assert!(boxed(&beside, "  ┃  ¦").shows_waiting);
        let quoted = prompt.replace("QUEUED", "QUEUED means that it waits");
        assert!(!boxed(&quoted, "  ┃  ¦").shows_waiting);
    }

    #[test]
    fn opencodes_sidebar_is_not_an_answer() {
        // The rows of its sidebar counted as an answer to a prompt that had not begun.
        let prompt = "  ┃\n  ┃  hello                   New session\n\
            \x20 ┃  there\n  ┃                          1,024 tokens\n\n\
            \x20                              LSPs will activate";
        let before = boxed(prompt, "  ┃  ¦").history;
        assert_eq!(before.count_text("hellothere"), 1);
        assert!(!before.has_text_after("hellothere"));
        let answer = format!("{prompt}\n     OK                    as files are read");
        assert!(
            boxed(&answer, "  ┃  ¦")
                .history
                .has_text_after("hellothere")
        );
    }

    /// Reads opencode's box with these rows.
    fn boxed(history: &str, inside: &str) -> ScreenReading {
        let foot = "  ┃\n  ┃  Build · m fake\n  ╹▀▀▀▀▀▀▀▀\n   /work          15  ctrl+p commands";
        read("opencode", &format!("{history}\n\n  ┃\n{inside}\n{foot}"))
    }

    #[test]
    fn opencodes_dialogs_have_no_box_and_a_blank_row_of_a_draft_is_not_an_empty_box() {
        let history = "  ┃\n  ┃  hello\n  ┃\n\n     Allow once. Permission required";
        let rest = boxed(history, "  ┃  ¦");
        assert_eq!((rest.input, rest.dialog), (Input::Empty, None));
        assert_eq!(
            boxed("", "  ┃  ¦Ask anything… \"Fix a bug\"").input,
            Input::Empty
        );
        for draft in [
            "  ┃  half¦",
            "  ┃  ¦half",
            "  ┃  one\n  ┃  ¦",
            "  ┃  one\n  ┃\n  ┃  ¦",
            "  ┃  ¦\n  ┃  two",
        ] {
            assert!(is_draft(&boxed(history, draft)), "{draft}");
        }
        let dialog = "  ┃  △ Permission required\n  ┃    # Shell command\n  ┃\n\
            \x20 ┃  $ touch ran\n  ┃\n\
            \u{20} ┃   Allow once   Allow always   Reject       ⇆ select  enter confirm";
        assert!(asks(&read("opencode", dialog), "permission"));
        let menu =
            "        Select model          esc\n\n  ┃     ¦Search\n        o3-pro\n  ┃     GPT-4.1";
        assert_eq!(read("opencode", menu).input, Input::Absent);
        let busy = "  ┃\n  ┃  ¦\n  ┃\n  ┃  Build · m fake\n  ╹▀▀▀▀\n\
            \x20  ■■⬝⬝  esc interrupt      ctrl+p commands";
        assert!(read("opencode", busy).shows_busy);
    }

    #[test]
    fn a_line_in_shell_mode_is_not_read_as_empty() {
        // opencode draws the same box, and removes the `!` that began the mode.
        let foot = "  ┃\n  ┃  Shell\n  ╹▀▀▀▀\n   /work          esc exit shell mode";
        for inside in ["¦", "¦Run a command… \"pwd\"", "half a command¦"] {
            let screen = format!("\n\n  ┃\n  ┃  {inside}\n{foot}");
            assert_eq!(read("opencode", &screen).input, Input::Shell, "{inside}");
        }
        let codex = format!("› hello\n\n• hi\n\n! ¦{CODEX_FOOT}\n  Shell mode · 1 warning");
        assert_eq!(read("codex", &codex).input, Input::Shell);
    }
}

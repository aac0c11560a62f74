//! The history above an agent's input line, reduced to letters and digits because agents break
//! lines anywhere.
//!
//! An agent that frames its line also frames earlier prompts, and shows other things beside the
//! frame. Only the columns of the frame belong to the conversation.
//!
//! Relies on nothing.

/// The letters and digits of the conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    letters: String,
    /// The end of the last letters outside of a frame.
    unframed_until: usize,
}

impl History {
    /// Creates a history from rows without frames.
    pub fn of(rows: &[String]) -> Self {
        Self::with_frames(rows, |_| false)
    }

    /// Creates a history from rows of which some are framed.
    pub fn with_frames(rows: &[String], is_framed: impl Fn(&str) -> bool) -> Self {
        let mut history = Self::default();
        for row in rows {
            let letters = row.chars().filter(char::is_ascii_alphanumeric);
            let before = history.letters.len();
            history.letters.extend(letters);
            if history.letters.len() > before && !is_framed(row) {
                history.unframed_until = history.letters.len();
            }
        }
        history
    }

    /// How many times it contains the head of the message with this id.
    pub fn count_id(&self, id: &str) -> usize {
        let id = id.chars().filter(char::is_ascii_alphanumeric);
        let named: String = "id".chars().chain(id).collect();
        self.letters.matches(&named).count()
    }

    /// How many times it contains a text of these letters and digits.
    pub fn count_text(&self, letters: &str) -> usize {
        if letters.is_empty() {
            return 0;
        }
        self.letters.matches(letters).count()
    }

    /// Whether it ends with a text of these letters and digits.
    pub fn ends_with(&self, letters: &str) -> bool {
        !letters.is_empty() && self.letters.ends_with(letters)
    }

    /// Whether other text follows a text of these letters and digits, outside of its frame.
    pub fn has_text_after(&self, letters: &str) -> bool {
        let end = self.letters.rfind(letters).map(|at| at + letters.len());
        !letters.is_empty() && end.is_some_and(|end| end < self.unframed_until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(rows: &[&str]) -> History {
        let rows: Vec<String> = rows.iter().map(|&row| row.to_owned()).collect();
        History::with_frames(&rows, |row| row.trim_start().starts_with('┃'))
    }

    #[test]
    fn text_within_the_frame_of_a_prompt_is_not_an_answer() {
        let before = ["   an answer", "  ┃", "  ┃  a text"];
        assert_eq!(framed(&before).count_text("atext"), 1);
        assert!(!framed(&before).has_text_after("atext"));
        let with_time = [&before[..], &["  ┃  12:30 PM", "  ┃"]].concat();
        assert!(!framed(&with_time).has_text_after("atext"));
        let answered = [&with_time[..], &["", "   OK"]].concat();
        assert!(framed(&answered).has_text_after("atext"));
    }
}

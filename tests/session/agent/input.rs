//! The keys of the fake agent. As in the real one, Enter that arrives in one read with text is a
//! line break.
//!
//! Relies on nothing.

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// Typed.
    Text(String),
    /// Pasted.
    Paste(String),
    /// Submit, or answer.
    Enter,
    /// Escape alone.
    Escape,
    /// The arrow to the left.
    Left,
    /// The arrow downwards.
    Down,
    /// Delete backwards.
    Backspace,
    /// Ctrl-U.
    Clear,
    /// Ctrl-Z.
    Stop,
    /// Ctrl-D.
    End,
    /// Ctrl-O.
    Toggle,
}

/// Collects bytes into keys.
#[derive(Default)]
pub(crate) struct Parser {
    bytes: Vec<u8>,
}

impl Parser {
    /// The keys of one read.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Vec<Key> {
        self.bytes.extend_from_slice(bytes);
        let text = String::from_utf8_lossy(&self.bytes).into_owned();
        if text.contains("\x1b[200~") && !text.contains("\x1b[201~") {
            return Vec::new();
        }
        self.bytes.clear();
        let mut keys = Vec::new();
        let mut rest = text.as_str();
        while !rest.is_empty() {
            if let Some(pasted) = rest.strip_prefix("\x1b[200~") {
                let end = pasted.find("\x1b[201~").unwrap_or(pasted.len());
                keys.push(Key::Paste(pasted[..end].to_owned()));
                rest = pasted.get(end + 6..).unwrap_or_default();
            } else if let Some(report) = rest.strip_prefix("\x1b[") {
                let end = report
                    .find(|c: char| c.is_ascii_alphabetic())
                    .map_or(report.len(), |end| end + 1);
                match &report[..end] {
                    "D" => keys.push(Key::Left),
                    "B" => keys.push(Key::Down),
                    _ => {}
                }
                rest = &report[end..];
            } else {
                let end = rest.find("\x1b[").unwrap_or(rest.len());
                typed(&rest[..end], &mut keys);
                rest = &rest[end..];
            }
        }
        keys
    }
}

fn typed(text: &str, keys: &mut Vec<Key>) {
    match text {
        "\r" => keys.push(Key::Enter),
        "\x1b" => keys.push(Key::Escape),
        text => {
            for c in text.chars() {
                keys.push(match c {
                    '\x7f' => Key::Backspace,
                    '\x15' => Key::Clear,
                    '\x1a' => Key::Stop,
                    '\x04' => Key::End,
                    '\x0f' => Key::Toggle,
                    '\x1b' => Key::Escape,
                    '\r' => Key::Text("\n".to_owned()),
                    c => Key::Text(c.to_string()),
                });
            }
        }
    }
}

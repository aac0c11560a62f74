//! Parses input from the person's terminal: keys, or responses and reports of the terminal itself.
//!
//! A program queries its terminal (name, colours, cursor position), and the responses arrive in the
//! same stream as keys, as do focus and mouse reports. All input is forwarded unchanged; this file
//! only decides which bytes are keys of a person, and how they change a draft. When uncertain,
//! bytes count as keys.
//!
//! Has no dependencies.

/// A key press of a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyPress {
    /// This many characters were typed or pasted.
    Text(usize),
    /// The last character was deleted.
    Backspace,
    /// Enter, which submits the text in the box.
    Enter,
    /// Ctrl-U or Ctrl-C, which clears the line.
    Clear,
    /// Escape.
    Escape,
    /// A key that may fill the box: history, completion, yank.
    Recall,
    /// Any other key.
    Other,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum InputState {
    #[default]
    Ground,
    Escape,
    /// An Escape at the end of a read, most likely the key.
    EscapeKey,
    Control,
    /// `ESC O x`: a function key.
    Function,
    /// The three bytes after `ESC [ M`.
    OldMouse(u8),
    /// `ESC ]`, `ESC P` or `ESC _` (this byte), and nothing behind it yet.
    ResponseBegins(u8),
    /// [`Self::ResponseBegins`] at the end of a read: Alt with a key, or a response that is split
    /// there.
    ResponseCut(u8),
    /// Within a response, which ends with BEL or `ESC \`.
    Response,
    ResponseEscape,
    Paste,
}

const PASTE_END: &[u8] = b"\x1b[201~";
const COLLECT_LIMIT: usize = 64;

/// Parses the input of a terminal into key presses, however it is split.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    state: InputState,
    collected: Vec<u8>,
    pasted: usize,
}

impl Keys {
    /// Returns the key presses in `bytes`; empty if they are only reports of the terminal.
    pub fn read(&mut self, bytes: &[u8]) -> Vec<KeyPress> {
        let mut presses = Vec::new();
        let rest = self.rest_of_response(bytes);
        if rest > 0 {
            self.state = InputState::Ground;
        }
        for &byte in &bytes[rest..] {
            if let Some(press) = self.step(byte) {
                join(&mut presses, press);
            }
        }
        match self.state {
            // Most likely the Escape key, or else the beginning of a response.
            InputState::Escape => {
                self.state = InputState::EscapeKey;
                join(&mut presses, KeyPress::Escape);
            }
            // A terminal sends a response at once, so this is Alt with a key. If it counted as a
            // response, all further keys of the person would be hidden.
            InputState::ResponseBegins(kind) => {
                self.state = InputState::ResponseCut(kind);
                join(&mut presses, KeyPress::Other);
            }
            _ => {}
        }
        if self.state == InputState::Paste {
            join(&mut presses, KeyPress::Text(1));
        }
        presses
    }

    /// Whether `bytes` are complete responses and reports of the terminal without any key.
    pub fn are_only_reports(&self, bytes: &[u8]) -> bool {
        let mut ahead = self.clone();
        ahead.read(bytes).is_empty() && ahead.state == InputState::Ground
    }

    /// The number of bytes that complete a response whose beginning came alone. Only a complete
    /// rest in the form of a known response counts, so that no key of the person is hidden.
    fn rest_of_response(&self, bytes: &[u8]) -> usize {
        let (kind, begun) = match (self.state, bytes) {
            (InputState::ResponseCut(kind), _) => (kind, 0),
            (InputState::EscapeKey, [kind @ (b']' | b'P' | b'_'), ..]) => (*kind, 1),
            _ => return 0,
        };
        let rest = &bytes[begun..];
        let has_form = match kind {
            b']' => {
                let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
                digits > 0 && rest.get(digits) == Some(&b';')
            }
            b'P' => matches!(
                rest,
                [b'>', b'|', ..] | [b'0' | b'1', b'$' | b'+', b'r', ..]
            ),
            _ => rest.first() == Some(&b'G'),
        };
        let end = rest.iter().position(|&byte| byte < 0x20);
        let length = match end.map(|end| (end, &rest[end..])) {
            Some((end, [0x07, ..])) => end + 1,
            Some((end, [0x1b, b'\\', ..])) => end + 2,
            _ => return 0,
        };
        if has_form { begun + length } else { 0 }
    }

    fn step(&mut self, byte: u8) -> Option<KeyPress> {
        match self.state {
            InputState::Ground => self.ground(byte),
            InputState::Escape => self.escape(byte),
            InputState::EscapeKey if matches!(byte, b'[' | b'O') => self.escape(byte),
            InputState::EscapeKey | InputState::ResponseCut(_) => {
                self.state = InputState::Ground;
                self.ground(byte)
            }
            InputState::Control => self.control(byte),
            InputState::Function => {
                self.state = InputState::Ground;
                Some(if matches!(byte, b'A' | b'B') {
                    KeyPress::Recall
                } else {
                    KeyPress::Other
                })
            }
            InputState::OldMouse(left) => {
                self.state = if left > 1 {
                    InputState::OldMouse(left - 1)
                } else {
                    InputState::Ground
                };
                None
            }
            InputState::ResponseBegins(_) | InputState::Response => {
                self.state = InputState::Response;
                match byte {
                    0x07 => self.state = InputState::Ground,
                    0x1b => self.state = InputState::ResponseEscape,
                    _ => {}
                }
                None
            }
            InputState::ResponseEscape => {
                self.state = if byte == b'\\' {
                    InputState::Ground
                } else {
                    InputState::Response
                };
                None
            }
            InputState::Paste => self.paste(byte),
        }
    }

    fn ground(&mut self, byte: u8) -> Option<KeyPress> {
        match byte {
            0x1b => {
                self.state = InputState::Escape;
                None
            }
            b'\r' | b'\n' => Some(KeyPress::Enter),
            0x7f | 0x08 => Some(KeyPress::Backspace),
            0x03 | 0x15 => Some(KeyPress::Clear),
            b'\t' | 0x10 | 0x0e | 0x12 | 0x19 | 0x16 | 0x13 => Some(KeyPress::Recall),
            0x00..=0x1f => Some(KeyPress::Other),
            // Continuation bytes of a UTF-8 character do not count.
            0x80..=0xbf => None,
            _ => Some(KeyPress::Text(1)),
        }
    }

    fn escape(&mut self, byte: u8) -> Option<KeyPress> {
        self.state = InputState::Ground;
        match byte {
            b'[' => {
                self.collected.clear();
                self.state = InputState::Control;
                None
            }
            b'O' => {
                self.state = InputState::Function;
                None
            }
            b']' | b'P' | b'_' => {
                self.state = InputState::ResponseBegins(byte);
                None
            }
            0x1b => {
                self.state = InputState::Escape;
                Some(KeyPress::Escape)
            }
            // Alt-Enter is a line break in most boxes; Alt with any other key is a command.
            b'\r' | b'\n' => Some(KeyPress::Text(1)),
            _ => Some(KeyPress::Other),
        }
    }

    fn control(&mut self, byte: u8) -> Option<KeyPress> {
        match byte {
            0x20..=0x3f => {
                if self.collected.len() < COLLECT_LIMIT {
                    self.collected.push(byte);
                }
                return None;
            }
            0x40..=0x7e => self.state = InputState::Ground,
            _ => {
                self.state = InputState::Ground;
                return Some(KeyPress::Other);
            }
        }
        match (self.collected.as_slice(), byte) {
            // Focus and mouse reports, and responses to queries.
            ([], b'I' | b'O')
            | ([b'<', ..], b'M' | b'm')
            | ([b'?' | b'>' | b'=', ..], _)
            | (_, b'n' | b't' | b'c' | b'y') => None,
            ([], b'M') => {
                self.state = InputState::OldMouse(3);
                None
            }
            (position, b'R') if !is_function_key(position) => None,
            (b"200", b'~') => {
                self.state = InputState::Paste;
                self.pasted = 0;
                self.collected.clear();
                None
            }
            (_, b'A' | b'B') => Some(KeyPress::Recall),
            (code, b'u') => kitty(code),
            _ => Some(KeyPress::Other),
        }
    }

    fn paste(&mut self, byte: u8) -> Option<KeyPress> {
        self.pasted += 1;
        self.collected.push(byte);
        if self.collected.ends_with(PASTE_END) {
            self.state = InputState::Ground;
            self.collected.clear();
            let text = self.pasted - PASTE_END.len();
            return (text > 0).then_some(KeyPress::Text(text));
        }
        if self.collected.len() > COLLECT_LIMIT {
            self.collected.drain(..COLLECT_LIMIT / 2);
        }
        None
    }
}

/// Whether these are the parameters of F3. A cursor report `ESC [ row ; column R` has the same form
/// only in the first row.
fn is_function_key(parameters: &[u8]) -> bool {
    let mut parts = parameters.split(|&byte| byte == b';');
    matches!(
        (parts.next(), parts.next()),
        (Some(b"" | b"1"), None) | (Some(b"1"), Some([b'2'..=b'9'] | [b'1', b'0'..=b'6']))
    )
}

/// Parses a key of the kitty keyboard protocol, `ESC [ code : … ; modifiers : event ; … u`.
fn kitty(parameters: &[u8]) -> Option<KeyPress> {
    let text = std::str::from_utf8(parameters).ok()?;
    let mut parts = text.split(';');
    let code: u32 = parts.next()?.split(':').next()?.parse().ok()?;
    let mut modifiers = parts.next().unwrap_or("1").split(':');
    let held = modifiers
        .next()
        .and_then(|m| m.parse::<u32>().ok())
        .unwrap_or(1)
        .saturating_sub(1);
    if modifiers.next() == Some("3") {
        // A release, whose press was counted.
        return None;
    }
    let is_plain = held & !0b1100_0001 == 0;
    let is_control = held & 0b100 != 0;
    Some(match code {
        13 if is_plain && held & 1 == 0 => KeyPress::Enter,
        13 => KeyPress::Text(1),
        27 => KeyPress::Escape,
        127 | 8 => KeyPress::Backspace,
        9 => KeyPress::Recall,
        99 | 117 if is_control => KeyPress::Clear,
        110 | 112 | 114 | 115 | 118 | 121 if is_control => KeyPress::Recall,
        32.. if is_plain && !(57344..=63743).contains(&code) => KeyPress::Text(1),
        _ => KeyPress::Other,
    })
}

fn join(presses: &mut Vec<KeyPress>, press: KeyPress) {
    match (presses.last_mut(), press) {
        (Some(KeyPress::Text(count)), KeyPress::Text(more)) => *count += more,
        _ => presses.push(press),
    }
}

/// The number of unsubmitted characters in a box that cannot be seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Draft {
    characters: usize,
}

impl Draft {
    /// Updates the draft for one key press.
    pub fn press(&mut self, press: KeyPress) {
        self.characters = match press {
            KeyPress::Text(count) => self.characters.saturating_add(count),
            KeyPress::Backspace => self.characters.saturating_sub(1),
            KeyPress::Enter | KeyPress::Clear => 0,
            KeyPress::Recall => self.characters.max(1),
            KeyPress::Escape | KeyPress::Other => self.characters,
        };
    }

    /// Whether characters were typed since the last submit and not all deleted.
    pub fn is_present(self) -> bool {
        self.characters > 0
    }

    /// Resets the draft, since the box was seen empty.
    pub fn clear(&mut self) {
        self.characters = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presses(bytes: &[u8]) -> Vec<KeyPress> {
        Keys::default().read(bytes)
    }

    #[test]
    fn responses_of_the_terminal_are_no_keys() {
        for answer in [
            &b"\x1b[I"[..],
            b"\x1b[O",
            b"\x1b[<0;10;5M",
            b"\x1b[<0;10;5m",
            b"\x1b[M !!",
            b"\x1b[?62;22c",
            b"\x1b[>41;354;0c",
            b"\x1b[?2026;2$y",
            b"\x1b[24;80R",
            b"\x1b[0n",
            b"\x1b[?997;1n",
            b"\x1b[8;24;80t",
            b"\x1b[?1u",
            b"\x1bP>|xterm(354)\x1b\\",
            b"\x1b]11;rgb:0000/0000/0000\x07",
            b"\x1b]11;rgb:0000/0000/0000\x1b\\",
            b"\x1b_Gi=31;OK\x1b\\",
        ] {
            assert_eq!(presses(answer), [], "{}", answer.escape_ascii());
        }
    }

    #[test]
    fn keys_are_keys() {
        assert_eq!(
            presses("hé\x7f\r".as_bytes()),
            [KeyPress::Text(2), KeyPress::Backspace, KeyPress::Enter]
        );
        assert_eq!(
            presses(b"\x1b[A\x1bOB\x1b[C"),
            [KeyPress::Recall, KeyPress::Recall, KeyPress::Other]
        );
        assert_eq!(presses(b"\x1b"), [KeyPress::Escape]);
        assert_eq!(presses(b"\x03\x15"), [KeyPress::Clear, KeyPress::Clear]);
        assert_eq!(
            presses(b"\x1b[200~two\nlines\x1b[201~"),
            [KeyPress::Text(9)]
        );
        assert_eq!(
            presses(b"\x1b[97u\x1b[97;1:3u\x1b[13u"),
            [KeyPress::Text(1), KeyPress::Enter]
        );
        assert_eq!(presses(b"\x1b[1;2R"), [KeyPress::Other]);
    }

    #[test]
    fn complete_responses_are_reports_and_incomplete_ones_may_be_keys() {
        let keys = Keys::default();
        assert!(keys.are_only_reports(b"\x1b[I\x1b[<35;10;5M"));
        for doubtful in [&b"\x1b[I\x1b["[..], b"\x1b[Ix", b"\x1b"] {
            assert!(!keys.are_only_reports(doubtful));
        }
    }

    #[test]
    fn a_split_response_is_no_key() {
        let answer = b"\x1b[?2026;2$y";
        for cut in 2..answer.len() {
            let mut keys = Keys::default();
            assert_eq!(keys.read(&answer[..cut]), []);
            assert_eq!(keys.read(&answer[cut..]), []);
        }
    }

    #[test]
    fn a_response_split_after_its_first_bytes_leaves_no_draft() {
        // The rest of the response counted as a person's text, so messages were held as `draft`.
        for answer in [
            &b"\x1b]11;rgb:0000/0000/0000\x07"[..],
            b"\x1b]11;rgb:0000/0000/0000\x1b\\",
            b"\x1bP>|xterm(354)\x1b\\",
            b"\x1bP1$r0m\x1b\\",
            b"\x1b_Gi=31;OK\x1b\\",
        ] {
            for cut in 1..answer.len() {
                let mut keys = Keys::default();
                let mut presses = keys.read(&answer[..cut]);
                presses.extend(keys.read(&answer[cut..]));
                let is_text =
                    |press: &KeyPress| !matches!(press, KeyPress::Escape | KeyPress::Other);
                assert!(
                    !presses.iter().any(is_text),
                    "{} | {}: {presses:?}",
                    answer[..cut].escape_ascii(),
                    answer[cut..].escape_ascii()
                );
                assert_eq!(
                    keys.read(b"x"),
                    [KeyPress::Text(1)],
                    "{}",
                    answer.escape_ascii()
                );
            }
        }
    }

    #[test]
    fn keys_after_escape_or_alt_are_keys() {
        // Alt-_ counted as the beginning of an endless response: later drafts were not seen, and
        // messages were typed into them.
        for before in [&b"\x1b"[..], b"\x1b]", b"\x1bP", b"\x1b_"] {
            for text in [&b"]draft"[..], b"P_ours", b"0;text"] {
                let mut keys = Keys::default();
                assert_ne!(keys.read(before), [], "{}", before.escape_ascii());
                assert_eq!(keys.read(text), [KeyPress::Text(6)]);
            }
        }
    }

    #[test]
    fn a_draft_is_gone_when_all_of_it_is_deleted() {
        let mut draft = Draft::default();
        for press in presses(b"ab\x7f") {
            draft.press(press);
        }
        assert!(draft.is_present());
        draft.press(KeyPress::Backspace);
        assert!(!draft.is_present());
        draft.press(KeyPress::Recall);
        assert!(draft.is_present());
        draft.press(KeyPress::Enter);
        assert!(!draft.is_present());
    }
}

//! `cbroker toy` (hidden): a minimal imitation of a coding agent. It has an input box in raw mode
//! with bracketed paste, and shows each submission above it. `demo` wraps two of them.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::error::Error;
use crate::exit::Exit;

const START: &[u8] = b"\x1b[200~";
const END: &[u8] = b"\x1b[201~";
const CTRL_C: u8 = 3;
const CTRL_D: u8 = 4;
const BACKSPACE: u8 = 0x7f;
const PROMPT: &str = "> ";

/// The meaning of an input byte.
#[derive(Debug, PartialEq, Eq)]
enum InputKey {
    Text(u8),
    Submit,
    Erase,
    Leave,
}

/// Turns bytes into keys. A paste is text, whatever it contains.
#[derive(Default)]
struct KeyReader {
    pending: Vec<u8>,
    is_paste: bool,
}

/// Runs until Ctrl-C, Ctrl-D or the end of input.
pub(super) fn run(record: Option<&Path>) -> Result<Exit, Error> {
    let failed = |error: io::Error| Error::new("the toy agent failed").caused_by(error);
    let record = record.map(open).transpose().map_err(failed)?;
    let _raw = RawMode::enter().map_err(failed)?;
    talk(record).map_err(failed)?;
    Ok(Exit::Done)
}

fn talk(mut record: Option<File>) -> io::Result<()> {
    let mut screen = io::stdout().lock();
    write!(
        screen,
        "\x1b[?2004hToy agent. Type a line, or receive one.\r\n{PROMPT}"
    )?;
    screen.flush()?;
    let (mut keys, mut line, mut bytes) = (KeyReader::default(), Vec::new(), [0; 4096]);
    loop {
        let count = io::stdin().lock().read(&mut bytes)?;
        if count == 0 {
            break;
        }
        for key in keys.take(&bytes[..count]) {
            match key {
                InputKey::Text(byte) => line.push(byte),
                InputKey::Erase => drop(line.pop()),
                InputKey::Submit => {
                    let text = String::from_utf8_lossy(&line).into_owned();
                    write!(
                        screen,
                        "\r\x1b[K* received: {}\r\n",
                        text.replace('\n', "\r\n")
                    )?;
                    if let Some(record) = &mut record {
                        let recorded = text.replace('\n', "\\n");
                        record.write_all(format!("{recorded}\n").as_bytes())?;
                    }
                    line.clear();
                }
                InputKey::Leave => {
                    write!(screen, "\r\n\x1b[?2004l")?;
                    return screen.flush();
                }
            }
        }
        write!(screen, "\r\x1b[K{PROMPT}{}", shown(&line))?;
        screen.flush()?;
    }
    Ok(())
}

/// The box has one row: of a long text, it shows the beginning and the length.
fn shown(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line).replace(char::is_control, " ");
    if text.chars().count() <= 30 {
        return text;
    }
    let beginning: String = text.chars().take(20).collect();
    format!("{beginning}… ({} characters)", text.chars().count())
}

impl KeyReader {
    fn take(&mut self, bytes: &[u8]) -> Vec<InputKey> {
        self.pending.extend_from_slice(bytes);
        let mut keys = Vec::new();
        let mut at = 0;
        while at < self.pending.len() {
            let rest = &self.pending[at..];
            let marker = if self.is_paste { END } else { START };
            if rest.starts_with(marker) {
                self.is_paste = !self.is_paste;
                at += marker.len();
            } else if marker.starts_with(rest) {
                // The rest of the marker may still arrive.
                break;
            } else {
                keys.push(self.meaning(rest[0]));
                at += 1;
            }
        }
        self.pending.drain(..at);
        keys
    }

    fn meaning(&self, byte: u8) -> InputKey {
        match byte {
            _ if self.is_paste => InputKey::Text(byte),
            b'\r' => InputKey::Submit,
            BACKSPACE => InputKey::Erase,
            CTRL_C | CTRL_D => InputKey::Leave,
            _ => InputKey::Text(byte),
        }
    }
}

/// Raw mode of the terminal, restored on drop.
struct RawMode(Option<Termios>);

impl RawMode {
    fn enter() -> io::Result<Self> {
        let Ok(before) = tcgetattr(io::stdin()) else {
            return Ok(Self(None));
        };
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(Some(before)))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // The terminal may be closed already.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paste_is_text_even_with_a_return_in_it_and_even_when_torn() {
        let mut keys = KeyReader::default();
        let mut seen = keys.take(b"\x1b[20");
        assert_eq!(seen, []);
        seen.extend(keys.take(b"0~a\rb\x1b[2"));
        seen.extend(keys.take(b"01~\r"));
        assert_eq!(
            seen,
            [
                InputKey::Text(b'a'),
                InputKey::Text(b'\r'),
                InputKey::Text(b'b'),
                InputKey::Submit
            ]
        );
    }
}

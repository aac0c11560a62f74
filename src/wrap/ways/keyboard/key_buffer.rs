//! A buffer of the person's keys that are kept back from the first byte of a text until the sign of
//! its turn.
//!
//! Has no dependencies.

/// Capacity in bytes, more than a person types or pastes in that time. Input that does not fit is
/// forwarded.
const CAPACITY: usize = 1 << 20;
/// Ctrl-C, Ctrl-Z and Ctrl-\ as bytes, and the code points of their keys.
const URGENT_BYTES: [u8; 3] = [0x03, 0x1a, 0x1c];
const URGENT_KEYS: [&str; 3] = ["99", "122", "92"];
/// Bit of Ctrl in the modifiers of a key, which are sent as one more than their sum.
const CTRL: u32 = 4;
/// The kitty keyboard's number for the release of a key.
const RELEASE: &str = "3";

/// Keys and reports of the terminal, in the order of their arrival.
#[derive(Debug, Default)]
pub(super) struct KeyBuffer {
    bytes: Vec<u8>,
    has_keys: bool,
}

impl KeyBuffer {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Records that the buffer holds a key of the person.
    pub(super) fn mark_has_keys(&mut self) {
        self.has_keys = true;
    }

    pub(super) fn has_keys(&self) -> bool {
        self.has_keys
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn has_room(&self) -> bool {
        self.bytes.len() < CAPACITY
    }

    /// Takes all bytes; `None` if there are none.
    pub(super) fn take(&mut self) -> Option<Vec<u8>> {
        self.has_keys = false;
        (!self.bytes.is_empty()).then(|| std::mem::take(&mut self.bytes))
    }
}

/// Whether these bytes are Escape, as a byte or in the kitty keyboard protocol.
pub(super) fn is_escape(bytes: &[u8]) -> bool {
    bytes == b"\x1b" || bytes.starts_with(b"\x1b[27u") || bytes.starts_with(b"\x1b[27;")
}

/// Whether one of these keys interrupts or stops the program, so that none of them may wait.
pub(super) fn is_urgent(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    bytes.iter().any(|byte| URGENT_BYTES.contains(byte))
        || text.split("\x1b[").skip(1).any(is_urgent_sequence)
}

/// Whether a control sequence is such a key: `CODE;MODIFIERS:EVENT u` of the kitty keyboard, or
/// `27;MODIFIERS;CODE ~` of xterm. Caps Lock and Num Lock are modifiers too.
fn is_urgent_sequence(sequence: &str) -> bool {
    let Some(end) = sequence.find(|letter: char| ('@'..='~').contains(&letter)) else {
        return false;
    };
    let (parameters, last) = (&sequence[..end], &sequence[end..=end]);
    let fields: Vec<&str> = parameters.split(';').collect();
    let (code, modifiers) = match (last, fields.as_slice()) {
        ("u", [code, modifiers, ..]) | ("~", ["27", modifiers, code]) => (*code, *modifiers),
        _ => return false,
    };
    let key = code.split(':').next().unwrap_or_default();
    let (modifiers, event) = modifiers.split_once(':').unwrap_or((modifiers, ""));
    let sum = modifiers.parse::<u32>().unwrap_or(1).saturating_sub(1);
    URGENT_KEYS.contains(&key) && sum & CTRL != 0 && event != RELEASE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_interrupt_are_known_in_each_form_and_beside_others() {
        for urgent in [
            "\x03",
            "\x03\x03",
            "a\x1c",
            "\x1b[99;5u",
            "\x1b[99;69u",
            "\x1b[99;133u",
            "\x1b[99:67;5:1u",
            "\x1b[122;5:2u",
            "\x1b[27;5;99~",
            "\x1b[I\x1b[92;5u",
        ] {
            assert!(is_urgent(urgent.as_bytes()), "{urgent:?}");
        }
        for other in [
            "",
            "c",
            "\x1b",
            "\x1b[",
            "\x1b[99u",
            "\x1b[99;2u",
            "\x1b[99;5:3u",
            "\x1b[A",
        ] {
            assert!(!is_urgent(other.as_bytes()), "{other:?}");
        }
    }
}

//! A person's keys, kept back from the first byte of a text until the sign of its turn.
//!
//! Relies on nothing.

/// More than a person types or pastes in that time; what does not fit is passed on.
const ROOM: usize = 1 << 20;
/// Ctrl-C, Ctrl-Z and Ctrl-\, as bytes and as the kitty keyboard sends them: they never wait.
const URGENT: [&[u8]; 6] = [
    b"\x03",
    b"\x1a",
    b"\x1c",
    b"\x1b[99;5u",
    b"\x1b[122;5u",
    b"\x1b[92;5u",
];

/// Keys in the order in which they were pressed, and what the terminal itself said between them.
#[derive(Debug, Default)]
pub(super) struct Kept {
    bytes: Vec<u8>,
    has_keys: bool,
}

impl Kept {
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A person's key is among them.
    pub(super) fn hold_keys(&mut self) {
        self.has_keys = true;
    }

    pub(super) fn has_keys(&self) -> bool {
        self.has_keys
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn has_room(&self) -> bool {
        self.bytes.len() < ROOM
    }

    /// All of them; `None` when there are none.
    pub(super) fn release(&mut self) -> Option<Vec<u8>> {
        self.has_keys = false;
        (!self.bytes.is_empty()).then(|| std::mem::take(&mut self.bytes))
    }
}

/// Escape, as a byte and as the kitty keyboard sends it.
pub(super) fn is_escape(bytes: &[u8]) -> bool {
    bytes == b"\x1b" || bytes.starts_with(b"\x1b[27u") || bytes.starts_with(b"\x1b[27;")
}

/// Whether these keys interrupt or stop the program.
pub(super) fn is_urgent(bytes: &[u8]) -> bool {
    URGENT.contains(&bytes)
}

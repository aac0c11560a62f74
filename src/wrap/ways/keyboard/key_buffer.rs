//! A buffer of the person's keys that are kept back from the first byte of a text until the sign of
//! its turn.
//!
//! Has no dependencies.

/// Capacity in bytes, more than a person types or pastes in that time. Input that does not fit is
/// forwarded.
const CAPACITY: usize = 1 << 20;
/// Ctrl-C, Ctrl-Z and Ctrl-\, as bytes and in the kitty keyboard protocol. They are never kept
/// back.
const URGENT: [&[u8]; 6] = [
    b"\x03",
    b"\x1a",
    b"\x1c",
    b"\x1b[99;5u",
    b"\x1b[122;5u",
    b"\x1b[92;5u",
];

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

/// Whether these keys interrupt or stop the program.
pub(super) fn is_urgent(bytes: &[u8]) -> bool {
    URGENT.contains(&bytes)
}

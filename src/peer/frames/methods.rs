//! The methods that brokers send, as far as lapin has to read them.
//!
//! lapin parses every method of the protocol, also those that only clients send, and calls itself
//! for each table within a table. So a method passes only if it is one of a broker, and if its
//! tables can be read without much stack.

use super::UnreadableFrame;
use super::reader::Reader;

/// A part of a method's fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    /// Numbers and bits, of so many bytes together.
    Fixed(usize),
    /// A text of at most 255 bytes, which must be UTF-8.
    Name,
    /// Bytes behind their length.
    Long,
    Table,
}

/// The fields of the method with this class and number; `None` if no broker sends it.
fn fields(class: u16, number: u16) -> Option<&'static [Field]> {
    use Field::{Fixed, Long, Name, Table};
    Some(match (class, number) {
        // connection: start, tune
        (10, 10) => &[Fixed(2), Table, Long, Long],
        (10, 30) => &[Fixed(8)],
        // connection: close; channel: close
        (10, 50) | (20, 40) => &[Fixed(2), Name, Fixed(4)],
        // connection: secure; channel: open-ok
        (10, 20) | (20, 11) => &[Long],
        // channel: flow, flow-ok
        (20, 20 | 21) => &[Fixed(1)],
        // access: request-ok
        (30, 11) => &[Fixed(2)],
        // queue: declare-ok, purge-ok, delete-ok
        (50, 11) => &[Name, Fixed(8)],
        (50, 31 | 41) => &[Fixed(4)],
        // connection: open-ok, blocked; basic: consume-ok, cancel-ok, get-empty
        (10, 41 | 60) | (60, 21 | 31 | 72) => &[Name],
        // basic: cancel, return, deliver, get-ok, ack, nack
        (60, 30) => &[Name, Fixed(1)],
        (60, 50) => &[Fixed(2), Name, Name, Name],
        (60, 60) => &[Name, Fixed(9), Name, Name],
        (60, 71) => &[Fixed(9), Name, Name, Fixed(4)],
        (60, 80 | 120) => &[Fixed(9)],
        // connection: close-ok, unblocked, update-secret-ok; channel: close-ok
        (10, 51 | 61 | 71)
        | (20, 41)
        // exchange: declare-ok, delete-ok, bind-ok, unbind-ok
        | (40, 11 | 21 | 31 | 51)
        // queue: bind-ok, unbind-ok
        | (50, 21 | 51)
        // basic: qos-ok, recover-ok
        | (60, 11 | 111)
        // confirm: select-ok; tx: select-ok, commit-ok, rollback-ok
        | (85, 11)
        | (90, 11 | 21 | 31) => &[],
        _ => return None,
    })
}

/// Makes the names in a method readable: in one that is not UTF-8, each byte that is not ASCII
/// becomes `?`.
///
/// # Errors
/// lapin must not read this method, or cannot.
pub(super) fn mend_method(payload: &mut [u8]) -> Result<(), UnreadableFrame> {
    let Some((&mut [c1, c2, n1, n2], mut rest)) = payload.split_first_chunk_mut::<4>() else {
        return Err(UnreadableFrame::NoMethod);
    };
    let (class, number) = (u16::from_be_bytes([c1, c2]), u16::from_be_bytes([n1, n2]));
    let fields = fields(class, number).ok_or(UnreadableFrame::NotOfBrokers { class, number })?;
    for field in fields {
        let later = field.mend(rest);
        rest = later.ok_or(UnreadableFrame::Malformed { class, number })?;
    }
    match rest {
        [] => Ok(()),
        _ => Err(UnreadableFrame::Malformed { class, number }),
    }
}

impl Field {
    /// Returns what is behind the field; `None` if lapin cannot read it.
    fn mend(self, bytes: &mut [u8]) -> Option<&mut [u8]> {
        let length = match self {
            Self::Fixed(length) => length,
            Self::Name => 1 + usize::from(*bytes.first()?),
            Self::Long => read_length(bytes, |reader| reader.long().map(drop))?,
            Self::Table => read_length(bytes, |reader| reader.table(1))?,
        };
        let (field, later) = bytes.split_at_mut_checked(length)?;
        if self == Self::Name {
            let name = field.get_mut(1..)?;
            if std::str::from_utf8(name).is_err() {
                let unreadable = name.iter_mut().filter(|byte| !byte.is_ascii());
                unreadable.for_each(|byte| *byte = b'?');
            }
        }
        Some(later)
    }
}

/// How many bytes are read.
fn read_length(bytes: &[u8], read: impl FnOnce(&mut Reader<'_>) -> Option<()>) -> Option<usize> {
    let mut reader = Reader(bytes);
    read(&mut reader)?;
    Some(bytes.len() - reader.0.len())
}

#[cfg(test)]
mod tests;

//! AMQP 0-9-1 as bytes: frames, methods, content, tables. Nothing here knows a queue or a socket.
//!
//! Relies on nothing but the standard library. Incoming data is borrowed from the read buffer; outgoing data is
//! appended to the buffer that will be written. The crate `amq-protocol` is the second opinion that `tests` asks: it
//! loses the order of tables and refuses names that are not UTF-8 with less to say, so the server itself reads and
//! writes by hand.

#[cfg(any(test, fuzzing))]
pub mod attempts;
pub(crate) mod content;
pub(crate) mod cursor;
pub(crate) mod erlang;
pub(crate) mod frame;
pub(crate) mod method;
pub mod properties;
pub(crate) mod reply;
pub mod table;
#[cfg(test)]
mod tests;

/// What a client sends first, and what it is answered when it sent something else.
pub(crate) const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\0\0\x09\x01";

/// The class that carries content.
pub(crate) const BASIC: u16 = 60;

//! The AMQP 0-9-1 wire format: frames, methods, content and tables. Nothing here knows a queue or a
//! socket.
//!
//! Depends on the standard library only. Incoming data is borrowed from the read buffer, outgoing
//! data is appended to the write buffer. The codec is written by hand because the crate
//! `amq-protocol` loses the order of tables and reports names that are not UTF-8 with less detail.
//! The tests compare both codecs.

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

/// The header that a client sends first. The server answers with it if a client sent anything else.
pub(crate) const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\0\0\x09\x01";

/// The only class with content.
pub(crate) const BASIC: u16 = 60;

//! The AMQP 0-9-1 wire format: frames, methods, content and tables. Nothing here knows a queue or a
//! socket.
//!
//! Depends on the standard library only. Incoming data is borrowed from the read buffer, outgoing
//! data is appended to the write buffer. The codec is written by hand: the crate `amq-protocol`
//! takes over twenty times as long, overflows the stack on nested tables and loses the order of
//! their fields (`docs/decisions/0003-hand-written-codec.md`). The tests compare both.

#[cfg(any(test, fuzzing))]
pub mod attempts;
pub(crate) mod content;
pub(crate) mod cursor;
pub(crate) mod erlang;
pub(crate) mod frame;
pub(crate) mod method;
pub(crate) mod method_id;
pub mod properties;
pub(crate) mod reply;
pub mod table;
#[cfg(test)]
mod tests;

/// The header that a client sends first. The server answers with it if a client sent anything else.
pub(crate) const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\0\0\x09\x01";

/// The only class with content.
pub(crate) const BASIC: u16 = 60;

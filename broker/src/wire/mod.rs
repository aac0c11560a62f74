//! Bytes and nothing but bytes: what AMQP 0-9-1 looks like on the wire.

pub mod table;

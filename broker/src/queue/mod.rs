//! An ordered line of messages and the consumers that wait at its head.

pub mod arguments;
pub mod dead_letter;

//! Queue and topology to store and back.

pub mod records;

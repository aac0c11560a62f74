//! The program a user types.
fn main() {}

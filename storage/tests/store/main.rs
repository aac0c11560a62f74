//! The store as its caller sees it, on real folders.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(
    clippy::cast_possible_truncation,
    reason = "small numbers, chosen here"
)]

mod calls;
mod child;
mod damage;
mod faults;
mod kill;
mod layouts;
mod memory;
mod model;
mod power;
mod space;
mod support;

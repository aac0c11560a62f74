//! The store as its caller sees it, on real folders.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(
    clippy::cast_possible_truncation,
    reason = "small numbers, chosen here"
)]

mod calls;
mod child;
mod damage;
mod damaged_store;
mod definitions;
mod exhaustive;
mod faults;
mod forge;
mod full_disk;
mod hostile;
mod index_files;
mod kill;
mod large;
mod model;
#[cfg(target_os = "linux")]
mod open_files;
#[cfg(target_os = "linux")]
mod out_of_memory;
#[cfg(target_os = "linux")]
mod power;
mod random;
mod refused;
#[cfg(target_os = "linux")]
mod scale;
mod simulated_disk;
mod space;
mod support;
mod tidying;
mod traps;
mod workload;

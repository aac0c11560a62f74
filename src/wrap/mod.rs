//! A wrapped session: one program in a pseudo-terminal, as if nothing stood between it and its
//! terminal, and one queue whose messages are handed to it when that is safe.
//!
//! | what | where |
//! |---|---|
//! | the one loop over bytes, messages and time | [`session`] |
//! | the program, its terminal, its stops and its end | [`pty`], [`monitor`] |
//! | the person's terminal | [`terminal`] |
//! | bytes between the two | [`relay`] |
//! | what the bytes mean | [`modes`], [`keys`] |
//! | what is drawn, and who may see it | [`screen`], [`agents::reading`], [`screen_socket`] |
//! | what is known of every agent | [`agents`] |
//! | what is known of this one now | [`agent_state`], [`hooks`], [`foreground`] |
//! | messages from the broker's delivery to the ack | [`delivery`]: pure, time as an argument |
//! | the ways in: plugin, API and inbox with one interface, hook and keyboard | [`ways`] |
//! | how a session begins | [`start`], [`child_env`], [`briefing`], [`opened`] |
//! | why a message waits | [`hold`], [`brake`] |
//! | what must survive a crash | [`disk`], [`seen`], [`dead_letter`], [`spill`] |
//! | what is parked while others flood a session | [`body_file`] |
//! | which of all this an installed agent allows | [`probe`] |
//!
//! Relies on `peer` for the broker, on `envelope` and `name` for what a message is, on `config` for
//! where things lie.

pub mod agent_state;
pub mod agents;
mod body_file;
pub mod brake;
pub mod briefing;
mod child_env;
mod dead_letter;
pub mod delivery;
mod disk;
pub mod foreground;
mod hidden;
pub mod hold;
mod hook;
mod hooks;
pub mod keys;
mod log;
pub mod modes;
pub mod monitor;
mod opened;
mod options;
pub mod own_status;
pub mod probe;
pub mod pty;
mod relay;
mod screen;
mod screen_socket;
mod seen;
mod session;
mod spill;
mod start;
mod terminal;
pub mod ways;

pub use agents::{complaints as profile_complaints, is_agent, use_folder as use_profiles};
pub use dead_letter::kept::{KeptDeadLetter, dead_letters, each_dead_letter, remove_dead_letter};
pub use delivery::publisher_mark;
pub use hidden::run as hidden;
pub use opened::{all_opened, how_to_open};
pub use options::{BrokerStart, Fallback, WrapOptions};
pub use screen_socket::{SessionScreen, screens_of};
pub use start::{Alone, run, run_without_messages};

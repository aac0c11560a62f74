//! A wrapped session: runs one program in a pseudo-terminal, transparently, and delivers the
//! messages of one queue to it when that is safe.
//!
//! | what | where |
//! |---|---|
//! | the event loop | [`session`] |
//! | the program, its terminal, its job control and its end | [`pty`], [`monitor`] |
//! | the person's terminal | [`terminal`] |
//! | bytes between the two terminals | [`relay`] |
//! | terminal modes and key presses in these bytes | [`modes`], [`keys`] |
//! | the drawn screen, and `cbroker screen` | [`screen`], [`agents::reading`], [`screen_socket`] |
//! | profiles of agents | [`agents`] |
//! | the agent's current state | [`agent_state`], [`hooks`], [`foreground`] |
//! | messages from the broker's delivery to the ack | [`delivery`]: pure, time is an argument |
//! | the ways in: plugin, API, inbox, hook and keyboard | [`ways`] |
//! | the start of a session | [`start`], [`child_env`], [`briefing`], [`opened`] |
//! | private files that end with the session | [`session_files`] |
//! | why a message waits | [`hold`], [`brake`] |
//! | files that survive a crash | [`disk`], [`seen`], [`dead_letter`], [`spill`] |
//! | bodies of parked messages | [`body_file`] |
//! | checks of an installed agent | [`probe`] |
//!
//! Relies on `peer` for the broker, on `envelope` and `name` for messages, and on `config` for
//! paths.

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
mod session_files;
mod spill;
mod start;
mod terminal;
#[cfg(test)]
mod test_program;
pub mod ways;

pub use agents::{agent_programs, complaints as profile_complaints, use_folder as use_profiles};
pub use dead_letter::kept::{KeptDeadLetter, dead_letters, each_dead_letter, remove_dead_letter};
pub use delivery::publisher_mark;
pub use hidden::run as hidden;
pub use opened::{all_opened, how_to_open};
pub use options::{BrokerStart, Fallback, WrapOptions};
pub use screen_socket::{SessionScreen, screens_of};
pub use seen::Publisher;
pub use start::{CheckedWrap, UnwrappedProgram, check, run, run_without_messages};

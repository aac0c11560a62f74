//! What a wrap is asked to do. Relies on the names of things alone.

use std::ffi::OsString;

use super::delivery::Mode;
use crate::envelope::Breaks;
use crate::name::{GroupName, SessionName};
use crate::peer::Sharing;

/// What happens where the broker cannot be reached at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// The program runs without messages, and gets them when the broker comes.
    RunAnyway,
    /// Exit code 3 (`--no-fallback`).
    Fail,
}

/// What is known of the broker's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerStart {
    /// Nothing keeps it from answering.
    Over,
    /// It goes on behind the session, and takes longer than the program should wait.
    GoesOn,
}

/// One wrap, as it was asked for.
#[derive(Clone, Debug)]
pub struct WrapOptions {
    /// The session's name, and so its queue's.
    pub name: SessionName,
    /// The groups that it joins.
    pub groups: Vec<GroupName>,
    /// TTL of the queue where it has to be made, in milliseconds.
    pub ttl_ms: u64,
    /// Without a broker.
    pub fallback: Fallback,
    /// Whether the local broker is still being started.
    pub broker_start: BrokerStart,
    /// Beside another session of the name.
    pub sharing: Sharing,
    /// Whether the agent is briefed where it can be.
    pub is_briefed: bool,
    /// Whether the agent may call `cbroker send` without asking (`--allow-send`).
    pub may_send: bool,
    /// `--delivery`; `None` is what the program's profile says.
    pub delivery: Option<Mode>,
    /// Line breaks in messages (`--multiline`).
    pub breaks: Breaks,
    /// How many waiting messages may share one submission.
    pub batch: usize,
    /// The program to run.
    pub program: OsString,
    /// Its arguments, untouched.
    pub arguments: Vec<OsString>,
}

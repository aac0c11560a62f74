//! The options of a wrap.

use std::ffi::OsString;

use super::delivery::DeliveryMode;
use crate::envelope::LineBreaks;
use crate::name::{GroupName, SessionName};
use crate::peer::Sharing;

/// What happens if the broker cannot be reached at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// The program runs without messages, and gets them once the broker can be reached.
    RunAnyway,
    /// The command fails with exit code 3 (`--no-fallback`).
    Fail,
}

/// Whether the local broker is still being started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerStart {
    /// No start is in progress.
    Over,
    /// The start continues in the background, and the program does not wait for it.
    GoesOn,
}

/// The options of one wrap.
#[derive(Clone, Debug)]
pub struct WrapOptions {
    /// The name of the session and its queue.
    pub name: SessionName,
    /// The groups that the session joins.
    pub groups: Vec<GroupName>,
    /// TTL of the queue in milliseconds, used if it must be created.
    pub ttl_ms: u64,
    /// What happens without a broker.
    pub fallback: Fallback,
    /// Whether the local broker is still being started.
    pub broker_start: BrokerStart,
    /// Whether another session of this name may be attached.
    pub sharing: Sharing,
    /// Whether the agent gets the briefing, if it supports that.
    pub is_briefed: bool,
    /// Whether the agent may call `cbroker send` without asking (`--allow-send`).
    pub may_send: bool,
    /// `--delivery`; `None` for the default of the program's profile.
    pub delivery: Option<DeliveryMode>,
    /// Line breaks in messages (`--multiline`).
    pub breaks: LineBreaks,
    /// Maximum number of waiting messages in one submission.
    pub batch: usize,
    /// The program to run.
    pub program: OsString,
    /// Its arguments, unchanged.
    pub arguments: Vec<OsString>,
}

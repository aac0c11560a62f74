//! Options of a wrap.

use clap::Args;

use crate::cli::duration::{TimeToLive, positive_time_to_live};
use crate::config::DeliveryMode;

/// Options of a wrap, before `claude` or `run`.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Options of a wrap (before `claude`, another agent or `run`)")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of its own on the command line"
)]
pub struct WrapArgs {
    /// The session's name; `my-backend`, `my_backend` and `My Backend` are all `myBackend`
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// A group that the session joins: `send @GROUP` reaches its members; repeats
    #[arg(long = "group", value_name = "GROUP")]
    pub groups: Vec<String>,
    /// Milliseconds, or 10m, 2h: how long a message waits for the session, if its queue is new
    /// [default: a day]
    #[arg(long, value_name = "TIME", value_parser = positive_time_to_live)]
    pub ttl: Option<TimeToLive>,
    /// Exit with 3 when the broker cannot be reached, instead of running without it
    #[arg(long)]
    pub no_fallback: bool,
    /// Refuse when another session of this name is attached
    #[arg(long)]
    pub exclusive: bool,
    /// Do not explain peer messages to Claude at its start
    #[arg(long)]
    pub no_brief: bool,
    /// Do not start the local broker when none answers
    #[arg(long)]
    pub no_start: bool,
    /// How messages are delivered to the agent [default: auto]
    #[arg(long, value_name = "WAY")]
    pub delivery: Option<DeliveryMode>,
    /// Keep line breaks if the agent supports bracketed paste
    #[arg(long)]
    pub multiline: bool,
    /// How many waiting messages may share one submission [default: 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub batch: Option<u32>,
    /// Let Claude run `cbroker send` without asking each time
    #[arg(long)]
    pub allow_send: bool,
}

impl WrapArgs {
    /// Returns the first option that was given, for the error about a wrap option before another
    /// verb.
    pub(in crate::cli) fn first_typed(&self) -> Option<&'static str> {
        [
            (self.name.is_some(), "--name"),
            (!self.groups.is_empty(), "--group"),
            (self.ttl.is_some(), "--ttl"),
            (self.no_fallback, "--no-fallback"),
            (self.exclusive, "--exclusive"),
            (self.no_brief, "--no-brief"),
            (self.no_start, "--no-start"),
            (self.delivery.is_some(), "--delivery"),
            (self.multiline, "--multiline"),
            (self.batch.is_some(), "--batch"),
            (self.allow_send, "--allow-send"),
        ]
        .into_iter()
        .find_map(|(is_typed, option)| is_typed.then_some(option))
    }
}

//! Which way in takes a message now: the order, what is open, and what was switched off after
//! failures. One place for all ways (docs/delivery.md, "order of the ways in").
//!
//! Relies on the names of the ways.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Mode;
use crate::wrap::ways::{Timing, Way};

/// A way in is switched off after this many failures.
const FAILURES: u8 = 2;
/// Delay before the first retry of the ways that were switched off, once no other way is left. An
/// agent's own API is retried even while the keyboard is left: it fails on a busy machine, and a
/// typed text needs a free prompt.
const TRIED_AGAIN_AFTER: Duration = Duration::from_mins(2);
/// How often the delay doubles.
const DOUBLINGS: u32 = 5;
/// How long a plugin that was given to the agent may take to say hello after the session began.
const HELLO_WITHIN: Duration = Duration::from_secs(2);
/// How long an agent's own API may take to open after its prompt was drawn: Codex and opencode
/// need 1 s on an idle machine, and more than 15 s on one with forty times its load. A text that is
/// typed meanwhile may be dropped by the start.
const API_WITHIN: Duration = Duration::from_mins(1);
/// How long a way that has closed may take to open again: the session moves to another process, or
/// the agent is about to end.
const OPENS_AGAIN_WITHIN: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
enum Openness {
    Open,
    Closed,
    /// It says that no process holds the session.
    Away,
    /// It may open until then; `None`: nothing was seen of the agent yet.
    Expected(Option<Instant>),
}

#[derive(Clone, Debug)]
struct WayStatus {
    openness: Openness,
    failures: u8,
    can_steer: bool,
    /// Since when it is known to be switched off.
    off_since: Option<Instant>,
    /// How often it was tried again since it worked.
    rounds: u32,
}

/// The ways of one session.
#[derive(Debug, Default)]
pub(super) struct Ways {
    known: BTreeMap<Way, WayStatus>,
}

/// What can be done with a message now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WayChoice {
    /// This way takes it, whatever the agent does.
    Take(Way),
    /// Only the keyboard is left, and that needs a free prompt.
    Keyboard,
    /// A better way may open until then; `None`: the agent is still starting.
    Soon(Option<Instant>),
    /// The session is in no process now, so no way takes it.
    Away,
    /// None.
    None,
}

/// What bears on the choice beside the ways.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// When the message shall come in.
    pub(super) timing: Timing,
    /// Ways that had it, and of which nothing was seen.
    pub(super) unseen_by: &'a [Way],
    /// A turn runs.
    pub(super) is_busy: bool,
    /// The person pressed Escape.
    pub(super) is_stopped: bool,
}

impl Ways {
    pub(super) fn open(&mut self, way: Way, can_steer: bool) {
        let known = self.entry(way);
        known.openness = Openness::Open;
        known.can_steer |= can_steer;
    }

    pub(super) fn close(&mut self, way: Way, now: Instant) {
        let known = self.entry(way);
        // The hook closes at each text that it takes.
        let may_open_again = way != Way::Hook && matches!(known.openness, Openness::Open);
        known.openness = if may_open_again {
            Openness::Expected(Some(now + OPENS_AGAIN_WITHIN))
        } else {
            Openness::Closed
        };
    }

    /// This way says that no process holds the session.
    pub(super) fn away(&mut self, way: Way) {
        self.entry(way).openness = Openness::Away;
    }

    /// This way was given to the agent, and opens when the agent says so.
    pub(super) fn expect(&mut self, way: Way) {
        self.entry(way).openness = Openness::Expected(None);
    }

    /// The agent is bringing this way up: it is waited for anew.
    pub(super) fn starts(&mut self, way: Way, now: Instant) {
        let known = self.entry(way);
        if let Openness::Expected(_) | Openness::Closed = known.openness {
            known.openness = Openness::Expected(Some(now + API_WITHIN));
        }
    }

    /// The agent's session began.
    pub(super) fn began(&mut self, now: Instant) {
        self.wait_until(now + HELLO_WITHIN, |way| way != Way::Api);
    }

    /// The agent's prompt was drawn first at `at`.
    pub(super) fn drawn(&mut self, at: Instant) {
        self.wait_until(at + API_WITHIN, |way| way == Way::Api);
    }

    fn wait_until(&mut self, until: Instant, is_meant: impl Fn(Way) -> bool) {
        let meant = self.known.iter_mut().filter(|(way, _)| is_meant(**way));
        for (_, known) in meant {
            if let Openness::Expected(limit) = &mut known.openness {
                limit.get_or_insert(until);
            }
        }
    }

    pub(super) fn failed(&mut self, way: Way) {
        self.entry(way).failures += 1;
    }

    pub(super) fn worked(&mut self, way: Way) {
        self.entry(way).forget_failures();
    }

    /// An API that was switched off has one more try when its time has come: when that is.
    pub(super) fn try_api_again(&mut self, now: Instant) -> Option<Instant> {
        self.known.get_mut(&Way::Api)?.try_again_in_time(now)
    }

    /// No way is left: when the first of those that were switched off has one more try. `None`:
    /// none was.
    pub(super) fn none_is_left(&mut self, now: Instant) -> Option<Instant> {
        let known = self.known.values_mut();
        known.filter_map(|known| known.try_again_in_time(now)).min()
    }

    /// Failures are forgotten: the person wants another try.
    pub(super) fn try_again(&mut self) {
        self.known.values_mut().for_each(WayStatus::forget_failures);
    }

    /// Ways that are switched off after failures.
    pub(super) fn off(&self) -> impl Iterator<Item = Way> {
        self.known
            .iter()
            .filter(|(_, known)| known.failures >= FAILURES)
            .map(|(way, _)| *way)
    }

    /// Whether this way takes messages, as it says.
    pub(super) fn is_open(&self, way: Way) -> bool {
        let known = self.known.get(&way);
        known.is_some_and(|known| matches!(known.openness, Openness::Open))
    }

    /// Whether this way brings a text in between two tools, and past the person's Escape.
    pub(super) fn can_steer(&self, way: Way) -> bool {
        self.known.get(&way).is_some_and(|known| known.can_steer)
    }

    /// The way for a message.
    pub(super) fn choose(&self, mode: Mode, wanted: Wanted<'_>, now: Instant) -> WayChoice {
        let mut known = self.known.values();
        if known.any(|known| matches!(known.openness, Openness::Away)) {
            return WayChoice::Away;
        }
        let untried = self.choose_among(mode, wanted, now, |way| !wanted.unseen_by.contains(way));
        if untried == WayChoice::None && !wanted.unseen_by.is_empty() {
            return self.choose_among(mode, wanted, now, |_| true);
        }
        untried
    }

    fn choose_among(
        &self,
        mode: Mode,
        wanted: Wanted<'_>,
        now: Instant,
        is_meant: impl Fn(&Way) -> bool,
    ) -> WayChoice {
        let Wanted {
            timing,
            is_busy,
            is_stopped,
            ..
        } = wanted;
        let is_allowed = |way: &Way| mode.allows(*way) && self.works(*way) && is_meant(way);
        let is_open = |way: &Way| is_allowed(way) && self.is_open(*way);
        let can_steer = |way: &Way| self.can_steer(*way);
        let is_between_tools = is_busy && timing != Timing::Idle;
        let past_escape = is_stopped && timing == Timing::Now;
        let order = [Way::Plugin, Way::Api, Way::Inbox, Way::Hook];
        if (is_between_tools || past_escape)
            && let Some(way) = order.iter().find(|way| is_open(way) && can_steer(way))
        {
            return WayChoice::Take(*way);
        }
        let open = order.iter().find(|way| is_open(way));
        // A better way that was given to the agent has a moment to open.
        let is_better = |way: &Way| open.is_none_or(|open| way < open);
        let hello = self
            .known
            .iter()
            .filter(|(way, _)| is_allowed(way) && is_better(way));
        for (way, known) in hello {
            match known.openness {
                Openness::Expected(Some(until)) if until > now => {
                    return WayChoice::Soon(Some(until));
                }
                Openness::Expected(None) if *way == Way::Api => return WayChoice::Soon(None),
                _ => {}
            }
        }
        if let Some(way) = open {
            return WayChoice::Take(*way);
        }
        if is_allowed(&Way::Keyboard) {
            WayChoice::Keyboard
        } else {
            WayChoice::None
        }
    }

    fn works(&self, way: Way) -> bool {
        let known = self.known.get(&way);
        known.is_none_or(|known| known.failures < FAILURES)
    }

    fn entry(&mut self, way: Way) -> &mut WayStatus {
        self.known.entry(way).or_insert(WayStatus {
            openness: Openness::Closed,
            failures: 0,
            can_steer: false,
            off_since: None,
            rounds: 0,
        })
    }
}

impl WayStatus {
    fn forget_failures(&mut self) {
        self.failures = 0;
        self.off_since = None;
        self.rounds = 0;
    }

    /// When it has one more try, if it is switched off; from then on it has it.
    fn try_again_in_time(&mut self, now: Instant) -> Option<Instant> {
        if self.failures < FAILURES {
            return None;
        }
        let pause = TRIED_AGAIN_AFTER * (1 << self.rounds.min(DOUBLINGS));
        let due = *self.off_since.get_or_insert(now) + pause;
        if now >= due {
            self.off_since = None;
            self.rounds += 1;
            self.failures = FAILURES - 1;
        }
        Some(due)
    }
}

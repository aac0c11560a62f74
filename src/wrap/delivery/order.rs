//! Chooses the way in for a message, from the order of the ways, their state, and their failures
//! (docs/delivery.md, "order of the ways in").
//!
//! Relies on the names of the ways.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::DeliveryMode;
use crate::wrap::ways::{Timing, Way};

/// A way in is disabled after this many failures.
const MAX_FAILURES: u8 = 2;
/// Delay before the first retry of disabled ways once no other way is left. An agent's own API is
/// retried even while the keyboard is left: it fails on a busy machine, and a typed text needs a
/// free prompt.
const RETRY_AFTER: Duration = Duration::from_mins(2);
/// How many times the delay doubles.
const MAX_DOUBLINGS: u32 = 5;
/// How long an expected way other than the API may take to open after the agent's session began.
const OPENS_WITHIN: Duration = Duration::from_secs(2);
/// How long an agent's own API may take to open after its prompt was drawn: Codex and opencode need
/// 1 s on an idle machine, and more than 15 s under forty times its load. A starting agent may drop
/// a text that is typed meanwhile.
const API_WITHIN: Duration = Duration::from_mins(1);
/// How long a closed way may take to open again: the session may be moving to another process, or
/// the agent may be about to end.
const OPENS_AGAIN_WITHIN: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
enum Openness {
    Open,
    Closed,
    /// No process holds the session.
    Away,
    /// It may open until this time; `None` if nothing was seen of the agent yet.
    Expected(Option<Instant>),
}

#[derive(Clone, Debug)]
struct WayStatus {
    openness: Openness,
    failures: u8,
    can_steer: bool,
    is_exposed: bool,
    /// When it was first found to be disabled.
    disabled_since: Option<Instant>,
    /// Number of retries since it last worked.
    retries: u32,
}

/// The state of the ways of one session.
#[derive(Debug, Default)]
pub(super) struct WayStatuses {
    known: BTreeMap<Way, WayStatus>,
}

/// The way for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WayChoice {
    /// This way takes it, regardless of the agent's state.
    Take(Way),
    /// Only the keyboard is left, which needs a free prompt.
    Keyboard,
    /// A better way may open until this time; `None` if the agent is still starting.
    Soon(Option<Instant>),
    /// No process holds the session, so no way takes it.
    Away,
    /// No way takes it.
    None,
}

/// The parameters of a choice.
#[derive(Clone, Copy, Debug)]
pub(super) struct WayQuery<'a> {
    /// When the message is to be delivered.
    pub(super) timing: Timing,
    /// The ways that had it without any sign in the transcript.
    pub(super) unseen_by: &'a [Way],
    /// Whether a turn runs.
    pub(super) is_busy: bool,
    /// Whether the person pressed Escape.
    pub(super) is_escaped: bool,
}

impl WayStatuses {
    pub(super) fn open(&mut self, way: Way, can_steer: bool) {
        let known = self.entry(way);
        known.openness = Openness::Open;
        known.can_steer |= can_steer;
    }

    pub(super) fn set_exposed(&mut self, way: Way, is_exposed: bool) {
        self.entry(way).is_exposed = is_exposed;
    }

    /// Whether other users of the machine could read what this way takes.
    pub(super) fn is_exposed(&self, way: Way) -> bool {
        self.known.get(&way).is_some_and(|known| known.is_exposed)
    }

    pub(super) fn close(&mut self, way: Way, now: Instant) {
        let known = self.entry(way);
        // The hook closes with each text that it takes.
        let may_open_again = way != Way::Hook && matches!(known.openness, Openness::Open);
        known.openness = if may_open_again {
            Openness::Expected(Some(now + OPENS_AGAIN_WITHIN))
        } else {
            Openness::Closed
        };
    }

    /// Records that no process holds the session, according to this way.
    pub(super) fn mark_away(&mut self, way: Way) {
        self.entry(way).openness = Openness::Away;
    }

    /// Records that this way was set up and will open later.
    pub(super) fn expect(&mut self, way: Way) {
        self.entry(way).openness = Openness::Expected(None);
    }

    /// Records that the agent is bringing this way up, and restarts its time limit.
    pub(super) fn mark_starting(&mut self, way: Way, now: Instant) {
        let known = self.entry(way);
        if let Openness::Expected(_) | Openness::Closed = known.openness {
            known.openness = Openness::Expected(Some(now + API_WITHIN));
        }
    }

    /// Starts the time limits after the agent's session began.
    pub(super) fn session_began(&mut self, now: Instant) {
        self.wait_until(now + OPENS_WITHIN, |way| way != Way::Api);
    }

    /// Starts the time limit of the API after the agent's prompt was first drawn at `at`.
    pub(super) fn prompt_drawn(&mut self, at: Instant) {
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

    pub(super) fn note_failure(&mut self, way: Way) {
        self.entry(way).failures += 1;
    }

    pub(super) fn note_success(&mut self, way: Way) {
        self.entry(way).forget_failures();
    }

    /// Gives a disabled API one more try if its delay is over. Returns when that is.
    pub(super) fn retry_api(&mut self, now: Instant) -> Option<Instant> {
        self.known.get_mut(&Way::Api)?.retry_when_due(now)
    }

    /// Gives disabled ways one more try once their delay is over. Returns when the first delay
    /// ends; `None` if no way is disabled.
    pub(super) fn retry_disabled(&mut self, now: Instant) -> Option<Instant> {
        let known = self.known.values_mut();
        known.filter_map(|known| known.retry_when_due(now)).min()
    }

    /// Enables all ways again, at the person's request.
    pub(super) fn reset_failures(&mut self) {
        self.known.values_mut().for_each(WayStatus::forget_failures);
    }

    /// The ways that are disabled after failures.
    pub(super) fn disabled(&self) -> impl Iterator<Item = Way> {
        self.known
            .iter()
            .filter(|(_, known)| known.failures >= MAX_FAILURES)
            .map(|(way, _)| *way)
    }

    /// Whether this way reported that it takes messages.
    pub(super) fn is_open(&self, way: Way) -> bool {
        let known = self.known.get(&way);
        known.is_some_and(|known| matches!(known.openness, Openness::Open))
    }

    /// Whether this way can deliver a text between two tools, and after the person pressed Escape.
    pub(super) fn can_steer(&self, way: Way) -> bool {
        self.known.get(&way).is_some_and(|known| known.can_steer)
    }

    /// Chooses the way for a message.
    pub(super) fn choose(
        &self,
        mode: DeliveryMode,
        wanted: WayQuery<'_>,
        now: Instant,
    ) -> WayChoice {
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
        mode: DeliveryMode,
        wanted: WayQuery<'_>,
        now: Instant,
        is_meant: impl Fn(&Way) -> bool,
    ) -> WayChoice {
        let WayQuery {
            timing,
            is_busy,
            is_escaped,
            ..
        } = wanted;
        let is_allowed = |way: &Way| mode.allows(*way) && self.is_enabled(*way) && is_meant(way);
        let is_open = |way: &Way| is_allowed(way) && self.is_open(*way);
        let can_steer = |way: &Way| self.can_steer(*way);
        let is_between_tools = is_busy && timing != Timing::Idle;
        let past_escape = is_escaped && timing == Timing::Now;
        let order = [Way::Plugin, Way::Api, Way::Inbox, Way::Hook];
        if (is_between_tools || past_escape)
            && let Some(way) = order.iter().find(|way| is_open(way) && can_steer(way))
        {
            return WayChoice::Take(*way);
        }
        let open = order.iter().find(|way| is_open(way));
        // A better way that is expected gets time to open.
        let is_better = |way: &Way| open.is_none_or(|open| way < open);
        let better = self
            .known
            .iter()
            .filter(|(way, _)| is_allowed(way) && is_better(way));
        for (way, status) in better {
            match status.openness {
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

    fn is_enabled(&self, way: Way) -> bool {
        let known = self.known.get(&way);
        known.is_none_or(|known| known.failures < MAX_FAILURES)
    }

    fn entry(&mut self, way: Way) -> &mut WayStatus {
        self.known.entry(way).or_insert(WayStatus {
            openness: Openness::Closed,
            failures: 0,
            can_steer: false,
            is_exposed: false,
            disabled_since: None,
            retries: 0,
        })
    }
}

impl WayStatus {
    fn forget_failures(&mut self) {
        self.failures = 0;
        self.disabled_since = None;
        self.retries = 0;
    }

    /// If it is disabled, returns when its delay ends, and gives it one more try after that.
    fn retry_when_due(&mut self, now: Instant) -> Option<Instant> {
        if self.failures < MAX_FAILURES {
            return None;
        }
        let pause = RETRY_AFTER * (1 << self.retries.min(MAX_DOUBLINGS));
        let due = *self.disabled_since.get_or_insert(now) + pause;
        if now >= due {
            self.disabled_since = None;
            self.retries += 1;
            self.failures = MAX_FAILURES - 1;
        }
        Some(due)
    }
}

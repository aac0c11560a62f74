//! The brake: slows down agents that answer each other endlessly. Pure: time is an argument.
//!
//! Every message is counted by its time of arrival and by the user that the broker names as its
//! publisher. Hops are checked only if that is the session's own user, because any user can claim a
//! number. Messages of sessions, which have hops, and messages without a user are counted by the
//! name that they claim. A person or a script with a user may send ten times as much; so may all
//! messages without a user together, and each other user in total, whatever names they claim. Users
//! are counted separately, so a forged name cannot hold another user's messages.
//!
//! The backlog of the session's own user at its start does not count, and each message counts once.
//! Held messages are released after a minute: two agents that answer each other endlessly are
//! slowed down, but no message is held forever.
//!
//! Relies on nothing.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// The period in which messages are counted, and after which held messages are released.
const WINDOW: Duration = Duration::from_mins(1);
/// The limit for unnamed senders, and for all names of one user together, as a multiple of the
/// limit for one peer.
const UNNAMED_FACTOR: usize = 10;
/// Maximum number of names of one user that are counted separately. All further names share one
/// count, so invented names cannot use up memory.
const MAX_NAMES: usize = 512;

/// The limits of the brake.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum number of hops of a message of the session's own user.
    pub hops: u32,
    /// Maximum number of messages per minute from one peer.
    pub per_minute: u32,
}

/// The properties of an arrived message that the brake uses.
#[derive(Clone, Copy, Debug)]
pub struct ArrivedMessage<'a> {
    /// The sender that it claims.
    pub from: &'a str,
    /// The user who published it, if the broker authenticates it.
    pub user: Option<&'a str>,
    /// Whether that is the session's own user.
    pub is_own: bool,
    /// Whether it was in the queue when the session attached; see [`Brake::is_backlog`].
    pub is_backlog: bool,
    /// Its id.
    pub id: &'a str,
    /// The value of `cbroker-hops`; `None` if the header is missing.
    pub hops: Option<u32>,
}

/// The authenticated user and the claimed name; `None` as the name stands for all messages of the
/// user.
type Sender = (Option<String>, Option<String>);

/// Counts messages by their sender.
#[derive(Debug)]
pub struct Brake {
    limits: Limits,
    /// Arrivals by user and claimed name.
    recent: HashMap<Sender, VecDeque<(Instant, String)>>,
    /// Number of messages that waited when the session attached and were not delivered yet.
    backlog: u32,
    /// When held messages are released.
    release_at: Option<Instant>,
}

impl Brake {
    /// Creates a brake with these limits.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            recent: HashMap::new(),
            backlog: 0,
            release_at: None,
        }
    }

    /// Sets the number of messages that wait in the queue and were sent earlier.
    pub fn expect_backlog(&mut self, waiting: u32) {
        self.backlog = waiting;
    }

    /// Whether the message that the broker delivers now was in the queue when the session attached.
    /// Must be called once for each delivery, in order, also if its message is parked or refused:
    /// otherwise a later, new message would count as backlog in its place.
    pub fn is_backlog(&mut self) -> bool {
        let is_backlog = self.backlog > 0;
        self.backlog = self.backlog.saturating_sub(1);
        is_backlog
    }

    /// Counts a message that arrived now. Returns whether it must be held.
    pub fn holds(&mut self, message: ArrivedMessage<'_>, now: Instant) -> bool {
        // Another user could fill the queue while the session is detached, so only the backlog of
        // the session's own user is exempt.
        let is_backlog = message.is_own && message.is_backlog;
        let is_far = message.is_own && message.hops.is_some_and(|hops| hops > self.limits.hops);
        let is_many = !is_backlog && self.exceeds_rate(message, now);
        if is_far || is_many {
            self.release_at.get_or_insert(now + WINDOW);
        }
        is_far || is_many
    }

    /// When [`Self::is_due`] must be called again.
    pub fn release_at(&self) -> Option<Instant> {
        self.release_at
    }

    /// Whether held messages are released now. This resets the counts.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.release_at.is_some_and(|at| now >= at);
        if is_due {
            self.release();
        }
        is_due
    }

    /// Resets the counts, after all held messages were released.
    pub fn release(&mut self) {
        self.recent.clear();
        self.release_at = None;
    }

    /// Counts a message. Returns whether its sender exceeds the limit per minute.
    fn exceeds_rate(&mut self, message: ArrivedMessage<'_>, now: Instant) -> bool {
        let user = || message.user.map(str::to_owned);
        let per_minute = self.limits.per_minute as usize;
        let is_named = message.hops.is_some() || message.user.is_none();
        let are_many_of_name = is_named && {
            let sender = (user(), Some(message.from.to_owned()));
            self.exceeds(per_minute, sender, message.id, now)
        };
        // Names can be forged. The session's own user runs many sessions, so their messages have no
        // common limit.
        let is_counted_in_all = message.hops.is_none() || !message.is_own;
        let most = per_minute.saturating_mul(UNNAMED_FACTOR);
        let are_many_of_all =
            is_counted_in_all && self.exceeds(most, (user(), None), message.id, now);
        are_many_of_name || are_many_of_all
    }

    /// Counts a message. Returns whether more than `limit` different ones of this sender arrived
    /// within a minute.
    fn exceeds(&mut self, limit: usize, mut sender: Sender, id: &str, now: Instant) -> bool {
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < WINDOW;
        if !self.recent.contains_key(&sender) && self.names_of(&sender) >= MAX_NAMES {
            self.recent
                .retain(|_, arrivals| arrivals.back().is_some_and(|(at, _)| is_recent(at)));
            if self.names_of(&sender) >= MAX_NAMES {
                sender.1 = sender.1.map(|_| String::new());
            }
        }
        let recent = self.recent.entry(sender).or_default();
        recent.retain(|(at, counted)| is_recent(at) && counted != id);
        recent.push_back((now, id.to_owned()));
        // Further messages are held anyway.
        while recent.len() > limit.saturating_add(1) {
            recent.pop_front();
        }
        recent.len() > limit
    }

    /// The number of counted names of this sender's user.
    fn names_of(&self, (user, _): &Sender) -> usize {
        let of_user = |(counted, _): &&Sender| counted == user;
        self.recent.keys().filter(of_user).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        hops: 20,
        per_minute: 30,
    };
    const OURS: Option<&str> = Some("cbroker");

    /// A brake with a clock in seconds.
    struct TimedBrake {
        brake: Brake,
        began: Instant,
        passed: u32,
    }

    impl TimedBrake {
        fn new() -> Self {
            Self {
                brake: Brake::new(LIMITS),
                began: Instant::now(),
                passed: 0,
            }
        }

        fn at(&self, second: u64) -> Instant {
            self.began + Duration::from_secs(second)
        }

        /// Whether a new message of `from` that arrives at this second is held.
        fn holds(
            &mut self,
            from: &str,
            user: Option<&str>,
            hops: Option<u32>,
            second: u64,
        ) -> bool {
            self.passed += 1;
            let id = format!("m{}", self.passed);
            self.again((from, user, &id), hops, second)
        }

        fn again(
            &mut self,
            (from, user, id): (&str, Option<&str>, &str),
            hops: Option<u32>,
            second: u64,
        ) -> bool {
            let now = self.at(second);
            let message = ArrivedMessage {
                from,
                user,
                is_own: user == OURS,
                is_backlog: self.brake.is_backlog(),
                id,
                hops,
            };
            self.brake.holds(message, now)
        }
    }

    #[test]
    fn a_message_with_too_many_hops_is_held_and_released_after_a_minute() {
        let mut road = TimedBrake::new();
        assert!(!road.holds("a", OURS, Some(20), 0));
        assert!(road.holds("a", OURS, Some(21), 0));
        let (early, late) = (road.at(59), road.at(60));
        assert!(!road.brake.is_due(early));
        assert!(road.brake.is_due(late) && !road.brake.is_due(late));
    }

    #[test]
    fn hops_claimed_by_another_user_do_not_count() {
        for user in [None, Some("bob")] {
            let mut road = TimedBrake::new();
            assert!(!road.holds("a", user, Some(u32::MAX), 0));
        }
    }

    #[test]
    fn a_flood_under_a_claimed_name_does_not_hold_its_owner() {
        let mut road = TimedBrake::new();
        assert_eq!(
            (0..40)
                .filter(|_| road.holds("a", None, Some(0), 0))
                .count(),
            10
        );
        assert!(!road.holds("a", OURS, Some(0), 0));
    }

    #[test]
    fn messages_above_the_rate_limit_are_held_for_that_peer_only() {
        for hops in [Some(0), Some(1)] {
            let mut road = TimedBrake::new();
            assert!((0..30).all(|_| !road.holds("a", OURS, hops, 0)));
            assert!(road.holds("a", OURS, hops, 59));
            assert!(!road.holds("b", OURS, hops, 59));
            assert!(!road.holds("a", OURS, hops, 120));
        }
    }

    #[test]
    fn a_backlog_that_arrives_at_once_is_not_a_loop() {
        let mut road = TimedBrake::new();
        road.brake.expect_backlog(500);
        assert!((0..500).all(|_| !road.holds("a", OURS, Some(0), 0)));
        assert_eq!(
            (0..31)
                .filter(|_| road.holds("a", OURS, Some(0), 1))
                .count(),
            1
        );
    }

    #[test]
    fn messages_that_are_not_counted_use_up_the_backlog_too() {
        let mut road = TimedBrake::new();
        road.brake.expect_backlog(500);
        // Parked, or no envelopes.
        assert!((0..500).all(|_| road.brake.is_backlog()));
        let held = (0..40).filter(|_| road.holds("a", OURS, Some(0), 0));
        assert_eq!(held.count(), 10);
    }

    #[test]
    fn a_flood_of_another_user_is_never_a_backlog() {
        let mut road = TimedBrake::new();
        for user in [None, Some("stranger")] {
            road.brake.expect_backlog(500);
            let passed = (0..500).filter(|_| !road.holds("a", user, Some(0), 0));
            assert_eq!(passed.count(), 30);
        }
    }

    #[test]
    fn a_message_counts_once_even_if_it_is_redelivered() {
        let mut road = TimedBrake::new();
        assert!((0..100).all(|_| !road.again(("a", OURS, "same"), Some(0), 0)));
    }

    #[test]
    fn a_release_counts_anew() {
        let mut road = TimedBrake::new();
        let held = (0..40).filter(|_| road.holds("a", OURS, Some(1), 0));
        assert_eq!(held.count(), 10);
        road.brake.release();
        assert!(!road.holds("a", OURS, Some(1), 0));
    }

    #[test]
    fn persons_and_scripts_have_a_higher_limit() {
        let mut road = TimedBrake::new();
        let held = |road: &mut TimedBrake, second| {
            let held = (0..310).filter(|_| road.holds("cli", OURS, None, second));
            held.count()
        };
        assert_eq!(held(&mut road, 0), 10);
        let is_session_held = road.holds("backend", OURS, Some(0), 0);
        assert!(!is_session_held, "sessions count apart");
        assert_eq!(held(&mut road, 60), 10, "a minute later it is forgotten");
        let late = road.at(60);
        assert!(road.brake.is_due(late), "what was held goes in by itself");
    }

    #[test]
    fn another_user_without_hops_is_limited() {
        let mut road = TimedBrake::new();
        let held = (0..40).filter(|_| road.holds("a", None, None, 0));
        assert_eq!(held.count(), 10);
        assert!(!road.holds("a", OURS, Some(0), 0), "nobody else is held");
    }

    #[test]
    fn an_unnamed_user_under_many_names_is_limited() {
        for hops in [None, Some(0)] {
            let mut road = TimedBrake::new();
            let held = (0..310).filter(|number| road.holds(&format!("a{number}"), None, hops, 0));
            assert_eq!(held.count(), 10, "{hops:?}");
        }
    }

    #[test]
    fn invented_names_use_limited_memory() {
        let mut road = TimedBrake::new();
        for name in 0..5000 {
            road.holds(&format!("name{name}"), None, Some(0), 0);
        }
        assert!(road.brake.recent.len() <= MAX_NAMES + 2);
    }

    #[test]
    fn another_user_under_many_names_is_limited_and_takes_none_of_the_own_users_names() {
        let mut road = TimedBrake::new();
        let passed = (0..5000)
            .filter(|number| !road.holds(&format!("a{number}"), Some("bob"), Some(0), 0))
            .count();
        assert_eq!(passed, 300);
        for name in ["backend", "frontend"] {
            assert!(
                (0..30).all(|_| !road.holds(name, OURS, Some(0), 0)),
                "{name}"
            );
        }
    }
}

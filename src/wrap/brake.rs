//! The brake on agents that answer each other without end (SPEC §7.4). Pure: time is an argument.
//!
//! Every message that was sent from inside a session counts, in answer to another one or not: those have hops. A person
//! or a script outside that sends a hundred messages is no loop. What counts is when a message was sent, so that a night's
//! backlog is none either, and each counts once, however often the broker delivers it.
//!
//! Relies on nothing but chrono.

use std::collections::{HashMap, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};

const WINDOW: TimeDelta = TimeDelta::minutes(1);

/// What is still taken without a question.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sessions' messages that may have led to one.
    pub hops: u32,
    /// Messages a minute from one peer.
    pub per_minute: u32,
}

/// A message as the brake sees it.
#[derive(Clone, Copy, Debug)]
pub struct Passing<'a> {
    /// Its sender.
    pub from: &'a str,
    /// Its id.
    pub id: &'a str,
    /// What `cbroker-hops` says; `None` where no session sent it.
    pub hops: Option<u32>,
    /// When it was sent.
    pub sent: DateTime<Utc>,
}

/// Counts the messages of sessions by their sender.
#[derive(Debug)]
pub struct Brake {
    limits: Limits,
    recent: HashMap<String, VecDeque<(DateTime<Utc>, String)>>,
}

impl Brake {
    /// A brake with these limits.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            recent: HashMap::new(),
        }
    }

    /// Counts a message; whether it has to be held.
    pub fn holds(&mut self, message: Passing<'_>) -> bool {
        let Some(hops) = message.hops else {
            return false;
        };
        let limit = self.limits.per_minute as usize;
        let recent = self.recent.entry(message.from.to_owned()).or_default();
        recent.retain(|(sent, id)| (message.sent - *sent).abs() < WINDOW && id != message.id);
        recent.push_back((message.sent, message.id.to_owned()));
        recent.len() > limit || hops > self.limits.hops
    }

    /// A person let everything through: counting begins anew.
    pub fn release(&mut self) {
        self.recent.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        hops: 20,
        per_minute: 30,
    };

    /// A brake, and a clock that counts seconds.
    struct Road {
        brake: Brake,
        passed: u32,
    }

    impl Road {
        fn new() -> Self {
            Self {
                brake: Brake::new(LIMITS),
                passed: 0,
            }
        }

        /// A new message of `from`, sent at this second.
        fn holds(&mut self, from: &str, hops: Option<u32>, second: i64) -> bool {
            self.passed += 1;
            self.again(from, &format!("m{}", self.passed), hops, second)
        }

        fn again(&mut self, from: &str, id: &str, hops: Option<u32>, second: i64) -> bool {
            let sent = DateTime::UNIX_EPOCH + TimeDelta::seconds(second);
            self.brake.holds(Passing {
                from,
                id,
                hops,
                sent,
            })
        }
    }

    #[test]
    fn a_message_that_passed_too_many_sessions_is_held() {
        let mut road = Road::new();
        assert!(!road.holds("a", Some(20), 0));
        assert!(road.holds("a", Some(21), 0));
    }

    #[test]
    fn more_messages_a_minute_than_agreed_are_held_and_other_peers_are_not() {
        for hops in [Some(0), Some(1)] {
            let mut road = Road::new();
            assert!((0..30).all(|_| !road.holds("a", hops, 0)));
            assert!(road.holds("a", hops, 59));
            assert!(!road.holds("b", hops, 59));
            assert!(!road.holds("a", hops, 120));
        }
    }

    #[test]
    fn what_was_sent_over_a_night_is_no_loop_though_it_arrives_at_once() {
        let mut road = Road::new();
        assert!((0..500).all(|message| !road.holds("a", Some(0), message * 10)));
    }

    #[test]
    fn a_message_counts_once_however_often_it_is_delivered() {
        let mut road = Road::new();
        assert!((0..100).all(|_| !road.again("a", "same", Some(0), 0)));
    }

    #[test]
    fn a_release_counts_anew() {
        let mut road = Road::new();
        assert_eq!((0..40).filter(|_| road.holds("a", Some(1), 0)).count(), 10);
        road.brake.release();
        assert!(!road.holds("a", Some(1), 0));
    }

    #[test]
    fn what_a_person_or_a_script_sends_is_no_loop() {
        let mut road = Road::new();
        assert!((0..1000).all(|_| !road.holds("cli", None, 0)));
    }
}

//! The brake on agents that answer each other without end (SPEC §7.4). Pure: time is an argument.
//!
//! Only messages that were sent from a session in answer to another one count: those have hops. A person or a script
//! that sends a hundred messages is no loop.
//!
//! Relies on nothing.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_mins(1);

/// What is still taken without a question.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sessions that a message may have passed.
    pub hops: u32,
    /// Answers a minute from one peer.
    pub per_minute: u32,
}

/// Counts answers by their sender.
#[derive(Debug)]
pub struct Brake {
    limits: Limits,
    recent: HashMap<String, VecDeque<Instant>>,
}

impl Brake {
    /// A brake with these limits.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            recent: HashMap::new(),
        }
    }

    /// Counts a message that arrived at `now`; whether it has to be held.
    pub fn holds(&mut self, from: &str, hops: u32, now: Instant) -> bool {
        if hops == 0 {
            return false;
        }
        let limit = self.limits.per_minute as usize;
        let times = self.recent.entry(from.to_owned()).or_default();
        times.retain(|&time| now < time + WINDOW);
        times.push_back(now);
        let is_many = times.len() > limit;
        self.recent.retain(|_, times| !times.is_empty());
        is_many || hops > self.limits.hops
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

    #[test]
    fn a_message_that_passed_too_many_sessions_is_held() {
        let mut brake = Brake::new(LIMITS);
        let now = Instant::now();
        assert!(!brake.holds("a", 20, now));
        assert!(brake.holds("a", 21, now));
    }

    #[test]
    fn more_answers_a_minute_than_agreed_are_held_and_other_peers_are_not() {
        let mut brake = Brake::new(LIMITS);
        let now = Instant::now();
        assert!((0..30).all(|_| !brake.holds("a", 1, now)));
        assert!(brake.holds("a", 1, now));
        assert!(!brake.holds("b", 1, now));
        assert!(!brake.holds("a", 1, now + WINDOW + WINDOW));
    }

    #[test]
    fn what_a_person_or_a_script_sends_is_no_loop() {
        let mut brake = Brake::new(LIMITS);
        let now = Instant::now();
        assert!((0..1000).all(|_| !brake.holds("cli", 0, now)));
    }
}

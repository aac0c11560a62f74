//! What a message's headers say of its deaths: `x-death`, `x-first-death-…`, `x-last-death-…`, and
//! the end of cycles.
//!
//! As RabbitMQ 3.10: one entry for each pair of queue and reason, the newest in front, counted up
//! where it is there already; the first death keeps headers of its own. The `x-last-death-…`
//! headers are those of RabbitMQ 3.13. Beyond RabbitMQ, [`Spread`] bounds how often one message is
//! multiplied. Relies on field tables alone; the time is an argument.

use std::collections::{HashMap, HashSet};

use crate::wire::table::{ShortString, Table, Value};

/// Why a message left its queue unconsumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// `basic.reject` or `basic.nack` without requeue.
    Rejected,
    /// Its time to live, or that of the queue's messages, was over.
    Expired,
    /// The queue was full.
    MaxLength,
}

impl Reason {
    /// The word in `x-death`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::MaxLength => "maxlen",
        }
    }
}

/// One death of a message.
#[derive(Clone, Copy, Debug)]
pub struct Death<'a> {
    /// Why.
    pub reason: Reason,
    /// The queue that it died in.
    pub queue: &'a str,
    /// The exchange that it had been published to.
    pub exchange: &'a [u8],
    /// The routing key that it had been published with.
    pub routing_key: &'a [u8],
    /// Seconds since 1970.
    pub time_s: u64,
    /// Its `expiration` property, which the dead letter loses.
    pub expiration: Option<&'a [u8]>,
}

impl Death<'_> {
    /// Notes the death in the message's headers.
    pub fn record(&self, headers: &mut Table) {
        let deaths = match headers.get("x-death") {
            None => {
                self.name_it(headers, "first");
                Vec::new()
            }
            Some(Value::Array(deaths)) => added_up(deaths),
            // A client that republishes may have turned it into a string: start over.
            Some(_) => Vec::new(),
        };
        let (same, others): (Vec<_>, Vec<_>) =
            deaths.into_iter().partition(|death| self.is_like(death));
        let newest = same
            .into_iter()
            .next()
            .map_or_else(|| self.entry(headers), counted_up);
        let deaths = std::iter::once(newest).chain(others).collect();
        headers.set("x-death", Value::Array(deaths));
        self.name_it(headers, "last");
    }

    /// Sets `x-first-death-…` or `x-last-death-…`.
    fn name_it(&self, headers: &mut Table, which: &str) {
        headers.set(
            &format!("x-{which}-death-reason"),
            Value::text(self.reason.as_str()),
        );
        headers.set(&format!("x-{which}-death-queue"), Value::text(self.queue));
        headers.set(
            &format!("x-{which}-death-exchange"),
            Value::LongString(self.exchange.into()),
        );
    }

    fn is_like(&self, death: &Value) -> bool {
        let Value::Table(death) = death else {
            return false;
        };
        death.get("queue").and_then(Value::as_bytes) == Some(self.queue.as_bytes())
            && death.get("reason").and_then(Value::as_bytes)
                == Some(self.reason.as_str().as_bytes())
    }

    fn entry(&self, headers: &Table) -> Value {
        let mut entry = Table::new();
        entry.set("count", Value::Long(1));
        entry.set("exchange", Value::LongString(self.exchange.into()));
        if let Some(expiration) = self.expiration {
            entry.set("original-expiration", Value::LongString(expiration.into()));
        }
        entry.set("queue", Value::text(self.queue));
        entry.set("reason", Value::text(self.reason.as_str()));
        let own = Value::LongString(self.routing_key.into());
        let keys = std::iter::once(own).chain(copied_to(headers)).collect();
        entry.set("routing-keys", Value::Array(keys));
        entry.set("time", Value::Timestamp(self.time_s));
        Value::Table(entry)
    }
}

/// The further routing keys of the `CC` header; `BCC` is gone since the message was published.
fn copied_to(headers: &Table) -> impl Iterator<Item = Value> {
    let keys = match headers.get("CC") {
        Some(Value::Array(keys)) => keys.as_slice(),
        _ => &[],
    };
    keys.iter().filter(|key| key.as_bytes().is_some()).cloned()
}

/// One entry for each pair of queue and reason, at the place of its first: an old broker, or a
/// publisher, may have written several.
fn added_up(deaths: &[Value]) -> Vec<Value> {
    let mut places = HashMap::new();
    let mut added: Vec<Value> = Vec::with_capacity(deaths.len());
    for death in deaths {
        let text = |name| match death {
            Value::Table(death) => death.get(name).and_then(Value::as_bytes),
            _ => None,
        };
        let place = match (text("queue"), text("reason")) {
            (Some(queue), Some(reason)) => *places.entry((queue, reason)).or_insert(added.len()),
            _ => added.len(),
        };
        match (added.get_mut(place), death) {
            (Some(Value::Table(sum)), Value::Table(death)) => {
                let total = count(sum).saturating_add(count(death));
                sum.set("count", Value::Long(total));
            }
            _ => added.push(death.clone()),
        }
    }
    added
}

/// How often a message died so. RabbitMQ 3.4 and older wrote no counts: each entry is one death.
fn count(death: &Table) -> i64 {
    death.get("count").and_then(Value::as_integer).unwrap_or(1)
}

fn counted_up(death: Value) -> Value {
    let Value::Table(death) = death else {
        return death;
    };
    let one_more = |(name, value): (&ShortString, &Value)| {
        let value = match value.as_integer() {
            Some(count) if name.as_bytes() == b"count" => Value::Long(count.saturating_add(1)),
            _ => value.clone(),
        };
        (name.clone(), value)
    };
    let mut counted: Table = death.iter().map(one_more).collect();
    if counted.get("count").is_none() {
        // RabbitMQ 3.4 and older wrote no counts: a death without one is the first.
        counted.set("count", Value::Long(2));
    }
    Value::Table(counted)
}

/// The queues that a dead letter with these headers, its newest death noted, must not enter again:
/// it has died there before, and nobody has rejected it since, so it would go round for ever.
pub fn queues_of_cycle(headers: &Table, reason: Reason) -> HashSet<&[u8]> {
    let deaths = match headers.get("x-death") {
        Some(Value::Array(deaths)) if reason != Reason::Rejected => deaths.as_slice(),
        _ => &[],
    };
    let automatic = deaths.iter().map_while(|death| match death {
        Value::Table(death) if bytes_of(death, "reason") != Some(b"rejected") => Some(death),
        // A client wished for it, or put it there: the round was not automatic.
        _ => None,
    });
    automatic
        .filter_map(|death| bytes_of(death, "queue"))
        .collect()
}

/// How far dead-lettering has carried and multiplied a message since a client rejected it or
/// published it.
///
/// A message that goes to one queue after the other makes [`Spread::CHAIN`] moves at most. From the
/// first move to several queues on, which is free, each doubling counts as four moves. So one
/// message becomes some 50,000 at most beyond that first move, however the queues lie. It fits in
/// seven bits, with which the message is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread(u8);

impl Spread {
    /// Moves to a single queue, and the value from which on there are several copies.
    const CHAIN: u8 = 64;
    /// The largest value.
    const MOST: u8 = 127;

    /// That of a message which a client published or rejected.
    pub const NONE: Self = Self(0);

    /// Takes it from the seven bits of [`Spread::bits`].
    pub(super) const fn from_bits(bits: u8) -> Self {
        Self(bits & Self::MOST)
    }

    pub(super) const fn bits(self) -> u8 {
        self.0
    }

    /// The spread after a move to this many queues; `None` when the message has spread too far for
    /// it.
    pub fn after_move(self, queues: usize) -> Option<Self> {
        let is_multiplied = self.0 >= Self::CHAIN;
        let after = match queues {
            0 | 1 if is_multiplied => self.0.saturating_add(1),
            0 | 1 => Some(self.0 + 1).filter(|moves| *moves < Self::CHAIN)?,
            _ if is_multiplied => self.0.saturating_add(doublings_by_four(queues)),
            _ => (Self::CHAIN + doublings_by_four(queues)).min(Self::MOST),
        };
        (after <= Self::MOST).then_some(Self(after))
    }
}

/// Four times the binary logarithm of a number of copies, rounded up.
#[expect(clippy::cast_possible_truncation, reason = "it is at most 80")]
fn doublings_by_four(copies: usize) -> u8 {
    let copies = copies.min(1 << 20) as u128;
    copies.pow(4).next_power_of_two().trailing_zeros() as u8
}

fn bytes_of<'a>(table: &'a Table, field: &str) -> Option<&'a [u8]> {
    table.get(field).and_then(Value::as_bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::{Death, Reason, Spread, queues_of_cycle};
    use crate::wire::table::{Table, Value};

    fn death(queue: &str, reason: Reason) -> Death<'_> {
        Death {
            reason,
            queue,
            exchange: b"from",
            routing_key: b"key",
            time_s: 1_700_000_000,
            expiration: None,
        }
    }

    fn deaths(headers: &Table) -> Vec<(String, String, i64)> {
        let Some(Value::Array(deaths)) = headers.get("x-death") else {
            return Vec::new();
        };
        let text =
            |death: &Table, name| death.get(name).and_then(Value::as_text).unwrap().to_owned();
        deaths
            .iter()
            .map(|death| {
                let Value::Table(death) = death else {
                    panic!("{death:?} is no table")
                };
                (
                    text(death, "queue"),
                    text(death, "reason"),
                    death.get("count").and_then(Value::as_integer).unwrap(),
                )
            })
            .collect()
    }

    fn is_cycle(headers: &Table, queue: &str, reason: Reason) -> bool {
        queues_of_cycle(headers, reason).contains(queue.as_bytes())
    }

    fn text<'a>(headers: &'a Table, name: &str) -> Option<&'a str> {
        headers.get(name).and_then(Value::as_text)
    }

    #[test]
    fn the_first_death_is_told_in_full() {
        let mut headers = Table::new();
        headers.set("mine", Value::Int(1));
        headers.set("CC", Value::Array(vec![Value::text("copy")]));
        Death {
            expiration: Some(b"200"),
            ..death("q", Reason::Expired)
        }
        .record(&mut headers);
        let Some(Value::Array(all)) = headers.get("x-death") else {
            panic!("no x-death")
        };
        let Value::Table(told) = &all[0] else {
            panic!("no table")
        };
        assert_eq!(told.get("count"), Some(&Value::Long(1)));
        assert_eq!(told.get("reason"), Some(&Value::text("expired")));
        assert_eq!(told.get("queue"), Some(&Value::text("q")));
        assert_eq!(told.get("exchange"), Some(&Value::text("from")));
        assert_eq!(told.get("time"), Some(&Value::Timestamp(1_700_000_000)));
        assert_eq!(told.get("original-expiration"), Some(&Value::text("200")));
        assert_eq!(
            told.get("routing-keys"),
            Some(&Value::Array(vec![Value::text("key"), Value::text("copy")]))
        );
        assert_eq!(headers.get("mine"), Some(&Value::Int(1)));
    }

    #[test]
    fn the_first_death_stays_named_and_the_last_one_moves() {
        let mut headers = Table::new();
        death("a", Reason::Rejected).record(&mut headers);
        death("b", Reason::MaxLength).record(&mut headers);
        assert_eq!(text(&headers, "x-first-death-queue"), Some("a"));
        assert_eq!(text(&headers, "x-first-death-reason"), Some("rejected"));
        assert_eq!(text(&headers, "x-first-death-exchange"), Some("from"));
        assert_eq!(text(&headers, "x-last-death-queue"), Some("b"));
        assert_eq!(text(&headers, "x-last-death-reason"), Some("maxlen"));
    }

    #[test]
    fn a_death_like_an_older_one_is_counted_and_comes_to_the_front() {
        let mut headers = Table::new();
        for queue in ["a", "b", "a"] {
            death(queue, Reason::Rejected).record(&mut headers);
        }
        death("a", Reason::Expired).record(&mut headers);
        let entry = |queue: &str, reason: &str, count| (queue.to_owned(), reason.to_owned(), count);
        assert_eq!(
            deaths(&headers),
            [
                entry("a", "expired", 1),
                entry("a", "rejected", 2),
                entry("b", "rejected", 1)
            ]
        );
    }

    #[test]
    fn deaths_that_were_written_several_times_are_added_up() {
        let mut headers = Table::new();
        let entry = |queue: &str| {
            let mut entry = Table::new();
            entry.set("queue", Value::text(queue));
            entry.set("reason", Value::text("expired"));
            Value::Table(entry)
        };
        let written = ["a", "a", "b", "a"].map(entry).to_vec();
        headers.set("x-death", Value::Array(written));
        death("b", Reason::Expired).record(&mut headers);
        let entry = |queue: &str, count| (queue.to_owned(), "expired".to_owned(), count);
        assert_eq!(deaths(&headers), [entry("b", 2), entry("a", 3)]);
    }

    #[test]
    fn a_spoilt_header_is_started_over() {
        let mut headers = Table::new();
        headers.set("x-death", Value::text("[{count: 1}]"));
        death("a", Reason::Expired).record(&mut headers);
        assert_eq!(
            deaths(&headers),
            [("a".to_owned(), "expired".to_owned(), 1)]
        );
        assert_eq!(
            text(&headers, "x-first-death-queue"),
            None,
            "the first one is not known any more"
        );
    }

    #[test]
    fn a_round_without_a_reject_is_a_cycle() {
        let mut headers = Table::new();
        death("a", Reason::Expired).record(&mut headers);
        assert!(is_cycle(&headers, "a", Reason::Expired));
        assert!(!is_cycle(&headers, "b", Reason::Expired));
        death("b", Reason::MaxLength).record(&mut headers);
        assert!(is_cycle(&headers, "a", Reason::MaxLength));
    }

    #[test]
    fn a_reject_anywhere_in_the_round_makes_it_a_clients_wish() {
        let mut headers = Table::new();
        death("a", Reason::Expired).record(&mut headers);
        death("b", Reason::Rejected).record(&mut headers);
        assert!(!is_cycle(&headers, "a", Reason::Expired));
        assert!(!is_cycle(&headers, "b", Reason::Rejected));
        death("c", Reason::Expired).record(&mut headers);
        assert!(
            !is_cycle(&headers, "a", Reason::Expired),
            "the reject lies between"
        );
        assert!(is_cycle(&headers, "c", Reason::Expired));
    }

    /// Moves of this width one after the other, as far as they are allowed.
    fn moves(mut spread: Spread, queues: usize) -> u32 {
        let mut count = 0;
        while let Some(next) = spread.after_move(queues) {
            (spread, count) = (next, count + 1);
        }
        count
    }

    #[test]
    fn a_message_spreads_to_a_bounded_number_of_copies() {
        let fresh = Spread::NONE;
        assert_eq!(moves(fresh, 1), 63, "a chain");
        for (queues, levels) in [(2, 15), (3, 9), (8, 5), (60, 2), (1_500, 1), (1 << 30, 1)] {
            assert_eq!(moves(fresh, queues), levels, "{queues} queues");
        }
        let wide = fresh.after_move(10_000).unwrap();
        assert_eq!(moves(wide, 1), 9, "a chain behind a wide move");
        let mut chain = fresh;
        for _ in 0..63 {
            chain = chain.after_move(1).unwrap();
        }
        assert_eq!(moves(chain, 10_000), 1, "the first wide move is free");
        assert_eq!(Spread::from_bits(wide.bits()), wide);
    }
}

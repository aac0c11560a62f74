//! Slows down password guessing. After ten wrong passwords within a minute from one address, each
//! further attempt waits a second.
//!
//! A correct password waits too; otherwise a quick answer would reveal it. At most [`WAITING`]
//! attempts of an address wait at once, and the others are refused unchecked, so the rate stays
//! bounded for any number of connections. Clients on the Unix sockets have no address and never
//! wait. Depends on `lock`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::lock::lock;

/// How many wrong passwords within [`WINDOW`] cause no delay.
const FREE: usize = 10;
const WINDOW: Duration = Duration::from_mins(1);
/// The delay of each further attempt.
const DELAY: Duration = Duration::from_secs(1);
/// How many attempts of one address may wait at once.
const WAITING: usize = 8;
/// How many addresses are remembered. The one with the oldest wrong password is forgotten first.
const ADDRESSES: usize = 4096;

/// Wrong passwords by address.
#[derive(Debug, Default)]
pub(crate) struct LoginThrottle(Mutex<HashMap<IpAddr, LoginRecord>>);

#[derive(Debug, Default)]
struct LoginRecord {
    /// The times of the last wrong passwords, oldest first, at most [`FREE`].
    wrong: Vec<Instant>,
    waiting: usize,
}

/// Too many attempts of this address are waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many wrong passwords from this address")]
pub(crate) struct TooManyTries;

/// One waiting attempt, counted until it is dropped.
struct Attempt<'a> {
    throttle: &'a LoginThrottle,
    from: IpAddr,
}

impl LoginThrottle {
    /// Delays an attempt if necessary. Must be called before the password is checked.
    pub(crate) async fn pace(&self, from: Option<IpAddr>) -> Result<(), TooManyTries> {
        let Some(from) = from.map(network) else {
            return Ok(());
        };
        if !self.must_wait(from, Instant::now())? {
            return Ok(());
        }
        let _place = Attempt {
            throttle: self,
            from,
        };
        tokio::time::sleep(DELAY).await;
        Ok(())
    }

    /// Returns whether the address must wait, and counts a waiting attempt if so.
    fn must_wait(&self, from: IpAddr, now: Instant) -> Result<bool, TooManyTries> {
        let mut records = lock(&self.0);
        let Some(record) = records.get_mut(&from).filter(|record| record.is_slow(now)) else {
            return Ok(false);
        };
        if record.waiting >= WAITING {
            return Err(TooManyTries);
        }
        record.waiting += 1;
        Ok(true)
    }

    /// Records a wrong password.
    pub(crate) fn wrong(&self, from: Option<IpAddr>) {
        if let Some(from) = from {
            self.note(network(from), Instant::now());
        }
    }

    fn note(&self, from: IpAddr, now: Instant) {
        let mut records = lock(&self.0);
        if records.len() >= ADDRESSES && !records.contains_key(&from) {
            forget_one(&mut records);
        }
        let record = records.entry(from).or_default();
        if record.wrong.len() >= FREE {
            record.wrong.remove(0);
        }
        record.wrong.push(now);
    }
}

impl LoginRecord {
    fn is_slow(&self, now: Instant) -> bool {
        self.wrong.len() >= FREE
            && self
                .wrong
                .first()
                .is_some_and(|first| now.duration_since(*first) < WINDOW)
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if let Some(record) = lock(&self.throttle.0).get_mut(&self.from) {
            record.waiting = record.waiting.saturating_sub(1);
        }
    }
}

fn forget_one(records: &mut HashMap<IpAddr, LoginRecord>) {
    let oldest = records
        .iter()
        .filter(|(_, record)| record.waiting == 0)
        .min_by_key(|(_, record)| record.wrong.last().copied())
        .map(|(from, _)| *from);
    if let Some(oldest) = oldest {
        records.remove(&oldest);
    }
}

/// Maps the addresses of one owner to one: an IPv6 network of 64 bits is what a single machine
/// gets.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::{Duration, Instant};

    use super::{ADDRESSES, FREE, LoginThrottle, TooManyTries, WAITING, network};

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn angry(now: Instant) -> LoginThrottle {
        let throttle = LoginThrottle::default();
        for _ in 0..FREE {
            assert_eq!(throttle.must_wait(HERE, now), Ok(false));
            throttle.note(HERE, now);
        }
        throttle
    }

    #[test]
    fn ten_wrong_passwords_a_minute_slow_one_address_down() {
        let now = Instant::now();
        let throttle = angry(now);
        assert_eq!(throttle.must_wait(HERE, now), Ok(true));
        let other = IpAddr::from([10, 0, 0, 1]);
        assert_eq!(throttle.must_wait(other, now), Ok(false));
        let later = now + Duration::from_mins(1);
        assert_eq!(throttle.must_wait(HERE, later), Ok(false));
    }

    #[test]
    fn tries_beside_one_another_do_not_raise_the_rate() {
        let now = Instant::now();
        let throttle = angry(now);
        for _ in 0..WAITING {
            assert_eq!(throttle.must_wait(HERE, now), Ok(true));
        }
        assert_eq!(throttle.must_wait(HERE, now), Err(TooManyTries));
    }

    #[test]
    fn the_number_of_remembered_addresses_is_bounded() {
        let (throttle, now) = (LoginThrottle::default(), Instant::now());
        for number in 0..2 * u32::try_from(ADDRESSES).unwrap_or(0) {
            throttle.note(Ipv4Addr::from_bits(number).into(), now);
        }
        assert_eq!(super::lock(&throttle.0).len(), ADDRESSES);
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        let of = |text: &str| network(text.parse().unwrap_or(HERE));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:127.0.0.1"), HERE);
    }
}

//! Connections over TCP that have not said who they are yet: at most [`MOST`], so that nobody keeps
//! others out by connecting without a word.
//!
//! One more ends the oldest of the address that has the most of them, TLS handshakes included.
//! Clients on the Unix socket are of the broker's own user and take no place. Depends on `lock`.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::lock::lock;

/// The maximum number of such connections.
const MOST: usize = 512;

/// The places.
#[derive(Debug, Default)]
pub(crate) struct LoginPlaces(Mutex<TakenPlaces>);

#[derive(Debug, Default)]
struct TakenPlaces {
    /// Numbers grow, so the least is the oldest.
    next: u64,
    places: BTreeMap<u64, (IpAddr, Arc<Notify>)>,
}

/// One connection's place; free again when this is dropped.
#[derive(Debug)]
pub(crate) struct LoginPlace {
    all: Arc<LoginPlaces>,
    number: u64,
    end: Arc<Notify>,
}

impl LoginPlaces {
    /// A place for a new connection from this address.
    pub(crate) fn take(self: &Arc<Self>, from: IpAddr) -> LoginPlace {
        let mut taken = lock(&self.0);
        let (number, end) = (taken.next, Arc::new(Notify::new()));
        taken.next += 1;
        taken.places.insert(number, (from, Arc::clone(&end)));
        if taken.places.len() > MOST {
            taken.end_one();
        }
        drop(taken);
        LoginPlace {
            all: Arc::clone(self),
            number,
            end,
        }
    }
}

impl TakenPlaces {
    fn end_one(&mut self) {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for (address, _) in self.places.values() {
            *counts.entry(*address).or_default() += 1;
        }
        let most = counts.values().copied().max();
        let mut places = self.places.iter();
        let oldest = places.find(|(_, (address, _))| counts.get(address).copied() == most);
        if let Some((number, _)) = oldest
            && let number = *number
            && let Some((_, end)) = self.places.remove(&number)
        {
            end.notify_one();
        }
    }
}

impl LoginPlace {
    /// Waits until others needed the place.
    pub(crate) async fn lost(&self) {
        self.end.notified().await;
    }
}

impl Drop for LoginPlace {
    fn drop(&mut self) {
        lock(&self.all.0).places.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[tokio::test]
    async fn one_address_that_says_nothing_keeps_no_other_out() {
        let places = Arc::<LoginPlaces>::default();
        let other = places.take(address(2));
        let many: Vec<_> = (0..2 * MOST).map(|_| places.take(address(1))).collect();
        assert_eq!(lock(&places.0).places.len(), MOST);
        many[0].lost().await;
        assert!(lock(&places.0).places.contains_key(&other.number));
        drop(many);
        assert_eq!(lock(&places.0).places.len(), 1);
    }
}

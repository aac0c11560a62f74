//! Limits the number of connections without a login, so that no client keeps others out by
//! connecting and sending nothing.
//!
//! A connection beyond the limit ends the oldest one of the source with the most, TLS handshakes
//! included. A source is a network address or, over loopback, a user of this machine if the system
//! reports it. Depends on `lock` and `login_throttle`.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::lock::lock;
use crate::login_throttle::{ClientEnds, LoginSource, sources_of};

/// The maximum number of such connections to the AMQP ports.
const MOST: usize = 512;

/// The places of one listener.
#[derive(Debug)]
pub(crate) struct LoginPlaces {
    most: usize,
    /// Finds the users of these connections. Slow: it reads the kernel's tables.
    look_up: fn(&[ClientEnds]) -> Vec<LoginSource>,
    /// Held by the task that takes a place, also while it reads the kernel's tables: other tasks
    /// wait for their place here, and `taken` stays free.
    taking: tokio::sync::Mutex<()>,
    taken: Mutex<TakenPlaces>,
}

#[derive(Debug, Default)]
struct TakenPlaces {
    /// Numbers grow, so the least is the oldest.
    next: u64,
    places: BTreeMap<u64, PlaceOwner>,
}

#[derive(Debug)]
struct PlaceOwner {
    from: ClientEnds,
    /// `None` until it matters which user of this machine it is.
    source: Option<LoginSource>,
    end: Arc<Notify>,
}

/// One connection's place; free again when this is dropped.
#[derive(Debug)]
pub(crate) struct LoginPlace {
    all: Arc<LoginPlaces>,
    number: u64,
    end: Arc<Notify>,
}

impl Default for LoginPlaces {
    fn default() -> Self {
        Self::new(MOST)
    }
}

impl LoginPlaces {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            look_up: sources_of,
            taking: tokio::sync::Mutex::default(),
            taken: Mutex::default(),
        }
    }

    /// A place for a new connection from there. One caller after the other: a listener waits for it
    /// before it accepts the next connection, so each has at most one connection too many.
    pub(crate) async fn acquire(self: &Arc<Self>, from: ClientEnds) -> LoginPlace {
        let _taking = self.taking.lock().await;
        let end = Arc::new(Notify::new());
        let (number, is_full) = {
            let mut taken = lock(&self.taken);
            let number = taken.insert(from, &end);
            (number, taken.places.len() > self.most)
        };
        // Made before the wait: a caller that is cancelled while it waits gives the place back.
        let place = LoginPlace {
            all: Arc::clone(self),
            number,
            end,
        };
        if is_full {
            self.end_one().await;
        }
        place
    }

    /// Those whose user was not looked up yet count together. So the tables are read when many
    /// have come since they were read last, and not at each connection.
    async fn end_one(&self) {
        let mut most = lock(&self.taken).who_has_most();
        if most.is_none() {
            self.look_up_unknown().await;
            most = lock(&self.taken).who_has_most();
        }
        let mut taken = lock(&self.taken);
        if taken.places.len() > self.most {
            taken.end_oldest(most);
        }
    }

    async fn look_up_unknown(&self) {
        let (numbers, peers) = lock(&self.taken).unknown();
        let look_up = self.look_up;
        let looking = tokio::task::spawn_blocking(move || look_up(&peers));
        let sources = looking.await.unwrap_or_default();
        let mut taken = lock(&self.taken);
        for (number, source) in numbers.iter().zip(sources) {
            if let Some(owner) = taken.places.get_mut(number) {
                owner.source = Some(source);
            }
        }
    }
}

impl TakenPlaces {
    fn insert(&mut self, from: ClientEnds, end: &Arc<Notify>) -> u64 {
        let number = self.next;
        self.next += 1;
        let owner = PlaceOwner {
            from,
            source: from.remote_source(),
            end: Arc::clone(end),
        };
        self.places.insert(number, owner);
        number
    }

    fn unknown(&self) -> (Vec<u64>, Vec<ClientEnds>) {
        let places = self.places.iter();
        let unknown = places.filter(|(_, owner)| owner.source.is_none());
        unknown.map(|(number, owner)| (*number, owner.from)).unzip()
    }

    fn end_oldest(&mut self, of: Option<LoginSource>) {
        let oldest = self.places.iter().find(|(_, owner)| owner.source == of);
        if let Some(number) = oldest.map(|(number, _)| *number)
            && let Some(owner) = self.places.remove(&number)
        {
            owner.end.notify_one();
        }
    }

    /// `None` for those that were not looked up.
    fn who_has_most(&self) -> Option<LoginSource> {
        let mut counts: HashMap<Option<LoginSource>, usize> = HashMap::new();
        for place in self.places.values() {
            *counts.entry(place.source).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        most.and_then(|(source, _)| source)
    }
}

impl LoginPlace {
    /// Waits until others needed the place.
    pub(crate) async fn wait_until_lost(&self) {
        self.end.notified().await;
    }

    /// Notified when others needed the place.
    pub(crate) fn release_request(&self) -> Arc<Notify> {
        Arc::clone(&self.end)
    }
}

impl Drop for LoginPlace {
    fn drop(&mut self) {
        lock(&self.all.taken).places.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use super::*;

    const LOCAL: ([u8; 4], u16) = ([127, 0, 0, 1], 5672);
    const MOST: usize = 16;

    fn from(ip: [u8; 4], port: u16) -> ClientEnds {
        ClientEnds {
            peer: (ip, port).into(),
            local: LOCAL.into(),
        }
    }

    fn has(places: &LoginPlaces, place: &LoginPlace) -> bool {
        lock(&places.taken).places.contains_key(&place.number)
    }

    #[tokio::test]
    async fn one_address_that_says_nothing_keeps_no_other_out() {
        let places = Arc::new(LoginPlaces::new(MOST));
        let other = places.acquire(from([10, 0, 0, 2], 1)).await;
        let mut many = Vec::new();
        for port in 0..40 {
            many.push(places.acquire(from([10, 0, 0, 1], port)).await);
        }
        assert_eq!(lock(&places.taken).places.len(), MOST);
        many[0].wait_until_lost().await;
        assert!(has(&places, &other));
        drop(many);
        assert_eq!(lock(&places.taken).places.len(), 1);
    }

    #[tokio::test]
    async fn a_user_of_this_machine_who_says_nothing_keeps_no_other_out() {
        let mut places = LoginPlaces::new(MOST);
        // The user with even ports, and the one with odd ports.
        places.look_up = |peers| {
            let user = |peer: SocketAddr| u32::from(peer.port() % 2);
            peers
                .iter()
                .map(|peer| LoginSource::LocalUser(user(peer.peer)))
                .collect()
        };
        let places = Arc::new(places);
        let other = places.acquire(from(LOCAL.0, 1)).await;
        let mut many = Vec::new();
        for port in 1..200 {
            many.push(places.acquire(from(LOCAL.0, 2 * port)).await);
            assert!(has(&places, &other), "the oldest of all, after {port}");
        }
        let later = places.acquire(from(LOCAL.0, 3)).await;
        for port in 200..400 {
            many.push(places.acquire(from(LOCAL.0, 2 * port)).await);
        }
        assert!(has(&places, &other) && has(&places, &later));
        assert_eq!(lock(&places.taken).places.len(), MOST);
    }

    #[tokio::test]
    async fn tables_that_are_read_slowly_hold_up_no_thread_and_no_login() {
        static IS_READ: AtomicBool = AtomicBool::new(false);
        let mut places = LoginPlaces::new(MOST);
        places.look_up = |peers| {
            let limit = Instant::now() + Duration::from_mins(1);
            while !IS_READ.load(Ordering::Relaxed) && Instant::now() < limit {
                std::thread::sleep(Duration::from_millis(1));
            }
            vec![LoginSource::LocalUser(1); peers.len()]
        };
        let places = Arc::new(places);
        let mut many = Vec::new();
        for port in 0..16 {
            many.push(places.acquire(from(LOCAL.0, port)).await);
        }
        let taking = Arc::clone(&places);
        let one_more = tokio::spawn(async move { taking.acquire(from(LOCAL.0, 16)).await });
        // On this one thread the task has begun to wait for the tables when this goes on.
        while !has_number(&places, 16) {
            tokio::task::yield_now().await;
        }
        many.truncate(15);
        assert_eq!(
            lock(&places.taken).places.len(),
            MOST,
            "a login gave its place back"
        );
        IS_READ.store(true, Ordering::Relaxed);
        let _one_more = one_more.await.unwrap();
        assert_eq!(
            lock(&places.taken).places.len(),
            MOST,
            "there was room again"
        );
    }

    fn has_number(places: &LoginPlaces, number: u64) -> bool {
        lock(&places.taken).places.contains_key(&number)
    }
}

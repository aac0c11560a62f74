//! Connections that have not said who they are yet: at most so many, so that nobody keeps others
//! out by connecting without a word.
//!
//! One more ends the oldest of those who have the most of them, TLS handshakes included: of a
//! network address, or, over loopback, of a user of this machine where the system tells. Depends on
//! `lock` and `login_throttle`.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::lock::lock;
use crate::login_throttle::{LoginPeer, Source, sources_of};

/// The maximum number of such connections to the AMQP ports.
const MOST: usize = 512;

/// The places.
#[derive(Debug)]
pub(crate) struct LoginPlaces {
    most: usize,
    /// Who the clients of these connections are. Reads the kernel's tables, which takes long.
    look_up: fn(&[LoginPeer]) -> Vec<Source>,
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
    from: LoginPeer,
    /// `None` until it matters which user of this machine it is.
    source: Option<Source>,
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
            taken: Mutex::default(),
        }
    }

    /// A place for a new connection from there.
    pub(crate) fn take(self: &Arc<Self>, from: LoginPeer) -> LoginPlace {
        let mut taken = lock(&self.taken);
        let (number, end) = (taken.next, Arc::new(Notify::new()));
        taken.next += 1;
        let owner = PlaceOwner {
            from,
            source: from.remote_source(),
            end: Arc::clone(&end),
        };
        taken.places.insert(number, owner);
        if taken.places.len() > self.most {
            taken.end_one(self.look_up);
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
    /// Those whose user nobody has looked up yet count together. So the tables are read when many
    /// have come since they were read last, and not at each connection.
    fn end_one(&mut self, look_up: fn(&[LoginPeer]) -> Vec<Source>) {
        let mut most = self.who_has_most();
        if most.is_none() {
            let unknown = self.places.values_mut();
            let mut unknown: Vec<_> = unknown.filter(|place| place.source.is_none()).collect();
            let peers: Vec<_> = unknown.iter().map(|place| place.from).collect();
            for (place, source) in unknown.iter_mut().zip(look_up(&peers)) {
                place.source = Some(source);
            }
            most = self.who_has_most();
        }
        let mut places = self.places.iter();
        let oldest = places.find(|(_, place)| place.source == most);
        if let Some(number) = oldest.map(|(number, _)| *number)
            && let Some(place) = self.places.remove(&number)
        {
            place.end.notify_one();
        }
    }

    /// `None` for those whom nobody has looked up.
    fn who_has_most(&self) -> Option<Source> {
        let mut counts: HashMap<Option<Source>, usize> = HashMap::new();
        for place in self.places.values() {
            *counts.entry(place.source).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        most.and_then(|(source, _)| source)
    }
}

impl LoginPlace {
    /// Waits until others needed the place.
    pub(crate) async fn lost(&self) {
        self.end.notified().await;
    }

    /// Notified when others needed the place.
    pub(crate) fn end(&self) -> Arc<Notify> {
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

    use super::*;

    const LOCAL: ([u8; 4], u16) = ([127, 0, 0, 1], 5672);
    const MOST: usize = 16;

    fn from(ip: [u8; 4], port: u16) -> LoginPeer {
        LoginPeer {
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
        let other = places.take(from([10, 0, 0, 2], 1));
        let many: Vec<_> = (0..40)
            .map(|port| places.take(from([10, 0, 0, 1], port)))
            .collect();
        assert_eq!(lock(&places.taken).places.len(), MOST);
        many[0].lost().await;
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
                .map(|peer| Source::LocalUser(user(peer.peer)))
                .collect()
        };
        let places = Arc::new(places);
        let other = places.take(from(LOCAL.0, 1));
        let mut many = Vec::new();
        for port in 1..200 {
            many.push(places.take(from(LOCAL.0, 2 * port)));
            assert!(has(&places, &other), "the oldest of all, after {port}");
        }
        let later = places.take(from(LOCAL.0, 3));
        many.extend((200..400).map(|port| places.take(from(LOCAL.0, 2 * port))));
        assert!(has(&places, &other) && has(&places, &later));
        assert_eq!(lock(&places.taken).places.len(), MOST);
    }
}

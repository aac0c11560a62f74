//! Slows down password guessing. After ten wrong passwords within a minute from one address, each
//! further attempt waits a second.
//!
//! A correct password waits too; otherwise a quick reply would reveal it. At most [`WAITING`]
//! attempts of an address wait at once, and the others are refused unchecked, so the rate stays
//! bounded for any number of connections. The users of this machine share the loopback addresses:
//! where the system tells which user a client is of, each has a record of its own, so that none
//! slows down another one. Clients on the Unix sockets have no address and never wait. Depends on
//! `platform` and `lock`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::lock::lock;
use crate::platform::{self, SocketPair};

/// How many wrong passwords within [`WINDOW`] cause no delay.
const FREE: usize = 10;
const WINDOW: Duration = Duration::from_mins(1);
/// The delay of each further attempt.
const DELAY: Duration = Duration::from_secs(1);
/// How many attempts of one address may wait at once.
const WAITING: usize = 8;
/// How many addresses and users are remembered. The one with the oldest wrong password is forgotten
/// first.
const ADDRESSES: usize = 4096;

/// The two ends of a client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientEnds {
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
}

/// Whose attempts are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LoginSource {
    Network(IpAddr),
    /// A user of this machine, over loopback.
    LocalUser(u32),
}

/// An attempt whose password may be checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoginAttempt {
    from: Option<ClientEnds>,
    /// The user of this machine, where it was looked up already.
    user: Option<LoginSource>,
}

/// Wrong passwords by source.
#[derive(Debug, Default)]
pub(crate) struct LoginThrottle {
    records: Mutex<HashMap<LoginSource, LoginRecord>>,
    look_ups: LookUps,
}

/// Looks up the system users of local clients. One thread at a time reads the kernel's tables for
/// all waiting requests, so many wrong passwords cost no more than one reader.
#[derive(Debug, Clone)]
struct LookUps {
    queue: Arc<Mutex<LookUpQueue>>,
    users_of: fn(&[SocketPair]) -> Vec<Option<u32>>,
}

#[derive(Debug, Default)]
struct LookUpQueue {
    waiting: Vec<(SocketPair, oneshot::Sender<Option<u32>>)>,
    has_reader: bool,
}

impl Default for LookUps {
    fn default() -> Self {
        Self {
            queue: Arc::default(),
            users_of: platform::users_of,
        }
    }
}

impl LookUps {
    /// The user of this machine, where the client is on it and the system tells.
    async fn user_of(&self, client: ClientEnds) -> Option<LoginSource> {
        if !client.is_local() {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        let had_reader = {
            let mut queue = lock(&self.queue);
            queue.waiting.push(((client.peer, client.local), sender));
            std::mem::replace(&mut queue.has_reader, true)
        };
        if !had_reader {
            let own = self.clone();
            tokio::task::spawn_blocking(move || own.read());
        }
        receiver.await.ok().flatten().map(LoginSource::LocalUser)
    }

    /// Serves look-ups until none waits.
    fn read(self) {
        loop {
            let waiting = {
                let mut queue = lock(&self.queue);
                queue.has_reader = !queue.waiting.is_empty();
                std::mem::take(&mut queue.waiting)
            };
            if waiting.is_empty() {
                return;
            }
            let (ends, senders): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
            for (user, sender) in (self.users_of)(&ends).into_iter().zip(senders) {
                // The requester may have been dropped.
                let _ = sender.send(user);
            }
        }
    }
}

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
struct WaitingAttempt<'a> {
    throttle: &'a LoginThrottle,
    from: LoginSource,
}

impl LoginThrottle {
    /// Delays an attempt if necessary. Must be called before the password is checked.
    pub(crate) async fn begin_attempt(
        &self,
        from: Option<ClientEnds>,
    ) -> Result<LoginAttempt, TooManyTries> {
        let mut attempt = LoginAttempt { from, user: None };
        let Some(peer) = from.filter(|from| self.is_slow(from.network(), Instant::now())) else {
            return Ok(attempt);
        };
        // Looked up before the password is checked, so that a client that disconnects right after
        // is still identified.
        attempt.user = self.look_ups.user_of(peer).await;
        let from = attempt.user.unwrap_or(peer.network());
        if !self.must_wait(from, Instant::now())? {
            return Ok(attempt);
        }
        let _waiting = WaitingAttempt {
            throttle: self,
            from,
        };
        tokio::time::sleep(DELAY).await;
        Ok(attempt)
    }

    fn is_slow(&self, from: LoginSource, now: Instant) -> bool {
        let records = lock(&self.records);
        records.get(&from).is_some_and(|record| record.is_slow(now))
    }

    /// Returns whether the source must wait, and counts a waiting attempt if so.
    fn must_wait(&self, from: LoginSource, now: Instant) -> Result<bool, TooManyTries> {
        let mut records = lock(&self.records);
        let Some(record) = records.get_mut(&from).filter(|record| record.is_slow(now)) else {
            return Ok(false);
        };
        if record.waiting >= WAITING {
            return Err(TooManyTries);
        }
        record.waiting += 1;
        Ok(true)
    }

    /// The user of this machine at the other end of a connection over loopback, where the system
    /// tells.
    pub(crate) async fn local_user(&self, client: ClientEnds) -> Option<u32> {
        match self.look_ups.user_of(client).await? {
            LoginSource::LocalUser(user) => Some(user),
            LoginSource::Network(_) => None,
        }
    }

    /// Records a wrong password.
    pub(crate) async fn record_failure(&self, attempt: LoginAttempt) {
        let Some(from) = attempt.from else { return };
        self.record(from.network(), Instant::now());
        let user = match attempt.user {
            Some(user) => Some(user),
            None => self.look_ups.user_of(from).await,
        };
        if let Some(user) = user {
            self.record(user, Instant::now());
        }
    }

    fn record(&self, from: LoginSource, now: Instant) {
        let mut records = lock(&self.records);
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

impl ClientEnds {
    fn network(self) -> LoginSource {
        LoginSource::Network(network(self.peer.ip()))
    }

    /// Whether the client is on this machine, by its address.
    pub(crate) fn is_local(self) -> bool {
        self.peer.ip().to_canonical().is_loopback()
    }

    /// Where the client is, unless it is a user of this machine.
    pub(crate) fn remote_source(self) -> Option<LoginSource> {
        (!self.is_local()).then(|| self.network())
    }
}

/// Who the clients on this machine are: their users, where the system tells. Reads files.
pub(crate) fn sources_of(peers: &[ClientEnds]) -> Vec<LoginSource> {
    let ends: Vec<_> = peers.iter().map(|from| (from.peer, from.local)).collect();
    let users = platform::users_of(&ends).into_iter();
    let sources = users.zip(peers).map(|(user, from)| match user {
        Some(user) => LoginSource::LocalUser(user),
        None => from.network(),
    });
    sources.collect()
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

impl Drop for WaitingAttempt<'_> {
    fn drop(&mut self) {
        if let Some(record) = lock(&self.throttle.records).get_mut(&self.from) {
            record.waiting = record.waiting.saturating_sub(1);
        }
    }
}

fn forget_one(records: &mut HashMap<LoginSource, LoginRecord>) {
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
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    use futures_util::FutureExt;

    use super::{
        ADDRESSES, ClientEnds, FREE, LoginSource, LoginThrottle, LookUps, SocketPair, TooManyTries,
        WAITING, lock, network,
    };

    const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const HERE: LoginSource = LoginSource::Network(LOCALHOST);

    fn after_ten_failures(now: Instant) -> LoginThrottle {
        let throttle = LoginThrottle::default();
        for _ in 0..FREE {
            assert_eq!(throttle.must_wait(HERE, now), Ok(false));
            throttle.record(HERE, now);
        }
        throttle
    }

    #[test]
    fn ten_wrong_passwords_a_minute_slow_one_address_down() {
        let now = Instant::now();
        let throttle = after_ten_failures(now);
        assert_eq!(throttle.must_wait(HERE, now), Ok(true));
        let other = LoginSource::Network([10, 0, 0, 1].into());
        assert_eq!(throttle.must_wait(other, now), Ok(false));
        let later = now + Duration::from_mins(1);
        assert_eq!(throttle.must_wait(HERE, later), Ok(false));
    }

    #[test]
    fn tries_beside_one_another_do_not_raise_the_rate() {
        let now = Instant::now();
        let throttle = after_ten_failures(now);
        for _ in 0..WAITING {
            assert_eq!(throttle.must_wait(HERE, now), Ok(true));
        }
        assert_eq!(throttle.must_wait(HERE, now), Err(TooManyTries));
    }

    #[test]
    fn the_number_of_remembered_addresses_is_bounded() {
        let (throttle, now) = (LoginThrottle::default(), Instant::now());
        for number in 0..2 * u32::try_from(ADDRESSES).unwrap_or(0) {
            throttle.record(
                LoginSource::Network(Ipv4Addr::from_bits(number).into()),
                now,
            );
        }
        assert_eq!(lock(&throttle.records).len(), ADDRESSES);
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        let of = |text: &str| network(text.parse().unwrap_or(LOCALHOST));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:127.0.0.1"), LOCALHOST);
    }

    #[tokio::test]
    async fn another_user_of_the_machine_who_guesses_slows_down_nobody_else() {
        if !std::path::Path::new("/proc/net/tcp").exists() {
            return;
        }
        let now = Instant::now();
        let throttle = after_ten_failures(now);
        let stranger = LoginSource::LocalUser(u32::MAX);
        for _ in 0..FREE {
            throttle.record(stranger, now);
        }
        for _ in 0..WAITING {
            assert_eq!(throttle.must_wait(stranger, now), Ok(true));
            assert_eq!(throttle.must_wait(HERE, now), Ok(true));
        }
        // All places of the address and of the stranger are taken.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let _client = std::net::TcpStream::connect(local).unwrap();
        let (_accepted, peer) = listener.accept().unwrap();
        let own = ClientEnds { peer, local };
        assert!(throttle.begin_attempt(Some(own)).await.is_ok());
        let unknown = ClientEnds {
            peer: (Ipv4Addr::LOCALHOST, 1).into(),
            local,
        };
        assert!(throttle.begin_attempt(Some(unknown)).await.is_err());
        for _ in 0..FREE {
            let attempt = throttle.begin_attempt(Some(own)).await.unwrap();
            throttle.record_failure(attempt).await;
        }
        let own = throttle.look_ups.user_of(own).await.unwrap();
        assert!(
            throttle.is_slow(own, Instant::now()),
            "its own guesses count"
        );
    }

    #[tokio::test]
    async fn a_flood_of_guesses_has_one_reader_of_the_kernels_tables() {
        static READS: AtomicUsize = AtomicUsize::new(0);
        static GATE: Mutex<()> = Mutex::new(());
        let users_of = |ends: &[SocketPair]| {
            READS.fetch_add(1, Ordering::SeqCst);
            drop(lock(&GATE));
            vec![Some(7); ends.len()]
        };
        let queue = Arc::default();
        let look_ups = &LookUps { queue, users_of };
        let client = |port| ClientEnds {
            peer: (Ipv4Addr::LOCALHOST, port).into(),
            local: (Ipv4Addr::LOCALHOST, 5672).into(),
        };
        let mut asked = Vec::new();
        {
            let _shut = lock(&GATE);
            for port in 1..=100 {
                let mut one = Box::pin(look_ups.user_of(client(port)));
                assert!(one.as_mut().now_or_never().is_none(), "the reader waits");
                asked.push(one);
                let limit = Instant::now() + Duration::from_mins(1);
                while READS.load(Ordering::SeqCst) == 0 {
                    assert!(Instant::now() < limit, "nobody reads the tables");
                    std::thread::yield_now();
                }
            }
        }
        for one in asked {
            assert_eq!(one.await, Some(LoginSource::LocalUser(7)));
        }
        // The first one, and all that came while it was looked up.
        assert_eq!(READS.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_guesser_that_closes_its_connection_is_counted_as_itself() {
        if !std::path::Path::new("/proc/net/tcp").exists() {
            return;
        }
        let throttle = LoginThrottle::default();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let open = || {
            let client = std::net::TcpStream::connect(local).unwrap();
            let (accepted, peer) = listener.accept().unwrap();
            (client, accepted, Some(ClientEnds { peer, local }))
        };
        let user = LoginSource::LocalUser(rustix::process::geteuid().as_raw());
        // One that still reads the result.
        let (client, _accepted, own) = open();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        for _ in 0..FREE - 1 {
            let attempt = throttle.begin_attempt(own).await.unwrap();
            throttle.record_failure(attempt).await;
        }
        throttle.record(LoginSource::Network(LOCALHOST), Instant::now());
        assert!(!throttle.is_slow(user, Instant::now()));
        // One that is gone before the password was looked at.
        let (client, _accepted, own) = open();
        let attempt = throttle.begin_attempt(own).await.unwrap();
        drop(client);
        throttle.record_failure(attempt).await;
        assert!(throttle.is_slow(user, Instant::now()));
    }
}

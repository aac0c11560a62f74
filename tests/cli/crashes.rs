//! Every message that `send` reports as sent arrives exactly once, however often the broker is
//! killed.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Place, Server, Wrapped, wait_until};

const MESSAGES: usize = 1000;
const KILLS: usize = 10;
const DURING_A_CONFIRM: usize = 3;
const SENDERS: usize = 3;

/// What the senders saw.
#[derive(Default)]
struct Seen {
    lost_in_confirm: AtomicUsize,
    /// How long the last send took that exited 0, in milliseconds.
    send_ms: AtomicU64,
    sent: Mutex<Vec<String>>,
}

impl Seen {
    fn count(&self) -> usize {
        self.sent.lock().unwrap().len()
    }
}

#[test]
fn what_was_reported_as_sent_arrives_exactly_once_over_ten_kills() {
    let place = Place::new();
    let mut server = Server::start(&place);
    // The senders are one user without hops, who may send ten times this many a minute. The brake
    // would hold what is above that for a minute.
    let settings = format!("max_messages_per_minute = {MESSAGES}\n");
    std::fs::write(place.home().join("config.toml"), settings).unwrap();
    let session = Wrapped::open(&place, "sink", &["--batch", "100"]);
    let seen = Seen::default();
    thread::scope(|scope| {
        for _ in 0..SENDERS {
            scope.spawn(|| send(&place, &session, &seen));
        }
        let mut kills = 0;
        while kills < KILLS || seen.lost_in_confirm.load(Ordering::SeqCst) < DURING_A_CONFIRM {
            // A random moment: some sends later, and somewhere inside the next one.
            let next = seen.count() + 1 + random() % (MESSAGES / 20);
            wait_until(
                || seen.count() >= next.min(MESSAGES),
                || "the senders go on".to_owned(),
            );
            if seen.count() >= MESSAGES {
                break;
            }
            let send_ms = seen.send_ms.load(Ordering::Relaxed).max(1);
            thread::sleep(Duration::from_millis(random() as u64 % send_ms));
            server.kill_and_restart(&place);
            kills += 1;
        }
        assert!(kills >= KILLS, "only {kills} kills fell among the sends");
    });
    let sent = seen.sent.into_inner().unwrap();
    let lost = seen.lost_in_confirm.into_inner();
    eprintln!(
        "{} sends exited 0; {lost} others lost their broker during an open confirm",
        sent.len()
    );
    assert!(
        lost >= DURING_A_CONFIRM,
        "only {lost} kills fell into an open confirm"
    );
    wait_until(
        || missing(&session, &sent).is_empty(),
        || format!("never arrived: {:?}", missing(&session, &sent)),
    );
    let twice: Vec<_> = arrivals(&session)
        .into_iter()
        .filter(|(_, times)| *times != 1)
        .collect();
    assert_eq!(twice, [], "arrived more than once");
}

/// Sends until enough exited 0. A send that fails is not repeated: it was not promised.
fn send(place: &Place, session: &Wrapped, seen: &Seen) {
    while seen.count() < MESSAGES {
        // The senders are faster than the session, from which each kill takes its batch away, and
        // a queue that is too long drops its oldest.
        if seen.count() > arrivals(session).len() + MESSAGES / 2 {
            thread::sleep(Duration::from_millis(20));
            continue;
        }
        let begin = Instant::now();
        let ran = place.run(["send", "--json", "--no-start", "--to", "sink", "-m", "x"]);
        match ran.code {
            0 => {
                let took = u64::try_from(begin.elapsed().as_millis()).unwrap();
                seen.send_ms.store(took, Ordering::Relaxed);
                let sent: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
                seen.sent
                    .lock()
                    .unwrap()
                    .push(sent["id"].as_str().unwrap().to_owned());
            }
            4 if ran.err.contains("is not confirmed") => {
                seen.lost_in_confirm.fetch_add(1, Ordering::SeqCst);
            }
            // No broker at this moment, or it went away before the message was published.
            3 => thread::sleep(Duration::from_millis(20)),
            _ => panic!("{ran:?}"),
        }
    }
}

/// How often each id was submitted.
fn arrivals(session: &Wrapped) -> BTreeMap<String, usize> {
    let mut arrivals = BTreeMap::new();
    for line in session.submitted() {
        for part in line.split(" id=").skip(1) {
            let id: String = part
                .chars()
                .take_while(char::is_ascii_alphanumeric)
                .collect();
            *arrivals.entry(id).or_default() += 1;
        }
    }
    arrivals
}

fn missing(session: &Wrapped, sent: &[String]) -> Vec<String> {
    let arrived = arrivals(session);
    sent.iter()
        .filter(|id| !arrived.contains_key(*id))
        .cloned()
        .collect()
}

fn random() -> usize {
    let mut bytes = [0; 2];
    getrandom::fill(&mut bytes).unwrap();
    usize::from(u16::from_le_bytes(bytes))
}

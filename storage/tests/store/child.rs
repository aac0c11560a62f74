//! A process of its own that works on a store until it is killed, and writes down before and after each call what it did.
//!
//! The parent starts this test binary again with [`FOLDER`] set. Each line of the journal is one write, so that what is in it
//! when the process dies is what had happened.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use storage::{Options, Progress, QueueId, Sequence, Settled, Store, Ticket, Urgency};

use crate::model::{Fate, Model};
use crate::support::{LIMIT, body, wait};

/// Names the folder whose `store` and `journal` the child works on.
pub(crate) const FOLDER: &str = "CBROKER_STORE_CHILD";
/// How many calls each of its clients makes.
const CALLS: &str = "CBROKER_STORE_CHILD_CALLS";
/// Names the folder of a child that is compacted.
const COMPACTED: &str = "CBROKER_STORE_CHILD_COMPACTED";
const SEED: &str = "CBROKER_STORE_CHILD_SEED";
const CLIENTS: u64 = 3;

/// Long ones are cut into parts, most share a row.
pub(crate) fn length_of(number: u64) -> usize {
    match number % 50 {
        7 => 17_000,
        11 | 12 => 3_000,
        other => 20 + other as usize * 10,
    }
}

/// The command that runs the child.
pub(crate) fn command(folder: &Path, seed: u64, calls: u64) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child::works_until_it_is_killed", "--nocapture"]);
    command
        .env(FOLDER, folder)
        .env(SEED, seed.to_string())
        .env(CALLS, calls.to_string());
    command
}

#[test]
fn works_until_it_is_killed() {
    // Only as the child of another test.
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let folder = Path::new(&folder);
    let number = |name| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let journal = OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("journal"))
        .unwrap();
    let journal = Arc::new(Mutex::new(journal));
    note(&journal, "N");
    let heard = Arc::clone(&journal);
    let opened =
        Store::open(
            &folder.join("store"),
            Options::default(),
            move |progress| match progress {
                Progress::Durable(ticket) => note(&heard, &format!("D {}", ticket.number())),
                Progress::Stopped(stopped) => panic!("{stopped}"),
                _ => {}
            },
        );
    let opened = opened.unwrap();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let queue = QueueId(client + 1);
            let next = opened
                .queues
                .iter()
                .find(|found| found.queue == queue)
                .map_or(0, |found| found.next.0);
            let client = Client {
                store: &opened.store,
                journal: &journal,
                queue,
                next,
                live: live(&opened.store, queue),
            };
            let random = Random(number(SEED) * 31 + client.queue.0);
            scope.spawn(|| client.run(random, number(CALLS)));
        }
    });
    opened.store.close().unwrap();
}

/// The command that runs a child whose rows are copied to a new place while it rests.
pub(crate) fn compacting(folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "child::rests_until_it_is_compacted",
        "--nocapture",
    ]);
    command.env(COMPACTED, folder);
    command
}

#[test]
fn rests_until_it_is_compacted() {
    // Only as the child of another test.
    let Some(folder) = std::env::var_os(COMPACTED) else {
        return;
    };
    let folder = Path::new(&folder);
    let journal = Arc::new(Mutex::new(File::create(folder.join("journal")).unwrap()));
    let heard = Arc::clone(&journal);
    let options = Options {
        compact_from_bytes: 1 << 20,
        ..Options::default()
    };
    let opened = Store::open(&folder.join("store"), options, move |progress| {
        if let Progress::Durable(ticket) = progress {
            note(&heard, &format!("D {}", ticket.number()));
        }
    });
    let store = opened.unwrap().store;
    let mut client = Client {
        store: &store,
        journal: &journal,
        queue: QueueId(1),
        next: 0,
        live: Vec::new(),
    };
    let mut random = Random(11);
    let durable = |ticket| wait(&store, ticket);
    durable(
        (0..3_000)
            .map(|_| client.append(&mut random))
            .last()
            .unwrap(),
    );
    (0..2_900).for_each(|_| client.settle(&mut random));
    durable(client.append(&mut random));
    let before = store.disk_bytes();
    let until = Instant::now() + LIMIT;
    while store.disk_bytes() > before / 2 {
        assert!(Instant::now() < until, "it was not compacted");
        std::thread::sleep(Duration::from_millis(5));
    }
    durable((0..20).map(|_| client.append(&mut random)).last().unwrap());
    store.close().unwrap();
}

fn live(store: &Store, queue: QueueId) -> Vec<u64> {
    let mut live = Vec::new();
    while let Some((last, _)) = store
        .read(
            queue,
            Sequence(live.last().map_or(0, |last| last + 1)),
            100_000,
        )
        .unwrap()
        .into_iter()
        .inspect(|(sequence, _)| live.push(sequence.0))
        .last()
    {
        assert!(last.0 < u64::MAX);
    }
    live
}

fn note(journal: &Mutex<File>, line: &str) {
    let mut journal = journal.lock().unwrap();
    journal.write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// A xorshift: the same seed gives the same work.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.max(1);
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit.max(1)
    }
}

struct Client<'a> {
    store: &'a Store,
    journal: &'a Mutex<File>,
    queue: QueueId,
    next: u64,
    live: Vec<u64>,
}

impl Client<'_> {
    fn run(mut self, mut random: Random, calls: u64) {
        let mut last = Ticket::NONE;
        for call in 0..calls {
            // Fills a little, drains a little, so that rows are begun, marked and deleted.
            let fills = self.live.len() < 20 || (self.live.len() < 400 && call / 300 % 2 == 0);
            if fills == (random.below(4) > 0) {
                last = self.append(&mut random);
            } else {
                self.settle(&mut random);
            }
            if random.below(20) == 0 {
                self.store.delivered(self.queue, Sequence(self.next / 2));
            }
            if random.below(30) == 0 {
                while self.store.durable() < last {
                    std::thread::yield_now();
                }
            }
        }
    }

    fn append(&mut self, random: &mut Random) -> Ticket {
        let number = self.next;
        self.next += 1;
        note(self.journal, &format!("a {} {number}", self.queue.0));
        let text = body(self.queue, number, length_of(number));
        let (first, second) = text.split_at(text.len() / 3);
        let urgency = if random.below(3) == 0 {
            Urgency::Eventually
        } else {
            Urgency::Confirmed
        };
        let ticket = self
            .store
            .append(self.queue, Sequence(number), &[first, second], urgency)
            .unwrap();
        note(
            self.journal,
            &format!("A {} {number} {}", self.queue.0, ticket.number()),
        );
        self.live.push(number);
        ticket
    }

    fn settle(&mut self, random: &mut Random) {
        if self.live.is_empty() {
            return;
        }
        let index = if random.below(3) == 0 {
            random.below(self.live.len() as u64) as usize
        } else {
            0
        };
        let number = self.live.remove(index);
        note(self.journal, &format!("s {} {number}", self.queue.0));
        let line = match self.store.settle(self.queue, Sequence(number)).unwrap() {
            Settled::Elided => format!("E {} {number}", self.queue.0),
            Settled::Recorded(ticket) => format!("S {} {number} {}", self.queue.0, ticket.number()),
        };
        note(self.journal, &line);
    }
}

/// Carries a model over to what the journal says. Returns the last durable ticket.
pub(crate) fn follow(journal: &str, model: &mut Model) -> u64 {
    let mut durable = 0;
    for line in journal
        .split_inclusive('\n')
        .filter_map(|line| line.strip_suffix('\n'))
    {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |index: usize| words[index].parse::<u64>().unwrap();
        match words[0] {
            "N" => {
                // The session before was closed, or its end has been looked at: what was begun then is done.
                durable = 0;
                model
                    .queues
                    .values_mut()
                    .flat_map(BTreeMap::values_mut)
                    .for_each(Fate::is_past);
            }
            "D" => durable = number(1),
            "A" => model.note(QueueId(number(1)), number(2), Fate::Appended(number(3))),
            "a" | "s" => model.note(QueueId(number(1)), number(2), Fate::Open),
            "S" => model.note(QueueId(number(1)), number(2), Fate::Settled(number(3))),
            "E" => model.note(QueueId(number(1)), number(2), Fate::Elided),
            other => panic!("a line of the journal begins with {other}"),
        }
    }
    durable
}

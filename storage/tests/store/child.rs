//! A process of its own that works on a store until it is killed, and records each call before
//! and after.
//!
//! The parent starts this test binary again with [`FOLDER`] set. Each line of the journal is one
//! write, so that what is in it when the process dies is what had happened.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use storage::{Options, QueueId, Sequence, Settled, Store, StoreEvent, Ticket, Urgency};

use crate::model::{Fate, Model};
use crate::random::Random;
use crate::support::body;

/// Names the folder whose `store` and `journal` the child works on.
pub(crate) const FOLDER: &str = "CBROKER_STORE_CHILD";
/// How many calls each of its clients makes.
const CALLS: &str = "CBROKER_STORE_CHILD_CALLS";
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
    let opened = Store::open(
        &folder.join("store"),
        options(),
        move |progress| match progress {
            StoreEvent::Durable(ticket) => note(&heard, &format!("D {}", ticket.number())),
            StoreEvent::Stopped(stopped) => panic!("{stopped}"),
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
        #[cfg(target_os = "linux")]
        #[cfg(target_os = "linux")]
        crate::out_of_memory::limit_as_asked();
    });
    opened.store.close().unwrap();
}

/// Small segments and frequent checkpoints, so that little work meets all of it.
pub(crate) fn options() -> Options {
    Options {
        segment_bytes: 128 << 10,
        compact_from_bytes: 512 << 10,
        checkpoint_every: Duration::from_millis(50),
        ..Options::default()
    }
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
                // The session before was closed, or its end has been looked at: what was begun
                // then is done.
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

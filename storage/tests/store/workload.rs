//! A client that does every kind of work on a store and notes what it was promised.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use storage::{
    Opened, Options, QueueId, ReadError, Sequence, Settled, Stopped, Store, StoreEvent, Ticket,
    Urgency,
};

use crate::model::{Fate, Model};
use crate::random::Random;
use crate::support::{LIMIT, body};

/// Queues whose messages come and go one by one.
const QUEUES: [QueueId; 2] = [QueueId(1), QueueId(2)];
/// It gets a message with each one of the next queue, in one commit.
const TWINS: [QueueId; 2] = [QueueId(8), QueueId(9)];
/// Messages move from the first to the second, in one commit.
const MOVES: [QueueId; 2] = [QueueId(10), QueueId(11)];
const MOVED: u64 = 24;
/// It is dropped at the end.
const DROPPED: QueueId = QueueId(3);

/// What the client knows at a moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    pub(crate) model: Model,
    /// The last ticket that was reported as durable.
    pub(crate) durable: u64,
    /// All messages that move were durable in the first queue.
    pub(crate) moves_begun: bool,
    /// The store said last that there is no room.
    pub(crate) is_short: bool,
}

/// Shared by the client and the store's callback.
pub(crate) type Diary = Arc<Mutex<Known>>;

pub(crate) fn length_of(number: u64) -> usize {
    match number % 37 {
        5 => 9_000,
        6 => 1,
        _ => 300,
    }
}

fn noted<T>(diary: &Diary, change: impl FnOnce(&mut Known) -> T) -> T {
    change(&mut diary.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Opens a store whose durable tickets and lack of room go to the diary.
pub(crate) fn open(folder: &std::path::Path, options: Options, diary: &Diary) -> Opened {
    let heard = Arc::clone(diary);
    let opened = Store::open(folder, options, move |progress| match progress {
        StoreEvent::Durable(ticket) => noted(&heard, |known| {
            known.durable = known.durable.max(ticket.number());
        }),
        StoreEvent::NoRoom => noted(&heard, |known| known.is_short = true),
        StoreEvent::Room => noted(&heard, |known| known.is_short = false),
        _ => {}
    });
    opened.unwrap()
}

/// Waits until a ticket is durable or the store has stopped.
pub(crate) fn settle_down(store: &Store, ticket: Ticket) -> Result<(), Stopped> {
    let until = Instant::now() + LIMIT;
    while store.durable() < ticket {
        if let Err(ReadError::Stopped(stopped)) = store.read(QueueId(0), Sequence(0), 1) {
            return Err(stopped);
        }
        assert!(
            Instant::now() < until,
            "it neither became durable nor stopped"
        );
        std::thread::sleep(Duration::from_micros(50));
    }
    Ok(())
}

struct Client<'a> {
    store: &'a Store,
    diary: &'a Diary,
}

impl Client<'_> {
    fn append(&self, queue: QueueId, number: u64) -> Result<Ticket, Stopped> {
        self.note(queue, number, Fate::Open);
        let text = body(queue, number, length_of(number));
        let ticket = self
            .store
            .append(queue, Sequence(number), &[&text], Urgency::Confirmed)?;
        self.note(queue, number, Fate::Appended(ticket.number()));
        Ok(ticket)
    }

    fn settle(&self, queue: QueueId, number: u64) -> Result<Ticket, Stopped> {
        self.note(queue, number, Fate::Open);
        Ok(match self.store.settle(queue, Sequence(number))? {
            Settled::Elided => {
                self.note(queue, number, Fate::Elided);
                Ticket::NONE
            }
            Settled::Recorded(ticket) => {
                self.note(queue, number, Fate::Settled(ticket.number()));
                ticket
            }
        })
    }

    fn put(&self, name: &[u8], value: Option<Vec<u8>>) -> Result<Ticket, Stopped> {
        // Until its ticket is known it counts as far away.
        noted(self.diary, |known| {
            let history = known.model.definitions.entry(name.to_vec()).or_default();
            history.push((u64::MAX, value.clone()));
        });
        let ticket = match value {
            Some(value) => self.store.put(name, value)?,
            None => self.store.remove(name)?,
        };
        noted(self.diary, |known| {
            let history = known.model.definitions.get_mut(name).unwrap();
            history.last_mut().unwrap().0 = ticket.number();
        });
        Ok(ticket)
    }

    fn note(&self, queue: QueueId, number: u64, fate: Fate) {
        noted(self.diary, |known| known.model.note(queue, number, fate));
    }

    /// Messages that were there become gone up to a ticket.
    fn note_gone(&self, queue: QueueId, through: u64, by: u64) {
        noted(self.diary, |known| {
            let messages = known.model.queues.entry(queue).or_default();
            for (_, fate) in messages.range_mut(..=through) {
                let was = match fate {
                    Fate::Elided => continue,
                    Fate::Settled(ticket) => *ticket,
                    Fate::Appended(_) | Fate::Open => u64::MAX,
                };
                *fate = if by == u64::MAX && was == u64::MAX {
                    Fate::Open
                } else {
                    Fate::Settled(was.min(by))
                };
            }
        });
    }

    fn round(&self, round: u64, random: &mut Random) -> Result<(), Stopped> {
        let (first, count) = (round * 40, 40);
        let name = format!("definition {}", round % 3).into_bytes();
        let value = (round % 4 != 3).then(|| vec![round as u8; 1 + 3_000 * (round as usize % 2)]);
        let mut last = self.put(&name, value)?;
        for number in first..first + count {
            for queue in QUEUES {
                last = self.append(queue, number)?;
            }
        }
        last = last.max(self.append(DROPPED, round)?);
        {
            let _together = self.store.pause_commits();
            for queue in TWINS {
                last = last.max(self.append(queue, round)?);
            }
        }
        // One may be settled before its commit.
        last = last.max(self.settle(QUEUES[0], first + count - 1)?);
        if random.below(2) == 0 {
            settle_down(self.store, last)?;
        }
        // In order in the first queue, every other one in the second.
        for number in first..first + count - 2 {
            last = last.max(self.settle(QUEUES[0], number)?);
        }
        for number in (first..first + count).step_by(2) {
            last = last.max(self.settle(QUEUES[1], number)?);
        }
        self.store.delivered(QUEUES[1], Sequence(first));
        settle_down(self.store, last)
    }

    fn move_messages(&self) -> Result<(), Stopped> {
        let mut last = Ticket::NONE;
        for number in 0..MOVED {
            last = self.append(MOVES[0], number)?;
        }
        settle_down(self.store, last)?;
        noted(self.diary, |known| known.moves_begun = true);
        for number in 0..MOVED {
            let _together = self.store.pause_commits();
            last = self.append(MOVES[1], number)?;
            last = last.max(self.settle(MOVES[0], number)?);
        }
        settle_down(self.store, last)
    }

    fn finish(&self, rounds: u64) -> Result<(), Stopped> {
        self.note_gone(QUEUES[1], rounds * 40, u64::MAX);
        let ticket = self.store.purge(QUEUES[1], Sequence(rounds * 40))?;
        self.note_gone(QUEUES[1], rounds * 40, ticket.number());
        self.note_gone(DROPPED, rounds, u64::MAX);
        let ticket = self.store.drop_queue(DROPPED)?;
        self.note_gone(DROPPED, rounds, ticket.number());
        settle_down(self.store, ticket)?;
        let last = self.append(QUEUES[0], rounds * 40 + 1)?;
        settle_down(self.store, last)
    }
}

/// Works through so many rounds. Ends early when the store stops.
pub(crate) fn run(store: &Store, diary: &Diary, rounds: u64, seed: u64) -> Result<(), Stopped> {
    let client = Client { store, diary };
    let mut random = Random(seed);
    for round in 0..rounds {
        client.round(round, &mut random)?;
        if round == rounds / 2 {
            client.move_messages()?;
        }
    }
    client.finish(rounds)
}

/// Compares a store that was opened afterwards with what the client knew.
pub(crate) fn check(opened: &Opened, known: &Known) {
    known.model.check(opened, known.durable, length_of);
    let [left, right] = TWINS.map(|queue| crate::model::read_everything(opened, queue, length_of));
    assert_eq!(left, right, "a commit of two messages was cut");
    if known.moves_begun {
        let [from, to] = MOVES.map(|queue| crate::model::read_everything(opened, queue, length_of));
        let mut all = [from.as_slice(), &to].concat();
        all.sort_unstable();
        assert_eq!(
            all,
            (0..MOVED).collect::<Vec<_>>(),
            "a move was cut: {from:?} and {to:?}"
        );
    }
}

//! The thread that waits for the disk, so that the session never does.
//!
//! Jobs are done in the order given, but for dead letters: those wait for a moment without other
//! jobs, or until [`LETTERS_AT_ONCE`] of them share one sync. Jobs that the session waits for are
//! answered with a [`Fact`] once they are on disk. A disk that fails is tried again every second:
//! until the intent is written nothing is handed over, and until a dead letter is written its
//! message is not rejected.
//!
//! What waits for the thread is bounded by those who ask: it is caused by messages that are here,
//! and `session::post::room` has the broker bring no more while too much of it waits. Asking never
//! blocks.
//!
//! Relies on the seen log, the dead letters, the files of long texts and the history.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use chrono::Utc;

use super::body_file::{BodyFile, BodyPlace};
use super::dead_letter::{self, DeadBody, NewDeadLetter};
use super::delivery::MessageKey;
use super::seen::{Seen, SeenLog};
use super::spill;
use crate::config::{Home, write_private};
use crate::envelope::Envelope;
use crate::message_history::{HistoryEntry, HistoryEvent, MessageHistory, MessageText};

/// So many answers may wait for the session.
const FACTS: usize = 4096;
/// So many jobs may wait before what only informs is left out.
const JOBS_WITH_NEWS: usize = 2048;
/// So many dead letters are synced at once.
const LETTERS_AT_ONCE: usize = 32;
const AGAIN: Duration = Duration::from_secs(1);

/// Something to write or to look up.
#[derive(Debug)]
pub(super) enum Job {
    /// What is known of this identity? A text that is too long for a line goes to a file, unless
    /// the message was delivered before.
    Look(MessageKey, String, Option<Box<LongText>>),
    /// This text goes to a file after all.
    Spill(MessageKey, Box<LongText>),
    /// What becomes of such a file.
    TextFile(PathBuf, TextFate),
    /// These are about to be handed over.
    Intend(Vec<String>),
    /// The intent to hand these over led to nothing.
    Withdraw(Vec<String>),
    /// These are in the model's context.
    Done(Vec<(MessageKey, String)>),
    /// The body of a message that is parked.
    Keep(BodyPlace, Vec<u8>),
    /// Such a body is needed.
    Fetch(MessageKey, BodyPlace),
    /// None of those bodies is needed any more.
    Clear,
    /// This is no message. Its body is there, where the letter has none.
    DeadLetter(MessageKey, NewDeadLetter, Option<BodyPlace>),
    /// A line for `cbroker why`.
    Tell {
        /// The message.
        id: String,
        /// Who published it, as in [`HistoryEntry::publisher`].
        publisher: Option<String>,
        /// What became of it.
        event: HistoryEvent,
        /// How, or why.
        detail: Option<String>,
        /// What it says, when it is received.
        message: Option<Box<MessageText>>,
    },
    /// How many sessions the message that the agent answers now has passed; `None` when a person
    /// spoke.
    Hops(Option<u32>),
}

/// What becomes of a file with a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextFate {
    /// Its message was delivered: the agent was told to read it.
    Delivered,
    /// No agent was told to read it.
    Unread,
}

impl TextFate {
    fn befalls(self, text: &Path) {
        match self {
            Self::Delivered => spill::mark_delivered(text),
            Self::Unread => spill::remove(text),
        }
    }
}

/// A message whose text goes to a file, and the line's limit in bytes.
#[derive(Debug)]
pub(super) struct LongText {
    pub(super) envelope: Envelope,
    pub(super) limit_bytes: usize,
}

/// The message that points to the file with its text, and the file; or why it could not be written.
pub(super) type Spilled = std::io::Result<(Envelope, PathBuf)>;

/// What the thread answers.
#[derive(Debug)]
pub(super) enum Fact {
    /// What is known of a message, and its text's file where it has one.
    Looked(MessageKey, Seen, Option<Box<Spilled>>),
    /// Its text is in a file.
    Spilled(MessageKey, Box<Spilled>),
    /// The intents are written.
    Intended,
    /// These are noted as done.
    Done(Vec<MessageKey>),
    /// A body is in the file.
    Kept,
    /// A body that was in the file.
    Fetched(MessageKey, Vec<u8>),
    /// The dead letter is kept.
    Buried(MessageKey, String),
    /// The disk failed, for the log; it is tried again.
    Failed(String),
}

/// Where things lie.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// The queue's name.
    pub queue: String,
    /// The folder of the seen log.
    pub sessions: PathBuf,
    /// The queue's dead letters.
    pub dead_letters: PathBuf,
    /// The file of parked bodies, for a moment.
    pub bodies: PathBuf,
    /// The folder of long texts.
    pub spill: PathBuf,
    /// The hops of the message that is being answered.
    pub hops: PathBuf,
    /// The history.
    pub history: MessageHistory,
}

impl Places {
    /// Those of a session under this home.
    pub(super) fn of(home: &Home, queue: &str, session: &str) -> Self {
        Self {
            queue: queue.to_owned(),
            sessions: home.sessions(),
            dead_letters: home.dead_letters(queue),
            bodies: home.session_hops(session).with_extension("bodies"),
            spill: home.spill(),
            hops: home.session_hops(session),
            history: MessageHistory::of(home),
        }
    }
}

/// The thread's near end.
#[derive(Debug)]
pub(super) struct Disk {
    jobs: Option<mpsc::Sender<Job>>,
    waiting: Arc<AtomicUsize>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Disk {
    /// Starts the thread. Facts come out of the receiver. No body that is kept is longer than
    /// `longest_body_bytes`.
    pub(super) fn start(
        places: Places,
        longest_body_bytes: usize,
    ) -> std::io::Result<(Self, tokio::sync::mpsc::Receiver<Fact>)> {
        #[expect(
            clippy::disallowed_methods,
            reason = "the session must not wait for the disk; see above for what bounds it"
        )]
        let (jobs, todo) = mpsc::channel();
        let (facts, out) = tokio::sync::mpsc::channel(FACTS);
        let waiting = Arc::new(AtomicUsize::new(0));
        let left = Arc::clone(&waiting);
        let thread = thread::Builder::new()
            .name("disk".into())
            .stack_size(256 * 1024)
            .spawn(move || {
                let mut worker = Worker {
                    bodies: BodyFile::new(places.bodies.clone(), longest_body_bytes),
                    places,
                    seen: None,
                    letters: Vec::new(),
                    facts,
                };
                while let Some(job) = worker.next(&todo) {
                    left.fetch_sub(1, Ordering::Relaxed);
                    // After the session's end the rest is still written where the disk works.
                    let _told = worker.work(job);
                }
                let _was_never_written = std::fs::remove_file(&worker.places.hops);
            })?;
        Ok((
            Self {
                jobs: Some(jobs),
                waiting,
                thread: Some(thread),
            },
            out,
        ))
    }

    /// Adds a job, without waiting for the disk.
    pub(super) fn ask(&self, job: Job) {
        let is_news = matches!(job, Job::Tell { .. } | Job::Hops(_));
        if is_news && self.waiting.load(Ordering::Relaxed) >= JOBS_WITH_NEWS {
            return;
        }
        if let Some(jobs) = &self.jobs {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            let _thread_ended = jobs.send(job);
        }
    }
}

impl Drop for Disk {
    /// Everything asked for is written before the session ends.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

struct Worker {
    places: Places,
    seen: Option<SeenLog>,
    bodies: BodyFile,
    /// Dead letters that are to be kept.
    letters: Vec<(MessageKey, NewDeadLetter)>,
    facts: tokio::sync::mpsc::Sender<Fact>,
}

impl Worker {
    /// The next job; dead letters are kept before it where they do not keep it waiting.
    fn next(&mut self, todo: &mpsc::Receiver<Job>) -> Option<Job> {
        if self.letters.len() < LETTERS_AT_ONCE
            && let Ok(job) = todo.try_recv()
        {
            return Some(job);
        }
        let _told = self.keep_letters();
        todo.recv().ok()
    }

    /// `None`: the session ended before the disk came back.
    fn work(&mut self, job: Job) -> Option<()> {
        let fact = match job {
            Job::Look(key, id, text) => self.look(key, &id, text)?,
            Job::Spill(key, text) => Fact::Spilled(key, Box::new(self.spill(&text))),
            Job::TextFile(path, fate) => {
                fate.befalls(&path);
                return Some(());
            }
            Job::Intend(ids) => {
                self.persist(|log| log.intend(&ids))?;
                Fact::Intended
            }
            Job::Withdraw(ids) => return self.persist(|log| log.withdraw(&ids)),
            Job::Done(delivered) => {
                let (keys, ids): (Vec<MessageKey>, Vec<String>) = delivered.into_iter().unzip();
                self.persist(|log| log.done(&ids))?;
                Fact::Done(keys)
            }
            // The messages are back in their queue.
            Job::Keep(..) | Job::Fetch(..) | Job::DeadLetter(_, _, Some(_))
                if self.facts.is_closed() =>
            {
                return None;
            }
            Job::Keep(place, body) => {
                self.insist(|worker| worker.bodies.keep(place, &body))?;
                Fact::Kept
            }
            Job::Fetch(key, place) => {
                Fact::Fetched(key, self.insist(|worker| worker.bodies.fetch(place))?)
            }
            Job::Clear => {
                self.bodies.clear();
                return Some(());
            }
            Job::DeadLetter(key, letter, place) => return self.take_letter(key, letter, place),
            Job::Tell {
                id,
                publisher,
                event,
                detail,
                message,
            } => {
                // Information only: a history that cannot be written stops nothing.
                let mut entry = HistoryEntry::new(Utc::now(), &id, event, &self.places.queue)
                    .published_by(publisher);
                entry.detail = detail;
                entry.message = message.map(|message| *message);
                let _untold = self.places.history.note(&entry);
                return Some(());
            }
            Job::Hops(hops) => {
                let _only_a_brake = match hops {
                    Some(hops) => write_private(&self.places.hops, format!("{hops}\n").as_bytes()),
                    None => std::fs::remove_file(&self.places.hops),
                };
                return Some(());
            }
        };
        self.facts.blocking_send(fact).ok()
    }

    fn look(&mut self, key: MessageKey, id: &str, text: Option<Box<LongText>>) -> Option<Fact> {
        let seen = self.persist(|log| log.look(id))?;
        let is_wanted = matches!(seen, Seen::Never | Seen::Intended);
        let text = text.filter(|_| is_wanted);
        let spilled = text.map(|text| Box::new(self.spill(&text)));
        Some(Fact::Looked(key, seen, spilled))
    }

    fn take_letter(
        &mut self,
        key: MessageKey,
        mut letter: NewDeadLetter,
        place: Option<BodyPlace>,
    ) -> Option<()> {
        if let Some(place) = place {
            let body = self.insist(|worker| worker.bodies.fetch(place))?;
            letter.body = DeadBody::cut(body);
        }
        self.letters.push((key, letter));
        Some(())
    }

    /// Writes the dead letters that wait, as many with one sync as go into a file.
    fn keep_letters(&mut self) -> Option<()> {
        let letters = std::mem::take(&mut self.letters).into_iter();
        let (own, others): (Vec<_>, Vec<_>) = letters.partition(|(_, letter)| letter.is_own);
        let file = self.places.dead_letters.clone();
        let others_file = dead_letter::of_others(&file);
        for (file, letters) in [(file, own), (others_file, others)] {
            let (keys, letters): (Vec<_>, Vec<_>) = letters.into_iter().unzip();
            let mut rest = &letters[..];
            while !rest.is_empty() {
                let count = self.insist(|_| dead_letter::append(&file, rest))?;
                rest = &rest[count..];
            }
            for (key, letter) in keys.into_iter().zip(letters) {
                let kept = Fact::Buried(key, letter.error);
                self.facts.blocking_send(kept).ok()?;
            }
        }
        Some(())
    }

    fn spill(&self, text: &LongText) -> Spilled {
        let place = (self.places.spill.as_path(), self.places.queue.as_str());
        spill::spill(place, &text.envelope, text.limit_bytes)
    }

    fn persist<T>(&mut self, work: impl Fn(&mut SeenLog) -> std::io::Result<T>) -> Option<T> {
        self.insist(|worker| {
            let mut log = match worker.seen.take() {
                Some(log) => log,
                None => SeenLog::open(&worker.places.sessions, &worker.places.queue)?,
            };
            let result = work(&mut log)?;
            worker.seen = Some(log);
            Ok(result)
        })
    }

    fn insist<T>(&mut self, work: impl Fn(&mut Self) -> std::io::Result<T>) -> Option<T> {
        loop {
            match work(self) {
                Ok(result) => return Some(result),
                Err(error) => {
                    self.facts
                        .blocking_send(Fact::Failed(error.to_string()))
                        .ok()?;
                    thread::sleep(AGAIN);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs::File;

    use super::*;
    use crate::config::Environment;

    /// A disk that does nothing until its lock is dropped.
    fn stopped(folder: &Path) -> (Disk, tokio::sync::mpsc::Receiver<Fact>, File) {
        let home = Home::of(&Environment::from_iter([("CBROKER_HOME", folder)])).unwrap();
        let places = Places::of(&home, "q", "s");
        std::fs::create_dir_all(&places.sessions).unwrap();
        std::fs::create_dir_all(home.dead_letters("q").parent().unwrap()).unwrap();
        let lock = File::create(places.sessions.join("q.seen.lock")).unwrap();
        lock.lock().unwrap();
        let (disk, facts) = Disk::start(places, 1 << 20).unwrap();
        (disk, facts, lock)
    }

    fn look(number: u64) -> Job {
        Job::Look(MessageKey(number), format!("m{number} a 1"), None)
    }

    fn dead_letter(number: u64) -> Job {
        let letter = NewDeadLetter {
            ts: "t".into(),
            error: "no JSON".into(),
            body: DeadBody::cut(b"{".to_vec()),
            is_own: number.is_multiple_of(2),
        };
        Job::DeadLetter(MessageKey(number), letter, None)
    }

    #[test]
    fn a_disk_that_stands_still_never_makes_the_session_wait() {
        let folder = tempfile::tempdir().unwrap();
        let (disk, mut facts, lock) = stopped(folder.path());
        let jobs = 3 * FACTS as u64;
        let (tell, told) = mpsc::sync_channel(1);
        let asks = thread::spawn(move || {
            (0..jobs).for_each(|number| disk.ask(look(number)));
            tell.send(()).unwrap();
            disk
        });
        let is_free = told.recv_timeout(Duration::from_secs(30)).is_ok();
        drop(lock);
        for number in 0..jobs {
            let fact = facts.blocking_recv();
            assert!(matches!(fact, Some(Fact::Looked(MessageKey(key), ..)) if key == number));
        }
        drop(asks.join().unwrap());
        assert!(is_free, "the session waited for the disk");
    }

    #[test]
    fn no_message_waits_behind_dead_letters_and_each_of_those_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (disk, mut facts, lock) = stopped(folder.path());
        disk.ask(look(0));
        (1..=20).for_each(|number| disk.ask(dead_letter(number)));
        disk.ask(look(21));
        drop(lock);
        drop(disk);
        let mut order = Vec::new();
        while let Ok(fact) = facts.try_recv() {
            match fact {
                Fact::Looked(key, ..) | Fact::Buried(key, _) => order.push(key.0),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(order[..2], [0, 21]);
        order.sort_unstable();
        assert_eq!(order, (0..=21).collect::<Vec<_>>());
        for file in ["dlq/q.jsonl", "dlq/q.others.jsonl"] {
            let kept = std::fs::read_to_string(folder.path().join(file)).unwrap();
            assert_eq!(kept.lines().count(), 10, "{file}");
        }
    }
}

//! The thread that waits for the disk, so that the session never does.
//!
//! Jobs are done in the order given. Those that the session waits for are answered with a [`Fact`]
//! once they are on disk. A disk that fails is tried again every second: until the intent is
//! written nothing is handed over, and until a dead letter is written its message is not rejected.
//!
//! Relies on the seen log, the dead letters and the history.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use chrono::Utc;

use super::dead_letter::{self, DeadBody};
use super::delivery::MessageKey;
use super::seen::{Seen, SeenLog};
use crate::config::write_private;
use crate::envelope::timestamp;
use crate::message_history::{HistoryEntry, HistoryEvent, MessageHistory, MessageText};

/// More jobs than the session's prefetch can cause at once.
const JOBS: usize = 4096;
/// So many may wait before what only informs is left out: a failing disk must not make the session
/// wait.
const JOBS_WITH_NEWS: usize = JOBS / 2;
const AGAIN: Duration = Duration::from_secs(1);

/// Something to write or to look up.
#[derive(Debug)]
pub(super) enum Job {
    /// What is known of this id?
    Look(MessageKey, String),
    /// These are about to be handed over.
    Intend(Vec<String>),
    /// The intent to hand these over led to nothing.
    Withdraw(Vec<String>),
    /// These are in the model's context.
    Done(Vec<(MessageKey, String)>),
    /// This is no message.
    DeadLetter {
        /// The delivery.
        key: MessageKey,
        /// What is wrong with it.
        error: String,
        /// The beginning of its body.
        body: DeadBody,
        /// Whether the session's own user published it.
        is_own: bool,
    },
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

/// What the thread answers.
#[derive(Debug)]
pub(super) enum Fact {
    /// What is known of a message.
    Looked(MessageKey, Seen),
    /// The intents are written.
    Intended,
    /// These are noted as done.
    Done(Vec<MessageKey>),
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
    /// The hops of the message that is being answered.
    pub hops: PathBuf,
    /// The history.
    pub history: MessageHistory,
}

/// The thread's near end.
#[derive(Debug)]
pub(super) struct Disk {
    jobs: Option<mpsc::SyncSender<Job>>,
    waiting: Arc<AtomicUsize>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Disk {
    /// Starts the thread. Facts come out of the receiver.
    pub(super) fn start(
        places: Places,
    ) -> std::io::Result<(Self, tokio::sync::mpsc::Receiver<Fact>)> {
        let (jobs, todo) = mpsc::sync_channel(JOBS);
        let (facts, out) = tokio::sync::mpsc::channel(JOBS);
        let waiting = Arc::new(AtomicUsize::new(0));
        let left = Arc::clone(&waiting);
        let thread = thread::Builder::new()
            .name("disk".into())
            .stack_size(256 * 1024)
            .spawn(move || {
                let mut worker = Worker {
                    places,
                    seen: None,
                    facts,
                };
                while let Ok(job) = todo.recv() {
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

    /// Adds a job. Blocks only when the disk has been failing for thousands of messages.
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
    facts: tokio::sync::mpsc::Sender<Fact>,
}

impl Worker {
    /// `None`: the session ended before the disk came back.
    fn work(&mut self, job: Job) -> Option<()> {
        let fact = match job {
            Job::Look(key, id) => Fact::Looked(key, self.persist(|log| log.look(&id))?),
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
            Job::DeadLetter {
                key,
                error,
                body,
                is_own,
            } => {
                let own = &self.places.dead_letters;
                let path = if is_own {
                    own.clone()
                } else {
                    dead_letter::of_others(own)
                };
                self.insist(|_| dead_letter::append(&path, &timestamp(Utc::now()), &error, &body))?;
                Fact::Buried(key, error)
            }
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

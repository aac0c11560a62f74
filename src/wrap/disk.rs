//! A thread for the session's file writes, so that its event loop never blocks on the disk.
//!
//! Jobs run in the order in which they are submitted, except dead letters: those wait until no
//! other job is queued, or until [`LETTERS_PER_SYNC`] of them share one sync. A job whose result
//! the session needs is answered with a [`DiskEvent`] once its data is on disk. A failing disk is
//! retried every second: until its intent is written no message is handed over, and until its dead
//! letter is written no message is rejected.
//!
//! Submitting never blocks. The number of queued jobs is bounded by the messages of the session
//! that cause them: `session::messages::intake` requests no more messages while too many writes are
//! pending.
//!
//! Relies on the seen log, the dead letters, the files of long texts and the history.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use chrono::Utc;
use tokio::sync::mpsc::error::SendError;

use super::body_file::{BodyFile, BodyPlace};
use super::dead_letter::{self, DeadBody, NewDeadLetter};
use super::delivery::MessageKey;
use super::seen::{Seen, SeenLog};
use super::spill::{self, Pointer, SpillFolder};
use crate::config::{Home, write_private};
use crate::envelope::Envelope;
use crate::message_history::{HistoryEntry, HistoryEvent, MessageHistory, MessageText};

/// Capacity of the channel of results.
const EVENTS: usize = 4096;
/// Number of queued jobs above which history and hops are not written.
const JOBS_BEFORE_DROPPING: usize = 2048;
/// Maximum number of dead letters that wait for one sync.
const LETTERS_PER_SYNC: usize = 32;
const AGAIN: Duration = Duration::from_secs(1);

/// A job for the thread. Messages are named by the identities that the seen log stores.
#[derive(Debug)]
pub(super) enum Job {
    /// Look up a message in the seen log. A text that is too long for a line is written to a file,
    /// unless the message was delivered before.
    LookUp(MessageKey, String, Option<Box<LongText>>),
    /// Write the text of a message to a file.
    Spill(MessageKey, Box<LongText>),
    /// Mark or remove the file with a text.
    SettleTextFile(PathBuf, TextOutcome),
    /// Write the intent to hand these messages over.
    WriteIntents(Vec<String>),
    /// Withdraw the intents of these messages, which were not handed over.
    WithdrawIntents(Vec<String>),
    /// Write that these messages are in the model's context.
    WriteDone(Vec<(MessageKey, String)>),
    /// Write the body of a parked message.
    ParkBody(BodyPlace, Vec<u8>),
    /// Read the body of a parked message.
    ReadBody(MessageKey, BodyPlace),
    /// Drop the file of parked bodies, which are no longer needed.
    ClearBodies,
    /// Write a dead letter. If a place is given, its body is read from there.
    WriteDeadLetter(MessageKey, NewDeadLetter, Option<BodyPlace>),
    /// Add an entry to the message history, which `cbroker why` shows.
    WriteHistory {
        /// The message's id.
        id: String,
        /// The mark of its publisher, as in [`HistoryEntry::publisher`].
        publisher: Option<String>,
        /// What happened to it.
        event: HistoryEvent,
        /// How, or why.
        detail: Option<String>,
        /// Its text, when it is received.
        message: Option<Box<MessageText>>,
    },
    /// Write the hop count for the agent's next message; `None` removes it, after a person's input.
    WriteHops(Option<u32>),
}

impl Job {
    /// Whether it is skipped after the session's end, when its message is back in the queue.
    fn needs_the_session(&self) -> bool {
        matches!(
            self,
            Self::LookUp(..)
                | Self::Spill(..)
                | Self::ParkBody(..)
                | Self::ReadBody(..)
                | Self::WriteDeadLetter(_, _, Some(_))
        )
    }
}

/// The outcome of a message whose text is in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextOutcome {
    /// The message was delivered: the agent was told to read the file.
    Delivered,
    /// The agent was not told to read the file.
    Unread,
}

impl TextOutcome {
    fn settle(self, text: &Path) {
        match self {
            Self::Delivered => spill::mark_delivered(text),
            Self::Unread => spill::remove(text),
        }
    }
}

/// A message whose text is to be written to a file, and what its line may have.
#[derive(Debug)]
pub(super) struct LongText {
    pub(super) envelope: Envelope,
    pub(super) pointer: Pointer,
}

/// The message that names the file with its text, and the path of the file.
pub(super) type Spilled = std::io::Result<(Envelope, PathBuf)>;

/// The result of a job.
#[derive(Debug)]
pub(super) enum DiskEvent {
    /// What the seen log says of a message, and the file with its text, if one was written.
    LookedUp(MessageKey, Seen, Option<Box<Spilled>>),
    /// The text of a message was written to a file, or the error.
    Spilled(MessageKey, Pointer, Box<Spilled>),
    /// The intents are written.
    IntentsWritten,
    /// These messages are written as done.
    DoneWritten(Vec<MessageKey>),
    /// The body of a parked message is in the file.
    BodyParked,
    /// The body of a parked message, read from the file.
    BodyRead(MessageKey, Vec<u8>),
    /// The dead letter is written: its key and the reason.
    DeadLetterWritten(MessageKey, String),
    /// A write failed and will be retried; the error is for the log.
    Failed(String),
}

impl DiskEvent {
    /// The file with a text that this event names, and the agent does not know yet.
    pub(super) fn into_text_file(self) -> Option<PathBuf> {
        let spilled = match self {
            Self::LookedUp(_, _, spilled) => *spilled?,
            Self::Spilled(.., spilled) => *spilled,
            _ => return None,
        };
        spilled.ok().map(|(_, file)| file)
    }
}

/// The paths of a session's files.
#[derive(Clone, Debug)]
pub(super) struct DiskPaths {
    /// The queue's name.
    pub queue: String,
    /// The folder of the seen log.
    pub sessions: PathBuf,
    /// The queue's dead letters.
    pub dead_letters: PathBuf,
    /// The file of parked bodies; it has a name only while it is created.
    pub bodies: PathBuf,
    /// The folder of long texts.
    pub spill: PathBuf,
    /// The file with the hop count of the message that is being answered.
    pub hops: PathBuf,
    /// The message history.
    pub history: MessageHistory,
}

impl DiskPaths {
    /// The paths of a session in this home.
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

/// Handle to the thread.
#[derive(Debug)]
pub(super) struct DiskThread {
    jobs: Option<mpsc::Sender<Job>>,
    waiting: Arc<AtomicUsize>,
    thread: Option<thread::JoinHandle<()>>,
}

impl DiskThread {
    /// Starts the thread. The receiver yields the results.
    pub(super) fn start(
        paths: DiskPaths,
    ) -> std::io::Result<(Self, tokio::sync::mpsc::Receiver<DiskEvent>)> {
        #[expect(
            clippy::disallowed_methods,
            reason = "the session must not wait for the disk; the module's docs state the bound"
        )]
        let (jobs, todo) = mpsc::channel();
        let (events, out) = tokio::sync::mpsc::channel(EVENTS);
        let waiting = Arc::new(AtomicUsize::new(0));
        let left = Arc::clone(&waiting);
        let thread = thread::Builder::new()
            .name("disk".into())
            .stack_size(256 * 1024)
            .spawn(move || {
                let mut worker = Worker {
                    texts: SpillFolder::new(paths.spill.clone(), paths.queue.clone()),
                    bodies: BodyFile::new(paths.bodies.clone()),
                    paths,
                    seen: None,
                    letters: Vec::new(),
                    events,
                };
                while let Some(job) = worker.next(&todo) {
                    left.fetch_sub(1, Ordering::Relaxed);
                    // After the session's end the remaining jobs are still written, if the disk
                    // works.
                    let _session_ended = worker.work(job);
                }
                let _was_never_written = std::fs::remove_file(&worker.paths.hops);
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

    /// Submits a job, without waiting for the disk.
    pub(super) fn submit(&self, job: Job) {
        let is_optional = matches!(job, Job::WriteHistory { .. } | Job::WriteHops(_));
        if is_optional && self.waiting.load(Ordering::Relaxed) >= JOBS_BEFORE_DROPPING {
            return;
        }
        if let Some(jobs) = &self.jobs {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            let _thread_ended = jobs.send(job);
        }
    }
}

impl Drop for DiskThread {
    /// Waits until all submitted jobs are done.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

struct Worker {
    paths: DiskPaths,
    seen: Option<SeenLog>,
    bodies: BodyFile,
    texts: SpillFolder,
    /// Dead letters that are to be written.
    letters: Vec<(MessageKey, NewDeadLetter)>,
    events: tokio::sync::mpsc::Sender<DiskEvent>,
}

impl Worker {
    /// Returns the next job. If none is queued or enough dead letters wait, writes these first.
    fn next(&mut self, todo: &mpsc::Receiver<Job>) -> Option<Job> {
        if self.letters.len() < LETTERS_PER_SYNC
            && let Ok(job) = todo.try_recv()
        {
            return Some(job);
        }
        let _session_ended = self.write_letters();
        todo.recv().ok()
    }

    /// Runs a job. Returns `None` if the session ended while the disk was failing.
    fn work(&mut self, job: Job) -> Option<()> {
        if job.needs_the_session() && self.events.is_closed() {
            return None;
        }
        let event = match job {
            Job::LookUp(key, id, text) => self.look_up(key, &id, text)?,
            Job::Spill(key, text) => {
                DiskEvent::Spilled(key, text.pointer, Box::new(self.spill(&text)))
            }
            Job::SettleTextFile(path, outcome) => {
                outcome.settle(&path);
                return Some(());
            }
            Job::WriteIntents(ids) => {
                self.with_seen_log(|log| log.intend(&ids))?;
                DiskEvent::IntentsWritten
            }
            Job::WithdrawIntents(ids) => return self.with_seen_log(|log| log.withdraw(&ids)),
            Job::WriteDone(delivered) => {
                let (keys, ids): (Vec<MessageKey>, Vec<String>) = delivered.into_iter().unzip();
                self.with_seen_log(|log| log.done(&ids))?;
                DiskEvent::DoneWritten(keys)
            }
            Job::ParkBody(place, body) => {
                self.retry(|worker| worker.bodies.write(&place, &body))?;
                DiskEvent::BodyParked
            }
            Job::ReadBody(key, place) => {
                DiskEvent::BodyRead(key, self.retry(|worker| worker.bodies.read(&place))?)
            }
            Job::ClearBodies => {
                self.bodies.clear();
                return Some(());
            }
            Job::WriteDeadLetter(key, letter, place) => {
                return self.add_letter(key, letter, place);
            }
            Job::WriteHistory {
                id,
                publisher,
                event,
                detail,
                message,
            } => {
                // The history is informational: if it cannot be written, delivery goes on.
                let mut entry = HistoryEntry::new(Utc::now(), &id, event, &self.paths.queue)
                    .published_by(publisher);
                entry.detail = detail;
                entry.message = message.map(|message| *message);
                let _history_is_optional = self.paths.history.note(&entry);
                return Some(());
            }
            Job::WriteHops(hops) => {
                let _hops_are_optional = match hops {
                    Some(hops) => write_private(&self.paths.hops, format!("{hops}\n").as_bytes()),
                    None => std::fs::remove_file(&self.paths.hops),
                };
                return Some(());
            }
        };
        self.answer(event)
    }

    /// Sends a result to the session.
    fn answer(&self, event: DiskEvent) -> Option<()> {
        let Err(SendError(event)) = self.events.blocking_send(event) else {
            return Some(());
        };
        // The session has ended, and only this thread knows the file.
        if let Some(file) = event.into_text_file() {
            spill::remove(&file);
        }
        None
    }

    fn look_up(
        &mut self,
        key: MessageKey,
        id: &str,
        text: Option<Box<LongText>>,
    ) -> Option<DiskEvent> {
        let seen = self.with_seen_log(|log| log.look_up(id))?;
        let is_wanted = matches!(seen, Seen::Never | Seen::Intended);
        let text = text.filter(|_| is_wanted);
        let spilled = text.map(|text| Box::new(self.spill(&text)));
        Some(DiskEvent::LookedUp(key, seen, spilled))
    }

    fn add_letter(
        &mut self,
        key: MessageKey,
        mut letter: NewDeadLetter,
        place: Option<BodyPlace>,
    ) -> Option<()> {
        if let Some(place) = place {
            let body = self.retry(|worker| worker.bodies.read(&place))?;
            letter.body = DeadBody::cut(body);
        }
        self.letters.push((key, letter));
        Some(())
    }

    /// Writes the waiting dead letters, with one sync for as many as fit into a file.
    fn write_letters(&mut self) -> Option<()> {
        let letters = std::mem::take(&mut self.letters).into_iter();
        let (own, others): (Vec<_>, Vec<_>) = letters.partition(|(_, letter)| letter.is_own);
        let file = self.paths.dead_letters.clone();
        let others_file = dead_letter::path_for_others(&file);
        for (file, letters) in [(file, own), (others_file, others)] {
            let (keys, letters): (Vec<_>, Vec<_>) = letters.into_iter().unzip();
            let mut rest = &letters[..];
            while !rest.is_empty() {
                let count = self.retry(|_| dead_letter::append(&file, rest))?;
                rest = &rest[count..];
            }
            for (key, letter) in keys.into_iter().zip(letters) {
                let event = DiskEvent::DeadLetterWritten(key, letter.error);
                self.events.blocking_send(event).ok()?;
            }
        }
        Some(())
    }

    fn spill(&mut self, text: &LongText) -> Spilled {
        self.texts.spill(&text.envelope, text.pointer)
    }

    fn with_seen_log<T>(&mut self, work: impl Fn(&mut SeenLog) -> std::io::Result<T>) -> Option<T> {
        self.retry(|worker| {
            let mut log = match worker.seen.take() {
                Some(log) => log,
                None => SeenLog::open(&worker.paths.sessions, &worker.paths.queue)?,
            };
            let result = work(&mut log)?;
            worker.seen = Some(log);
            Ok(result)
        })
    }

    /// Repeats `work` until it succeeds. Returns `None` if the session ended before that.
    fn retry<T>(&mut self, work: impl Fn(&mut Self) -> std::io::Result<T>) -> Option<T> {
        loop {
            match work(self) {
                Ok(result) => return Some(result),
                Err(error) => {
                    self.events
                        .blocking_send(DiskEvent::Failed(error.to_string()))
                        .ok()?;
                    thread::sleep(AGAIN);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! A thread for the session's file writes, so that its event loop never blocks on the disk.
//!
//! Jobs run in the order in which they are submitted. A job whose result the session needs is
//! answered with a [`DiskEvent`] once its data is on disk. A failing disk is retried every second:
//! until its intent is written no message is handed over, and until its dead letter is written no
//! message is rejected.
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

/// Capacity of the job queue: more jobs than the session's prefetch can cause at once.
const JOBS: usize = 4096;
/// Number of queued jobs above which history and hops are not written: a failing disk must not
/// block the session.
const JOBS_BEFORE_DROPPING: usize = JOBS / 2;
const AGAIN: Duration = Duration::from_secs(1);

/// A job for the thread. Messages are named by the identities that the seen log stores.
#[derive(Debug)]
pub(super) enum Job {
    /// Look up a message in the seen log.
    LookUp(MessageKey, String),
    /// Write the intent to hand these messages over.
    WriteIntents(Vec<String>),
    /// Withdraw the intents of these messages, which were not handed over.
    WithdrawIntents(Vec<String>),
    /// Write that these messages are in the model's context.
    WriteDone(Vec<(MessageKey, String)>),
    /// Write a dead letter.
    WriteDeadLetter {
        /// The key of the delivery.
        key: MessageKey,
        /// Why it is a dead letter.
        error: String,
        /// The beginning of its body.
        body: DeadBody,
        /// Whether the session's own user published it.
        is_own: bool,
    },
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

/// The result of a job.
#[derive(Debug)]
pub(super) enum DiskEvent {
    /// What the seen log says of a message.
    LookedUp(MessageKey, Seen),
    /// The intents are written.
    IntentsWritten,
    /// These messages are written as done.
    DoneWritten(Vec<MessageKey>),
    /// The dead letter is written: its key and the reason.
    DeadLetterWritten(MessageKey, String),
    /// A write failed and will be retried; the error is for the log.
    Failed(String),
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
    /// The file with the hop count of the message that is being answered.
    pub hops: PathBuf,
    /// The message history.
    pub history: MessageHistory,
}

/// Handle to the thread.
#[derive(Debug)]
pub(super) struct Disk {
    jobs: Option<mpsc::SyncSender<Job>>,
    waiting: Arc<AtomicUsize>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Disk {
    /// Starts the thread. The receiver yields the results.
    pub(super) fn start(
        paths: DiskPaths,
    ) -> std::io::Result<(Self, tokio::sync::mpsc::Receiver<DiskEvent>)> {
        let (jobs, todo) = mpsc::sync_channel(JOBS);
        let (events, out) = tokio::sync::mpsc::channel(JOBS);
        let waiting = Arc::new(AtomicUsize::new(0));
        let left = Arc::clone(&waiting);
        let thread = thread::Builder::new()
            .name("disk".into())
            .stack_size(256 * 1024)
            .spawn(move || {
                let mut worker = Worker {
                    paths,
                    seen: None,
                    events,
                };
                while let Ok(job) = todo.recv() {
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

    /// Submits a job. Blocks only if the disk has failed for thousands of messages.
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

impl Drop for Disk {
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
    events: tokio::sync::mpsc::Sender<DiskEvent>,
}

impl Worker {
    /// Runs a job. Returns `None` if the session ended while the disk was failing.
    fn work(&mut self, job: Job) -> Option<()> {
        let event = match job {
            Job::LookUp(key, id) => {
                DiskEvent::LookedUp(key, self.with_seen_log(|log| log.look_up(&id))?)
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
            Job::WriteDeadLetter {
                key,
                error,
                body,
                is_own,
            } => {
                let own = &self.paths.dead_letters;
                let path = if is_own {
                    own.clone()
                } else {
                    dead_letter::path_for_others(own)
                };
                self.retry_until_written(|_| {
                    dead_letter::append(&path, &timestamp(Utc::now()), &error, &body)
                })?;
                DiskEvent::DeadLetterWritten(key, error)
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
        self.events.blocking_send(event).ok()
    }

    fn with_seen_log<T>(&mut self, work: impl Fn(&mut SeenLog) -> std::io::Result<T>) -> Option<T> {
        self.retry_until_written(|worker| {
            let mut log = match worker.seen.take() {
                Some(log) => log,
                None => SeenLog::open(&worker.paths.sessions, &worker.paths.queue)?,
            };
            let result = work(&mut log)?;
            worker.seen = Some(log);
            Ok(result)
        })
    }

    fn retry_until_written<T>(
        &mut self,
        work: impl Fn(&mut Self) -> std::io::Result<T>,
    ) -> Option<T> {
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

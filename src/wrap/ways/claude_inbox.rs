//! The way in by Claude Code's inbox socket. Messages appear as requests of a teammate, without
//! keys, also between two tools of a running turn and after the person pressed Escape.
//!
//! The socket sends no answers. The [`transcript`](super::transcript) shows what happened to a
//! text: first a row that something was accepted (it is in Claude Code's memory then, and may wait
//! for as long as a dialog is open), later a row that the model has it. If neither appears within
//! five seconds, the text was dropped, held back or refused, and the next way in is tried. The
//! first row does not name the accepted text, so a text also counts as dropped if nothing accepted
//! is waiting any more and its own row has not appeared.
//!
//! The environment of the agent's hooks holds the socket's path. The path changes when the session
//! moves to another process (the agents view, `--resume`); the old socket still accepts lines and
//! silently loses them. Seen with Claude Code 2.1.332; older versions have no inbox socket.

mod line;
mod writer;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::proof::Proof;
use super::transcript::MessageStage;
use super::{
    HookOrigin, Refusal, Submission, SubmissionNumber, Way, WayIn, WayReport, WayReporter, process,
};
use line::{InboxPace, LINE_LIMIT};
use writer::AllowedWriter;

pub use writer::{HookWriter, InboxWrite, WRITE_TIMEOUT, WriteResult};

/// Time limit for the first row about a text. Measured: 0.1 s, and more than 2 s on a busy machine.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(5);
/// Time limit for the row of a text that the old process had accepted before the session moved.
const MOVED_WITHIN: Duration = Duration::from_secs(3);
/// Maximum delay between the first hook of a process and its waiting hook.
const HOOK_WRITER_WITHIN: Duration = Duration::from_secs(3);
/// Interval between reads of the transcript after a text was sent.
const CHECK_SOON: Duration = Duration::from_millis(10);
/// Interval between reads while an accepted text waits for a turn or a dialog.
const CHECK_LATER: Duration = Duration::from_millis(100);
/// Capacity of the queue of texts. The deliveries hand over one at a time.
const CAPACITY: usize = 4;
/// Why the way is closed.
const NO_SOCKET: &str = "this Claude Code names no inbox socket";
const NO_LISTENER: &str = "nobody listens on the inbox socket";
const NO_HOOK: &str =
    "the session may bypass permissions, and no waiting hook can write to its inbox";

/// The address of an inbox socket, from a hook's environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxAddress {
    /// The path of the socket.
    pub socket: PathBuf,
    /// The token to send first, if any.
    pub token: Option<String>,
    /// The process that listens, if known.
    pub pid: Option<i32>,
}

impl InboxAddress {
    /// Builds an address from the values of a hook's environment variables.
    pub fn new(socket: &str, token: &str, pid: &str) -> Option<Self> {
        let socket = PathBuf::from(socket);
        let named = socket.file_stem().and_then(|stem| stem.to_str());
        let named = named.and_then(|stem| stem.parse().ok());
        socket.is_absolute().then(|| Self {
            token: (!token.is_empty()).then(|| token.to_owned()),
            pid: pid.parse().ok().or(named),
            socket,
        })
    }

    fn is_alive(&self) -> bool {
        self.pid.is_none_or(process::is_alive)
    }
}

/// The handle of this way in. Dropping it ends its task.
#[derive(Debug)]
pub struct ClaudeInbox {
    texts: mpsc::Sender<Submission>,
    origin: watch::Sender<Option<HookOrigin>>,
    hook_writer: watch::Sender<Option<HookWriter>>,
    moved: watch::Sender<Option<i32>>,
    task: tokio::task::JoinHandle<()>,
}

impl ClaudeInbox {
    /// Starts the task. The way opens once a hook names a socket.
    pub fn start(reporter: WayReporter) -> Self {
        let (texts, given) = mpsc::channel(CAPACITY);
        let (origin, origin_out) = watch::channel(None);
        let (hook_writer, hook_writers) = watch::channel(None);
        let (moved, session_pid) = watch::channel(None);
        let work = Work {
            origin: origin_out,
            hook_writers,
            session_pid,
            hook_writer_expected_until: Some(Instant::now()),
            bypasses_permissions: true,
            address: None,
            is_open: None,
            pace: InboxPace::default(),
            proof: Proof::default(),
            in_flight: None,
            reporter,
        };
        let task = tokio::spawn(work.run(given));
        Self {
            texts,
            origin,
            hook_writer,
            moved,
            task,
        }
    }
}

impl WayIn for ClaudeInbox {
    fn way(&self) -> Way {
        Way::Inbox
    }

    fn can_steer(&self) -> bool {
        true
    }

    fn hook_ran(&self, origin: &HookOrigin) {
        self.origin.send_replace(Some(origin.clone()));
    }

    fn moved(&self, pid: i32) {
        self.moved.send_replace(Some(pid));
    }

    fn hook_waits(&self, hook_writer: HookWriter) {
        self.hook_writer.send_replace(Some(hook_writer));
    }

    fn deliver(&self, submission: Submission) -> bool {
        self.texts.try_send(submission).is_ok()
    }
}

impl Drop for ClaudeInbox {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A text that was handed over.
#[derive(Debug)]
struct InFlight {
    submission: Submission,
    stage: Progress,
}

#[derive(Debug)]
enum Progress {
    /// It waits until this time: Claude Code would drop it now, or a waiting hook is expected.
    Waiting(Instant),
    /// It was written to this socket at this time.
    Sent(InboxAddress, Instant),
    /// This process accepted something, according to the transcript. The time is when nothing that
    /// it accepted was waiting any more.
    Accepted(InboxAddress, Option<Instant>),
    /// The session left the process that accepted it, at this time.
    Left(Instant),
}

struct Work {
    origin: watch::Receiver<Option<HookOrigin>>,
    hook_writers: watch::Receiver<Option<HookWriter>>,
    /// The process that the session moved to.
    session_pid: watch::Receiver<Option<i32>>,
    /// Until when a waiting hook of this process is expected; `None` once it has arrived.
    hook_writer_expected_until: Option<Instant>,
    /// The session bypasses permissions, so only a waiting hook may write: Claude Code holds lines
    /// of other processes behind a dialog. Assumed until a hook reports the permission mode.
    bypasses_permissions: bool,
    address: Option<InboxAddress>,
    /// What was last reported; `None` before the first report.
    is_open: Option<bool>,
    pace: InboxPace,
    proof: Proof,
    in_flight: Option<InFlight>,
    reporter: WayReporter,
}

impl Work {
    async fn run(mut self, mut texts: mpsc::Receiver<Submission>) {
        loop {
            let due = self.next_check();
            tokio::select! {
                biased;
                changed = self.origin.changed() => match changed {
                    Ok(()) => self.handle_hook_origin().await,
                    Err(_) => return,
                },
                Ok(()) = self.session_pid.changed() => self.handle_move().await,
                Ok(()) = self.hook_writers.changed() => self.handle_hook_writer().await,
                text = texts.recv(), if self.in_flight.is_none() => match text {
                    Some(text) => self.accept(text),
                    None => return,
                },
                () = process::sleep_until(due), if due.is_some() => {
                    self.send_or_check().await;
                }
            }
        }
    }

    async fn report(&self, report: WayReport) {
        let _session_ended = self.reporter.send(report).await;
    }

    /// A hook ran: takes the session's socket and transcript from it.
    async fn handle_hook_origin(&mut self) {
        let Some(origin) = self.origin.borrow_and_update().clone() else {
            return;
        };
        if let Some(transcript) = &origin.transcript {
            self.proof.follow(transcript);
        }
        self.bypasses_permissions = origin
            .bypasses_permissions
            .unwrap_or(self.bypasses_permissions);
        if origin.inbox != self.address || self.is_open != Some(true) {
            if origin.inbox != self.address {
                self.pace = InboxPace::default();
                self.hook_writer_expected_until = Some(Instant::now() + HOOK_WRITER_WITHIN);
            }
            self.address = origin.inbox;
            self.probe().await;
        }
    }

    /// The session moved to another process, whose socket no hook has named yet. The old socket
    /// still accepts lines and loses them, so it is closed.
    async fn handle_move(&mut self) {
        let session_pid = *self.session_pid.borrow_and_update();
        let named = self.address.as_ref().and_then(|address| address.pid);
        if named.is_some() && named != session_pid {
            self.address = None;
            self.probe().await;
        }
    }

    async fn probe(&mut self) {
        let (is_open, why) = match &self.address {
            Some(_) if !self.has_writer() => (false, NO_HOOK),
            Some(address) => (writer::is_open(&address.socket).await, NO_LISTENER),
            None => (false, NO_SOCKET),
        };
        if self.is_open.replace(is_open) != Some(is_open) {
            self.report(if is_open {
                WayReport::Open
            } else {
                WayReport::Closed(why.to_owned())
            })
            .await;
        }
    }

    /// Whether an allowed process can write to the socket now, or is expected soon.
    fn has_writer(&self) -> bool {
        let is_expected = self
            .hook_writer_expected_until
            .is_some_and(|at| Instant::now() < at);
        let waits = || {
            self.hook_writers
                .borrow()
                .as_ref()
                .is_some_and(HookWriter::is_available)
        };
        !self.bypasses_permissions || is_expected || waits()
    }

    fn accept(&mut self, submission: Submission) {
        let at = self.earliest(&submission);
        self.in_flight = Some(InFlight {
            submission,
            stage: Progress::Waiting(at),
        });
    }

    /// When the text may be sent.
    fn earliest(&self, submission: &Submission) -> Instant {
        let now = Instant::now();
        let free = self.pace.earliest(&submission.text, now);
        self.hook_writer_expected_until
            .map_or(free, |until| free.max(until))
    }

    /// A waiting hook has arrived that can write lines.
    async fn handle_hook_writer(&mut self) {
        self.hook_writer_expected_until = None;
        if self.is_open == Some(false) {
            self.probe().await;
        }
        if let Some(InFlight { submission, stage }) = self.in_flight.take() {
            let stage = match stage {
                Progress::Waiting(_) => Progress::Waiting(self.earliest(&submission)),
                stage => stage,
            };
            self.in_flight = Some(InFlight { submission, stage });
        }
    }

    fn next_check(&self) -> Option<Instant> {
        let now = Instant::now();
        let in_flight = self.in_flight.as_ref()?;
        Some(match &in_flight.stage {
            Progress::Waiting(at) => *at,
            Progress::Sent(..) => now + CHECK_SOON,
            Progress::Accepted(..) | Progress::Left(_) => now + CHECK_LATER,
        })
    }

    async fn send_or_check(&mut self) {
        let Some(InFlight { submission, stage }) = self.in_flight.take() else {
            return;
        };
        match stage {
            Progress::Waiting(_) => self.send(submission).await,
            stage => self.check_texts(submission, stage).await,
        }
    }

    async fn send(&mut self, submission: Submission) {
        let transcript = self.transcript();
        let Some(address) = self.address.clone() else {
            return self.not_taken(submission.number, NO_SOCKET).await;
        };
        let line = line::lines(
            &submission.text,
            submission.timing,
            address.token.as_deref(),
        );
        if line.chars().count() > LINE_LIMIT {
            return self
                .not_taken(
                    submission.number,
                    "the text is too long for the inbox socket",
                )
                .await;
        }
        // The search must start before the agent has the text.
        self.proof.expect(
            submission.number,
            submission.ids.clone(),
            transcript.as_deref(),
        );
        let now = Instant::now();
        let hook_writer = self.hook_writers.borrow_and_update().clone();
        let allowed = if self.bypasses_permissions {
            AllowedWriter::Hook
        } else {
            AllowedWriter::Any
        };
        let result = writer::send(hook_writer, allowed, &address.socket, Bytes::from(line)).await;
        if result == WriteResult::NotWritten {
            self.proof.forget(submission.number);
            if self.bypasses_permissions && writer::is_open(&address.socket).await {
                return self.await_hook_writer(submission).await;
            }
            self.not_taken(submission.number, NO_LISTENER).await;
            return self.probe().await;
        }
        self.pace.sent(&submission.text, now);
        if result == WriteResult::Written {
            self.report(WayReport::HandedOver(submission.number)).await;
        }
        self.in_flight = Some(InFlight {
            submission,
            stage: Progress::Sent(address, Instant::now()),
        });
    }

    /// The waiting hook has ended. Waits once for another one; then the text is not taken.
    async fn await_hook_writer(&mut self, submission: Submission) {
        if self.hook_writer_expected_until.is_none() {
            self.hook_writer_expected_until = Some(Instant::now() + HOOK_WRITER_WITHIN);
            return self.accept(submission);
        }
        self.probe().await;
        let (number, why) = (submission.number, NO_HOOK.to_owned());
        let refusal = Refusal::Elsewhere;
        self.report(WayReport::NotTaken {
            number,
            why,
            refusal,
        })
        .await;
    }

    fn transcript(&self) -> Option<PathBuf> {
        let origin = self.origin.borrow();
        let transcript = origin.as_ref()?.transcript.as_deref();
        transcript.map(Path::to_owned)
    }

    async fn not_taken(&self, number: SubmissionNumber, why: &str) {
        let (why, refusal) = (why.to_owned(), Refusal::Failed);
        self.report(WayReport::NotTaken {
            number,
            why,
            refusal,
        })
        .await;
    }

    /// Looks for the text in the transcript, and checks the process that has it.
    async fn check_texts(&mut self, submission: Submission, stage: Progress) {
        let number = submission.number;
        let now = Instant::now();
        // Checked before the transcript is read, so that rows which the process wrote before its
        // end are found.
        let is_gone = match &stage {
            Progress::Waiting(_) => false,
            Progress::Sent(address, _) | Progress::Accepted(address, _) => !address.is_alive(),
            Progress::Left(since) => now >= *since + MOVED_WITHIN,
        };
        for (_, seen) in self.proof.read_new_rows().await {
            match seen {
                MessageStage::InContext => return self.report(WayReport::InContext(number)).await,
                MessageStage::Refused(why) => {
                    let refusal = Refusal::Refused;
                    return self
                        .report(WayReport::NotTaken {
                            number,
                            why,
                            refusal,
                        })
                        .await;
                }
                _ => {}
            }
        }
        if is_gone {
            return self.give_up(number, WayReport::Lost(number)).await;
        }
        let queue = self.proof.queue();
        let has_moved = |address: &InboxAddress| self.address.as_ref() != Some(address);
        let stage = match stage {
            Progress::Sent(address, _) if queue.has_accepted() => Progress::Accepted(address, None),
            Progress::Sent(address, at) if now >= at + ACCEPTED_WITHIN => {
                // The socket of a process that the session has left loses lines.
                let report = if has_moved(&address) {
                    WayReport::Lost(number)
                } else {
                    WayReport::Unseen(number)
                };
                return self.give_up(number, report).await;
            }
            Progress::Accepted(address, _) if has_moved(&address) => Progress::Left(now),
            // Something else was accepted, not this text.
            Progress::Accepted(_, Some(since)) if now >= since + ACCEPTED_WITHIN => {
                return self.give_up(number, WayReport::Unseen(number)).await;
            }
            Progress::Accepted(address, since) => {
                let since = queue.is_empty().then(|| since.unwrap_or(now));
                Progress::Accepted(address, since)
            }
            stage => stage,
        };
        self.in_flight = Some(InFlight { submission, stage });
    }

    async fn give_up(&mut self, number: SubmissionNumber, report: WayReport) {
        self.proof.forget(number);
        self.report(report).await;
    }
}

#[cfg(test)]
mod tests;

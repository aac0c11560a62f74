//! Claude Code's inbox socket: a teammate's request, without a key, also between two tools of a
//! running turn and after the person pressed Escape.
//!
//! The socket never answers. What it took shows in the [`transcript`](super::transcript): first
//! that something was accepted (it is in Claude Code's memory then, and may wait as long as a
//! dialog stands), later that the model has it. Nothing of either within five seconds means that it
//! was dropped, held back or refused, and the next way has its turn. The first row does not say
//! what was accepted; so where nothing waits any more and the text has not come, the same is true.
//!
//! Where the socket is, the agent's hooks say: their environment holds its path. It is another one
//! after each move to another process (the agents view, `--resume`), and the old socket goes on
//! accepting lines and loses them silently. Seen with Claude Code 2.1.332; older versions have no
//! inbox, and their hooks name none.

mod line;
mod porter;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::proof::Proof;
use super::transcript::Stage;
use super::{
    HookOrigin, Refusal, Submission, SubmissionNumber, Way, WayIn, WayReport, WayReporter, process,
};
use line::{InboxPace, LINE_LIMIT};
use porter::Writer;

pub use porter::{Errand, PATIENCE, Passed, Porter};

/// A text of which the transcript shows nothing within this was not taken: 0.1 s as measured, and
/// more than two seconds on a busy machine.
const SEEN_WITHIN: Duration = Duration::from_secs(5);
/// After its session moved to another process, what an old process had accepted shows within this.
const MOVED_WITHIN: Duration = Duration::from_secs(3);
/// A hook of a process that waits is heard of within this after the process's first hook.
const PORTER_WITHIN: Duration = Duration::from_secs(3);
/// How often the transcript is read for a text that was just sent.
const LOOK_SOON: Duration = Duration::from_millis(10);
/// And for one that waits behind a turn or a dialog.
const LOOK_LATER: Duration = Duration::from_millis(100);
/// Texts handed over at once. The deliveries hand over one.
const TEXTS: usize = 4;
/// Why the way is closed.
const NO_SOCKET: &str = "this Claude Code names no inbox socket";
const NOBODY: &str = "nobody listens on the inbox socket";
const NO_HOOK: &str =
    "it may ask for no permissions, and no hook waits that may write to its inbox";

/// An inbox socket, as a hook's environment names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxAddress {
    /// Its path.
    pub socket: PathBuf,
    /// What it may ask for.
    pub token: Option<String>,
    /// The process behind it.
    pub pid: Option<i32>,
}

impl InboxAddress {
    /// From the words of the environment.
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

/// The session's handle of this way. Its task ends when this is dropped.
#[derive(Debug)]
pub struct ClaudeInbox {
    texts: mpsc::Sender<Submission>,
    origin: watch::Sender<Option<HookOrigin>>,
    porter: watch::Sender<Option<Porter>>,
    moved: watch::Sender<Option<i32>>,
    task: tokio::task::JoinHandle<()>,
}

impl ClaudeInbox {
    /// Nothing is open before a hook names a socket.
    pub fn start(reporter: WayReporter) -> Self {
        let (texts, given) = mpsc::channel(TEXTS);
        let (origin, origin_out) = watch::channel(None);
        let (porter, porters) = watch::channel(None);
        let (moved, holder) = watch::channel(None);
        let work = Work {
            origin: origin_out,
            porters,
            holder,
            porter_until: Some(Instant::now()),
            asks_nothing: true,
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
            porter,
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

    fn hook_waits(&self, porter: Porter) {
        self.porter.send_replace(Some(porter));
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
    /// Claude Code would drop it now, or a hook that may write it is expected.
    Waiting(Instant),
    /// It was written to this socket at this time.
    Sent(InboxAddress, Instant),
    /// The transcript says that this process accepted something; and since when nothing of what
    /// it accepted waits any more.
    Accepted(InboxAddress, Option<Instant>),
    /// The session left the process that accepted it.
    Left(Instant),
}

struct Work {
    origin: watch::Receiver<Option<HookOrigin>>,
    porters: watch::Receiver<Option<Porter>>,
    /// The process that the session moved to.
    holder: watch::Receiver<Option<i32>>,
    /// Until then a hook of this process's that waits is expected; `None`: it is there.
    porter_until: Option<Instant>,
    /// Only such a hook may write: Claude Code holds what others write back behind a dialog, whose
    /// Enter denies it. So it is also before a hook says what permissions are asked for.
    asks_nothing: bool,
    address: Option<InboxAddress>,
    /// `None`: nothing was said yet.
    is_open: Option<bool>,
    pace: InboxPace,
    proof: Proof,
    in_flight: Option<InFlight>,
    reporter: WayReporter,
}

impl Work {
    async fn run(mut self, mut texts: mpsc::Receiver<Submission>) {
        loop {
            let due = self.next_look();
            tokio::select! {
                biased;
                changed = self.origin.changed() => match changed {
                    Ok(()) => self.follow().await,
                    Err(_) => return,
                },
                Ok(()) = self.holder.changed() => self.leave().await,
                Ok(()) = self.porters.changed() => self.have_porter().await,
                text = texts.recv(), if self.in_flight.is_none() => match text {
                    Some(text) => self.take(text),
                    None => return,
                },
                () = process::sleep_until(due), if due.is_some() => {
                    self.go_on().await;
                }
            }
        }
    }

    async fn report(&self, report: WayReport) {
        let _session_ended = self.reporter.send(report).await;
    }

    /// A hook ran: the session's socket and transcript are these now.
    async fn follow(&mut self) {
        let Some(origin) = self.origin.borrow_and_update().clone() else {
            return;
        };
        if let Some(transcript) = &origin.transcript {
            self.proof.follow(transcript);
        }
        self.asks_nothing = origin.asks_nothing.unwrap_or(self.asks_nothing);
        if origin.inbox != self.address || self.is_open != Some(true) {
            if origin.inbox != self.address {
                self.pace = InboxPace::default();
                self.porter_until = Some(Instant::now() + PORTER_WITHIN);
            }
            self.address = origin.inbox;
            self.probe().await;
        }
    }

    /// The session moved to a process whose socket no hook has named yet. The old one takes lines
    /// all the same, and loses them.
    async fn leave(&mut self) {
        let holder = *self.holder.borrow_and_update();
        let named = self.address.as_ref().and_then(|address| address.pid);
        if named.is_some() && named != holder {
            self.address = None;
            self.probe().await;
        }
    }

    async fn probe(&mut self) {
        let (is_open, why) = match &self.address {
            Some(_) if !self.has_writer() => (false, NO_HOOK),
            Some(address) => (porter::is_open(&address.socket).await, NOBODY),
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

    /// A permitted process can write to the socket, or is expected to be able to soon.
    fn has_writer(&self) -> bool {
        let is_expected = self.porter_until.is_some_and(|at| Instant::now() < at);
        let waits = || self.porters.borrow().as_ref().is_some_and(Porter::waits);
        !self.asks_nothing || is_expected || waits()
    }

    fn take(&mut self, submission: Submission) {
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
        self.porter_until.map_or(free, |until| free.max(until))
    }

    /// A hook waits that can write the line.
    async fn have_porter(&mut self) {
        self.porter_until = None;
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

    fn next_look(&self) -> Option<Instant> {
        let now = Instant::now();
        let in_flight = self.in_flight.as_ref()?;
        Some(match &in_flight.stage {
            Progress::Waiting(at) => *at,
            Progress::Sent(..) => now + LOOK_SOON,
            Progress::Accepted(..) | Progress::Left(_) => now + LOOK_LATER,
        })
    }

    async fn go_on(&mut self) {
        let Some(InFlight { submission, stage }) = self.in_flight.take() else {
            return;
        };
        match stage {
            Progress::Waiting(_) => self.send(submission).await,
            stage => self.look(submission, stage).await,
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
        // Before the agent has it: what is written from now on counts.
        self.proof.expect(
            submission.number,
            submission.ids.clone(),
            transcript.as_deref(),
        );
        let now = Instant::now();
        let porter = self.porters.borrow_and_update().clone();
        let writer = if self.asks_nothing {
            Writer::Hook
        } else {
            Writer::Any
        };
        let passed = porter::send(porter, writer, &address.socket, Bytes::from(line)).await;
        if passed == Passed::NotSent {
            self.proof.forget(submission.number);
            if self.asks_nothing && porter::is_open(&address.socket).await {
                return self.expect_porter(submission).await;
            }
            self.not_taken(submission.number, NOBODY).await;
            return self.probe().await;
        }
        self.pace.sent(&submission.text, now);
        self.in_flight = Some(InFlight {
            submission,
            stage: Progress::Sent(address, Instant::now()),
        });
    }

    /// The hook that waited is gone: another one comes soon, or none.
    async fn expect_porter(&mut self, submission: Submission) {
        if self.porter_until.is_none() {
            self.porter_until = Some(Instant::now() + PORTER_WITHIN);
            return self.take(submission);
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

    /// Looks for the text in the transcript, and for the process that has it.
    async fn look(&mut self, submission: Submission, stage: Progress) {
        let number = submission.number;
        let now = Instant::now();
        // Before the transcript is read: what a process wrote before its end is found then.
        let is_gone = match &stage {
            Progress::Waiting(_) => false,
            Progress::Sent(address, _) | Progress::Accepted(address, _) => !address.is_alive(),
            Progress::Left(since) => now >= *since + MOVED_WITHIN,
        };
        for (_, seen) in self.proof.look().await {
            match seen {
                Stage::InContext => return self.report(WayReport::InContext(number)).await,
                Stage::Refused(why) => {
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
            Progress::Sent(address, at) if now >= at + SEEN_WITHIN => {
                // The socket of a process that the session has left loses what it gets.
                let report = if has_moved(&address) {
                    WayReport::Lost(number)
                } else {
                    WayReport::Unseen(number)
                };
                return self.give_up(number, report).await;
            }
            Progress::Accepted(address, _) if has_moved(&address) => Progress::Left(now),
            // Something else was accepted, and not this.
            Progress::Accepted(_, Some(since)) if now >= since + SEEN_WITHIN => {
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

//! Handle of a waiting hook, which delivers one text by exiting. Until then it writes lines to the
//! agent's inbox on request.
//!
//! Relies on the ways that use it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::HookReport;
use crate::wrap::hook;
use crate::wrap::ways::Submission;
use crate::wrap::ways::claude_hook::{Carried, Fate};
use crate::wrap::ways::claude_inbox::{Errand, PATIENCE, Passed, Porter};

/// Lines for the inbox that wait to be written. The inbox has one under way.
const ERRANDS: usize = 4;
/// A hook that wrote a line stays for so long: Claude Code asks the system whether the writer
/// descends from it when it reads the line, which may be seconds later.
const STAYS_AFTER_LINE: Duration = Duration::from_secs(30);

/// A hook that waits for a text.
#[derive(Debug)]
pub(in crate::wrap) struct Waiter {
    /// Its number in this session.
    pub(in crate::wrap) number: u64,
    /// The process whose hook it is, where that is known.
    pub(in crate::wrap) pid: Option<i32>,
    give: oneshot::Sender<Submission>,
    errands: mpsc::Sender<Errand>,
}

impl Waiter {
    /// Gives it a submission; [`HookReport::InContext`] follows once it stands in the transcript.
    /// `false`: it is gone.
    pub(in crate::wrap) fn give(self, submission: Submission) -> bool {
        self.give.send(submission).is_ok()
    }

    /// What writes lines to the agent's inbox for as long as this one waits.
    pub(in crate::wrap) fn porter(&self) -> Porter {
        Porter::new(&self.errands)
    }
}

/// A hook that waits, as it said.
#[derive(Debug)]
pub(super) struct Waits {
    pub(super) number: u64,
    pub(super) pid: Option<i32>,
    pub(super) transcript: Option<PathBuf>,
}

/// Serves a hook that waits, until it has a text or is gone.
pub(super) async fn wait(
    mut stream: UnixStream,
    Waits {
        number,
        pid,
        transcript,
    }: Waits,
    reports: mpsc::Sender<HookReport>,
) {
    let (give, mut given) = oneshot::channel();
    let (errands, mut waiting) = mpsc::channel(ERRANDS);
    let waiter = Waiter {
        number,
        pid,
        give,
        errands,
    };
    if reports.send(HookReport::Waiter(waiter)).await.is_err() {
        return;
    }
    let mut last_line = None;
    let submission = loop {
        let mut nothing = [0; 1];
        tokio::select! {
            // Once it is let go, it does no errand any more.
            biased;
            submission = &mut given => break submission,
            Some(errand) = waiting.recv() => {
                let passed = pass(&mut stream, &errand).await;
                if passed != Passed::NotSent {
                    last_line = Some(Instant::now());
                }
                let _nobody_waits_for_it = errand.done.send(passed);
            }
            // The client says nothing unasked; its silence ends when its process does.
            _ = stream.read(&mut nothing) => {
                let _session_ended = reports.send(HookReport::WaiterGone(number)).await;
                return;
            }
        }
    };
    // What is asked of it from here on, it cannot do.
    waiting.close();
    while let Some(errand) = waiting.recv().await {
        let _nobody_waits_for_it = errand.done.send(Passed::NotSent);
    }
    match submission {
        Ok(submission) => carry(stream, submission, transcript, reports).await,
        Err(_) => let_go(stream, last_line, reports).await,
    }
}

/// Nobody needs it any more. It ends, once what it wrote must have been read.
async fn let_go(
    mut stream: UnixStream,
    last_line: Option<Instant>,
    reports: mpsc::Sender<HookReport>,
) {
    if let Some(at) = last_line {
        tokio::select! {
            () = tokio::time::sleep_until(at + STAYS_AFTER_LINE) => {}
            () = reports.closed() => {}
        }
    }
    let _waiter_is_gone = stream.write_all(&[hook::GO]).await;
}

/// Hands it the submission, and reports what became of that.
async fn carry(
    mut stream: UnixStream,
    submission: Submission,
    transcript: Option<PathBuf>,
    reports: mpsc::Sender<HookReport>,
) {
    let number = submission.number;
    let carried = transcript.map(|path| Carried::expect(submission.ids, &path));
    let mut bytes = vec![hook::TAKE];
    bytes.extend_from_slice(submission.text.as_bytes());
    bytes.push(b'\n');
    let is_written = stream.write_all(&bytes).await.is_ok() && stream.shutdown().await.is_ok();
    let told = match carried {
        _ if !is_written => HookReport::NotTaken(number),
        Some(carried) => tokio::select! {
            fate = carried.fate() => match fate {
                Fate::InContext => HookReport::InContext(number),
                Fate::Refused(why) => HookReport::Refused(number, why),
                Fate::Unread => HookReport::Unread(number),
                Fate::Unseen => HookReport::Unseen(number),
            },
            () = reports.closed() => return,
        },
        None => HookReport::Unseen(number),
    };
    let _session_ended = reports.send(told).await;
}

/// Has a line written by the hook.
async fn pass(stream: &mut UnixStream, errand: &Errand) -> Passed {
    let passing = async {
        let socket = errand.socket.as_os_str().as_encoded_bytes();
        stream.write_u8(hook::PASS).await?;
        for part in [socket, &errand.line] {
            let length = u32::try_from(part.len()).map_err(io::Error::other)?;
            stream.write_u32(length).await?;
            stream.write_all(part).await?;
        }
        stream.read_u8().await
    };
    match tokio::time::timeout(2 * PATIENCE, passing).await {
        Ok(Ok(hook::PASSED)) => Passed::Sent,
        Ok(Ok(hook::NOT_PASSED)) => Passed::NotSent,
        _ => Passed::Unknown,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bytes::Bytes;

    use super::*;

    /// A waiter, the other end of its connection, and an errand for it.
    async fn waiter() -> (Waiter, UnixStream, mpsc::Receiver<HookReport>) {
        let (stream, hook) = UnixStream::pair().unwrap();
        let (reports, mut reported) = mpsc::channel(1);
        let waits = Waits {
            number: 1,
            pid: None,
            transcript: None,
        };
        tokio::spawn(wait(stream, waits, reports));
        let Some(HookReport::Waiter(waiter)) = reported.recv().await else {
            panic!("no waiter");
        };
        (waiter, hook, reported)
    }

    fn send_on_errand(waiter: &Waiter) -> oneshot::Receiver<Passed> {
        let (done, heard) = oneshot::channel();
        let (socket, line) = (PathBuf::from("/nobody"), Bytes::from_static(b"line"));
        let errand = Errand { socket, line, done };
        waiter.errands.try_send(errand).unwrap();
        heard
    }

    #[tokio::test]
    async fn an_errand_of_a_waiter_that_is_let_go_was_not_done() {
        // Whether its line was written counted as unknown, so the inbox waited five seconds for a
        // row, and the text came again as a possible repeat.
        let (waiter, _hook, _session) = waiter().await;
        let heard = send_on_errand(&waiter);
        drop(waiter);
        assert_eq!(heard.await.unwrap(), Passed::NotSent);
    }

    #[tokio::test]
    async fn a_hook_that_wrote_a_line_stays_until_its_reader_has_looked_for_it() {
        // The next hook came just then, and this one ended: Claude Code found no process of that
        // number among its children, and held the message back behind a dialog.
        let (waiter, mut client, session) = waiter().await;
        let heard = send_on_errand(&waiter);
        let mut order = [0; 1 + 4 + 7 + 4 + 4];
        client.read_exact(&mut order).await.unwrap();
        client.write_u8(hook::PASSED).await.unwrap();
        assert_eq!(heard.await.unwrap(), Passed::Sent);
        drop(waiter);
        let let_go = tokio::time::timeout(Duration::from_secs(2), client.read_u8()).await;
        assert!(let_go.is_err(), "{let_go:?}");
        // It ends with the session.
        drop(session);
        assert_eq!(client.read_u8().await.unwrap(), hook::GO);
    }
}

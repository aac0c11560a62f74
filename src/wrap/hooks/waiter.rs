//! The session's hold of a hook that waits: it carries one text in by ending, and until then writes
//! lines to the agent's inbox.
//!
//! Relies on the ways that use it.

use std::io;
use std::path::PathBuf;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use super::HookReport;
use crate::wrap::hook;
use crate::wrap::ways::Submission;
use crate::wrap::ways::claude_hook::{Carried, Fate};
use crate::wrap::ways::claude_inbox::{Errand, PATIENCE, Passed, Porter};

/// Lines for the inbox that wait to be written. The inbox has one under way.
const ERRANDS: usize = 4;

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
    let submission = loop {
        let mut nothing = [0; 1];
        tokio::select! {
            submission = &mut given => break submission,
            Some(errand) = waiting.recv() => {
                let passed = pass(&mut stream, &errand).await;
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
    drop(waiting);
    let Ok(submission) = submission else {
        let _waiter_is_gone = stream.write_all(&[hook::GO]).await;
        return;
    };
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

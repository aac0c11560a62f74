//! A waiting hook, which delivers one text by exiting. Until then it writes lines to the agent's
//! inbox socket on request.
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
use crate::wrap::ways::claude_hook::{HookDelivery, HookOutcome};
use crate::wrap::ways::claude_inbox::{HookWriter, InboxWrite, WRITE_TIMEOUT, WriteResult};

/// Capacity of the queue of inbox writes. The inbox way has at most one in flight.
const INBOX_WRITES: usize = 4;
/// How long a hook stays alive after it wrote a line: Claude Code checks whether the writer
/// descends from it when it reads the line, which may be seconds later.
const LIFETIME_AFTER_LINE: Duration = Duration::from_secs(30);

/// The handle of a waiting hook. Dropping it releases the hook.
#[derive(Debug)]
pub(in crate::wrap) struct Waiter {
    /// The number of its connection in this session.
    pub(in crate::wrap) number: u64,
    /// The agent's process that started it, if known.
    pub(in crate::wrap) pid: Option<i32>,
    give: oneshot::Sender<Submission>,
    writes: mpsc::Sender<InboxWrite>,
}

impl Waiter {
    /// Delivers a submission; a [`HookReport`] follows. Returns `false` if the hook has ended.
    pub(in crate::wrap) fn deliver(self, submission: Submission) -> bool {
        self.give.send(submission).is_ok()
    }

    /// A writer to the agent's inbox, which works while this hook waits.
    pub(in crate::wrap) fn hook_writer(&self) -> HookWriter {
        HookWriter::new(&self.writes)
    }
}

/// What a waiting hook reported when it connected.
#[derive(Debug)]
pub(super) struct WaitingHook {
    pub(super) number: u64,
    pub(super) pid: Option<i32>,
    pub(super) transcript: Option<PathBuf>,
}

/// Serves a waiting hook until it has delivered a text, was released, or has ended.
pub(super) async fn serve(
    mut stream: UnixStream,
    WaitingHook {
        number,
        pid,
        transcript,
    }: WaitingHook,
    reports: mpsc::Sender<HookReport>,
) {
    let (give, mut given) = oneshot::channel();
    let (writes, mut waiting) = mpsc::channel(INBOX_WRITES);
    let waiter = Waiter {
        number,
        pid,
        give,
        writes,
    };
    if reports.send(HookReport::Waiter(waiter)).await.is_err() {
        return;
    }
    let mut last_line = None;
    let submission = loop {
        let mut nothing = [0; 1];
        tokio::select! {
            // A hook that was released or has a text writes no more lines.
            biased;
            submission = &mut given => break submission,
            Some(write) = waiting.recv() => {
                let result = write_by_hook(&mut stream, &write).await;
                if result != WriteResult::NotWritten {
                    last_line = Some(Instant::now());
                }
                let _requester_is_gone = write.done.send(result);
            }
            // The hook sends nothing on its own, so a read returns only when its process ends.
            _ = stream.read(&mut nothing) => {
                let _session_ended = reports.send(HookReport::WaiterGone(number)).await;
                return;
            }
        }
    };
    // It can no longer write lines.
    waiting.close();
    while let Some(write) = waiting.recv().await {
        let _requester_is_gone = write.done.send(WriteResult::NotWritten);
    }
    match submission {
        Ok(submission) => {
            let delivery =
                transcript.map(|path| HookDelivery::expect(submission.ids.clone(), &path, pid));
            deliver(stream, submission, delivery, reports).await;
        }
        Err(_) => release(stream, last_line, reports).await,
    }
}

/// Ends the hook, once Claude Code must have read the lines that it wrote.
async fn release(
    mut stream: UnixStream,
    last_line: Option<Instant>,
    reports: mpsc::Sender<HookReport>,
) {
    if let Some(at) = last_line {
        tokio::select! {
            () = tokio::time::sleep_until(at + LIFETIME_AFTER_LINE) => {}
            () = reports.closed() => {}
        }
    }
    let _hook_is_gone = stream.write_all(&[hook::RELEASE]).await;
}

/// Hands it the submission, and reports the outcome.
async fn deliver(
    mut stream: UnixStream,
    submission: Submission,
    delivery: Option<HookDelivery>,
    reports: mpsc::Sender<HookReport>,
) {
    let number = submission.number;
    let mut bytes = vec![hook::DELIVER_TEXT];
    bytes.extend_from_slice(submission.text.as_bytes());
    bytes.push(b'\n');
    let is_written = stream.write_all(&bytes).await.is_ok() && stream.shutdown().await.is_ok();
    if is_written {
        let _session_ended = reports.send(HookReport::HandedOver(number)).await;
    }
    let report = match delivery {
        _ if !is_written => HookReport::NotTaken(number),
        Some(delivery) => tokio::select! {
            outcome = delivery.outcome() => match outcome {
                HookOutcome::InContext => HookReport::InContext(number),
                HookOutcome::Refused(why) => HookReport::Refused(number, why),
                HookOutcome::Unread => HookReport::Unread(number),
                HookOutcome::Unseen => HookReport::Unseen(number),
                HookOutcome::Lost => HookReport::Lost(number),
            },
            () = reports.closed() => return,
        },
        None => HookReport::Unseen(number),
    };
    let _session_ended = reports.send(report).await;
}

/// Has the hook write a line.
async fn write_by_hook(stream: &mut UnixStream, write: &InboxWrite) -> WriteResult {
    let writing = async {
        let socket = write.socket.as_os_str().as_encoded_bytes();
        stream.write_u8(hook::WRITE_LINE).await?;
        for part in [socket, &write.line] {
            let length = u32::try_from(part.len()).map_err(io::Error::other)?;
            stream.write_u32(length).await?;
            stream.write_all(part).await?;
        }
        stream.read_u8().await
    };
    match tokio::time::timeout(2 * WRITE_TIMEOUT, writing).await {
        Ok(Ok(hook::LINE_WRITTEN)) => WriteResult::Written,
        Ok(Ok(hook::LINE_NOT_WRITTEN)) => WriteResult::NotWritten,
        _ => WriteResult::Unknown,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bytes::Bytes;

    use super::*;

    /// A waiter, the other end of its connection, and its reports.
    async fn waiter() -> (Waiter, UnixStream, mpsc::Receiver<HookReport>) {
        let (stream, hook) = UnixStream::pair().unwrap();
        let (reports, mut reported) = mpsc::channel(1);
        let waits = WaitingHook {
            number: 1,
            pid: None,
            transcript: None,
        };
        tokio::spawn(serve(stream, waits, reports));
        let Some(HookReport::Waiter(waiter)) = reported.recv().await else {
            panic!("no waiter");
        };
        (waiter, hook, reported)
    }

    fn request_write(waiter: &Waiter) -> oneshot::Receiver<WriteResult> {
        let (done, heard) = oneshot::channel();
        let (socket, line) = (PathBuf::from("/nobody"), Bytes::from_static(b"line"));
        let write = InboxWrite { socket, line, done };
        waiter.writes.try_send(write).unwrap();
        heard
    }

    #[tokio::test]
    async fn a_line_for_a_released_waiter_is_not_written() {
        // Whether its line was written counted as unknown, so the inbox waited five seconds for a
        // row, and the text came again as a possible repeat.
        let (waiter, _hook, _session) = waiter().await;
        let result = request_write(&waiter);
        drop(waiter);
        assert_eq!(result.await.unwrap(), WriteResult::NotWritten);
    }

    #[tokio::test]
    async fn a_hook_that_wrote_a_line_lives_until_the_line_was_read() {
        // The next hook came just then, and this one ended: Claude Code found no process of that
        // number among its children, and held the message back behind a dialog.
        let (waiter, mut client, session) = waiter().await;
        let result = request_write(&waiter);
        let mut order = [0; 1 + 4 + 7 + 4 + 4];
        client.read_exact(&mut order).await.unwrap();
        client.write_u8(hook::LINE_WRITTEN).await.unwrap();
        assert_eq!(result.await.unwrap(), WriteResult::Written);
        drop(waiter);
        let release = tokio::time::timeout(Duration::from_secs(2), client.read_u8()).await;
        assert!(release.is_err(), "{release:?}");
        // It ends with the session.
        drop(session);
        assert_eq!(client.read_u8().await.unwrap(), hook::RELEASE);
    }
}

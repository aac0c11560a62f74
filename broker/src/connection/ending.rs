//! The end of a connection: how a reader that waits notices it, and how the bytes that the client
//! still sends are read and dropped. Depends on `registry`.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::watch;

use super::ReadBuffer;
use crate::channel::ConnectionContext;
use crate::fault::{Fault, ReplyCode};
use crate::memory::{self, RoomWanted};
use crate::registry::{ConnectionEnding, ConnectionHandle};
use crate::wire::frame::{self, ParsedFrame};
use crate::wire::method_id::MethodId;
use crate::wire::reply;

/// Larger than any `connection.close` or `close-ok`.
const ANSWER_BYTES: usize = 1024;

/// How long a client may take to answer `connection.close`.
pub(super) const CLOSING: Duration = Duration::from_secs(5);

/// How often a waiting reader checks again whether others need its memory.
const CHECK_ROOM_EVERY: Duration = Duration::from_millis(20);

/// Why a connection is no longer read.
pub(super) enum ReadEnd {
    /// The socket is closed, or is to be closed without a message.
    Gone,
    /// The client closed the connection. If `close-ok` is due, it is sent once everything that the
    /// connection held is released.
    Closed,
    /// The server closes the connection, and the client must be sent the reason.
    Refused(Fault, MethodId),
}

/// Watches for the end of a connection while its reader waits for something else.
pub(super) struct ConnectionWatch<'a> {
    pub(super) input: &'a mut ReadBuffer,
    pub(super) ending: &'a mut watch::Receiver<Option<ConnectionEnding>>,
    pub(super) connection: &'a ConnectionHandle,
}

impl ConnectionWatch<'_> {
    /// Waits for `until`, or for the connection's end: the server closes it, or the client is gone.
    pub(super) async fn or_end<T>(&mut self, until: impl Future<Output = T>) -> Result<T, ReadEnd> {
        self.connection.is_paused.store(true, Relaxed);
        let outcome = tokio::select! {
            biased;
            // The end comes first: otherwise a reader whose waits are always over at once would not
            // notice it.
            end = wait_for_end(self.ending) => Err(end),
            value = until => Ok(value),
            () = self.input.wait_until_gone(&self.connection.received) => Err(ReadEnd::Gone),
        };
        self.connection.is_paused.store(false, Relaxed);
        outcome
    }

    /// Waits until there is memory for a frame of `needed` bytes. Frees a buffer that is not in use
    /// while other connections wait for memory. Closes the connection if a large frame has not
    /// arrived whole for too long while others wait.
    pub(super) async fn wait_for_room(&mut self, needed: usize) -> Result<(), ReadEnd> {
        self.input.free_if_wanted();
        if !self.input.has_room_for(needed) {
            let _wanted = RoomWanted::new();
            while !self.input.has_room_for(needed) {
                self.or_end(tokio::time::sleep(CHECK_ROOM_EVERY)).await?;
            }
        }
        if memory::is_room_wanted() && self.input.is_late() {
            let reason = "a frame is not whole, and others need the memory for theirs";
            let fault = Fault::connection(ReplyCode::ResourceError, reason);
            return Err(ReadEnd::Refused(fault, MethodId::NONE));
        }
        Ok(())
    }
}

/// Waits until the server ends the connection. Returns how: with a fault that the client is sent,
/// or silently.
pub(super) async fn wait_for_end(
    ending: &mut watch::Receiver<Option<ConnectionEnding>>,
) -> ReadEnd {
    match ending.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(ConnectionEnding::Close(fault))) => ReadEnd::Refused(fault.clone(), MethodId::NONE),
        _ => ReadEnd::Gone,
    }
}

/// Reads and drops what the client sends after `close-ok`, until it closes the connection. A socket
/// that is closed with unread bytes is reset, and the reset can overtake our `close-ok` (amqplib
/// writes `close` ahead of queued publishes).
pub(super) async fn drop_input_until_closed(connection: &ConnectionHandle, input: &mut ReadBuffer) {
    connection.outbox.finish();
    input.free_buffer();
    let emptied = async {
        while matches!(input.fill(frame::OVERHEAD).await, Ok(count) if count > 0) {
            let count = input.unused_bytes().len();
            input.consume(count);
        }
    };
    // A client may neither write nor close.
    let _ = tokio::time::timeout(CLOSING, emptied).await;
}

/// Reads and drops frames until `connection.close-ok` or the end of the stream.
pub(super) async fn drop_frames_until_close_ok(
    context: &ConnectionContext,
    input: &mut ReadBuffer,
) {
    input.free_buffer();
    let mut needed = frame::OVERHEAD;
    // The rest of a frame that is too long to be `close-ok`.
    let mut skipped = 0;
    let mut is_answered = false;
    loop {
        if skipped > 0 {
            let count = skipped.min(input.unused_bytes().len());
            input.consume(count);
            skipped -= count;
        }
        match input.front(context.frame_max) {
            _ if skipped > 0 => needed = frame::OVERHEAD,
            Ok(ParsedFrame::Whole(front)) => {
                let id = (front.kind == frame::METHOD && front.channel == 0)
                    .then(|| MethodId::of(front.payload));
                let total = front.total();
                input.consume(total);
                match id {
                    Some(MethodId::CONNECTION_CLOSE_OK) => return,
                    // Only once: the replies to a client that does not read would pile up.
                    Some(MethodId::CONNECTION_CLOSE)
                        if !std::mem::replace(&mut is_answered, true) =>
                    {
                        context
                            .send(|out| reply::empty_method(out, 0, MethodId::CONNECTION_CLOSE_OK));
                    }
                    _ => {}
                }
                continue;
            }
            Ok(ParsedFrame::Partial { needed: more }) if more > ANSWER_BYTES => {
                skipped = more;
                continue;
            }
            Ok(ParsedFrame::Partial { needed: more }) => needed = more,
            // The stream is not frames any more: everything is dropped.
            Err(_) => {
                let count = input.unused_bytes().len();
                input.consume(count);
            }
        }
        if !matches!(input.fill(needed).await, Ok(count) if count > 0) {
            return;
        }
    }
}

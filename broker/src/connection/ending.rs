//! The end of a connection: what its reader watches for while it waits, and what is read and
//! dropped after the end. Depends on `registry`.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::watch;

use super::ReadBuffer;
use crate::channel::ConnectionContext;
use crate::fault::{Fault, ReplyCode};
use crate::memory::{self, RoomWanted};
use crate::registry::{ConnectionEnding, ConnectionHandle};
use crate::wire::frame::{self, ParsedFrame};
use crate::wire::method;
use crate::wire::reply;

/// More than a `connection.close` or its `close-ok` takes.
const ANSWER_BYTES: usize = 1024;

/// How long a client may take to answer `connection.close`.
pub(super) const CLOSING: Duration = Duration::from_secs(5);

/// How often a waiting reader checks again whether others need its memory.
const ROOM_LOOK: Duration = Duration::from_millis(20);

/// Why a connection is no longer read.
pub(super) enum ReadEnd {
    /// The socket is closed, or is to be closed without a message.
    Gone,
    /// The client closed the connection. If `close-ok` is due, it is sent once everything that the
    /// connection held is released.
    Closed,
    /// The server closes the connection, and the client must be sent the reason.
    Refused(Fault, (u16, u16)),
}

/// Watches for the end of a connection while its reader waits for something else.
pub(super) struct ConnectionWatch<'a> {
    pub(super) input: &'a mut ReadBuffer,
    pub(super) ending: &'a mut watch::Receiver<Option<ConnectionEnding>>,
    pub(super) connection: &'a ConnectionHandle,
}

impl ConnectionWatch<'_> {
    /// Waits for `until`, or for the connection's end: the server closes it, or the client is gone.
    pub(super) async fn wait<T>(&mut self, until: impl Future<Output = T>) -> Result<T, ReadEnd> {
        self.connection.is_paused.store(true, Relaxed);
        let outcome = tokio::select! {
            biased;
            // The end comes first: a reader whose waits are over at once must still see it.
            end = ended(self.ending) => Err(end),
            value = until => Ok(value),
            () = self.input.gone(&self.connection.received) => Err(ReadEnd::Gone),
        };
        self.connection.is_paused.store(false, Relaxed);
        outcome
    }

    /// Waits until there is room for a frame of `needed` bytes. Gives way to others who wait for
    /// it; refused where the frame has had its room for too long already.
    pub(super) async fn room_for(&mut self, needed: usize) -> Result<(), ReadEnd> {
        self.input.make_way();
        if !self.input.has_room_for(needed) {
            let _wanted = RoomWanted::new();
            while !self.input.has_room_for(needed) {
                self.wait(tokio::time::sleep(ROOM_LOOK)).await?;
            }
        }
        if memory::is_room_wanted() && self.input.is_late() {
            let reason = "a frame is not whole, and others need the memory for theirs";
            let fault = Fault::connection(ReplyCode::ResourceError, reason);
            return Err(ReadEnd::Refused(fault, (0, 0)));
        }
        Ok(())
    }
}

/// How the server ends the connection: with a fault that the client is sent, or silently.
pub(super) async fn ended(ending: &mut watch::Receiver<Option<ConnectionEnding>>) -> ReadEnd {
    match ending.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(ConnectionEnding::Close(fault))) => ReadEnd::Refused(fault.clone(), (0, 0)),
        _ => ReadEnd::Gone,
    }
}

/// After `close-ok` nothing more is sent, but what the client has already written is still read: a
/// socket that is closed with unread bytes is reset, and the reset can overtake our `close-ok`
/// (amqplib writes `close` ahead of queued publishes).
pub(super) async fn linger(connection: &ConnectionHandle, input: &mut ReadBuffer) {
    connection.outbox.finish();
    input.free_buffer();
    let emptied = async {
        while matches!(input.fill(frame::OVERHEAD).await, Ok(count) if count > 0) {
            let count = input.waiting().len();
            input.consume(count);
        }
    };
    // The limit for a client that neither writes nor closes.
    let _ = tokio::time::timeout(CLOSING, emptied).await;
}

/// Reads and drops until `connection.close-ok` or the end of the stream.
pub(super) async fn drain(context: &ConnectionContext, input: &mut ReadBuffer) {
    input.free_buffer();
    let mut needed = frame::OVERHEAD;
    // The rest of a frame that is too long to be `close-ok`.
    let mut skipped = 0;
    let mut is_answered = false;
    loop {
        if skipped > 0 {
            let count = skipped.min(input.waiting().len());
            input.consume(count);
            skipped -= count;
        }
        match input.front(context.frame_max) {
            _ if skipped > 0 => needed = frame::OVERHEAD,
            Ok(ParsedFrame::Whole(front)) => {
                let ids = (front.kind == frame::METHOD && front.channel == 0)
                    .then(|| method::ids(front.payload));
                let total = front.total();
                input.consume(total);
                match ids {
                    Some((10, 51)) => return,
                    // Once: for a client that reads nothing the replies would pile up.
                    Some((10, 50)) if !std::mem::replace(&mut is_answered, true) => {
                        context.send(|out| reply::bare(out, 0, 10, 51));
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
            // Frames cannot be told apart any more: everything is dropped.
            Err(_) => {
                let count = input.waiting().len();
                input.consume(count);
            }
        }
        if !matches!(input.fill(needed).await, Ok(count) if count > 0) {
            return;
        }
    }
}

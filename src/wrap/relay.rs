//! Relays bytes between the person's terminal and the program's, unchanged.
//!
//! Nothing is interpreted here. The owner of the relay sees all bytes and may insert its own.
//!
//! # Cost
//! One read and one write for each piece of output, and at most one piece in flight: a terminal
//! that accepts no output stops the program, as it would without the wrap. (A queue of 256 KiB was
//! filled by every flood of output: copying each byte once more, into newly allocated memory, cost
//! a tenth of the throughput.)
//!
//! Relies on tokio for readiness and on `rustix` for the calls.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Buffer size of one read; a pseudo-terminal returns at most 4 KiB.
const PIECE: usize = 64 * 1024;
/// Maximum number of input bytes that the program has not read; above it no more input is read.
const KEYS: usize = 256 * 1024;

/// An event of the relay.
#[derive(Debug)]
pub(super) enum RelayEvent {
    /// The program wrote output, which is already on its way to the terminal; see [`Relay::seen`].
    Output,
    /// The person's terminal sent these bytes, which have not been forwarded.
    Input(Vec<u8>),
    /// All bytes for the program have been written.
    Written,
    /// The program's side is closed and drained.
    ProgramClosed,
    /// The person's terminal is closed.
    TerminalClosed,
}

/// The three descriptors and the bytes pending for each.
#[derive(Debug)]
pub(super) struct Relay {
    input: Option<RelayDescriptor>,
    output: Option<RelayDescriptor>,
    master: RelayDescriptor,
    to_person: UnwrittenBytes,
    to_program: UnwrittenBytes,
    notifies_when_written: bool,
    piece: Vec<u8>,
    length: usize,
}

impl Relay {
    /// Creates a relay between these descriptors. A blocking descriptor costs one more system call
    /// for each read and write.
    pub(super) fn new(
        input: BorrowedFd<'_>,
        output: BorrowedFd<'_>,
        master: BorrowedFd<'_>,
    ) -> io::Result<Self> {
        Ok(Self {
            input: Some(watch(input, Interest::READABLE)?),
            output: Some(watch(output, Interest::WRITABLE)?),
            master: watch(master, Interest::READABLE | Interest::WRITABLE)?,
            to_person: UnwrittenBytes::default(),
            to_program: UnwrittenBytes::default(),
            notifies_when_written: false,
            piece: vec![0; PIECE],
            length: 0,
        })
    }

    /// The output of the last [`RelayEvent::Output`].
    pub(super) fn seen(&self) -> &[u8] {
        &self.piece[..self.length]
    }

    /// Whether the program has written output that is not in an event yet. An event with it follows
    /// as soon as the person's terminal takes what is pending for it.
    pub(super) fn has_unread_output(&self) -> bool {
        let mut polled = [PollFd::new(&self.master, PollFlags::IN)];
        rustix::event::poll(&mut polled, Some(&Timespec::default())).is_ok()
            && polled[0].revents().contains(PollFlags::IN)
    }

    /// Queues bytes for the program.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.to_program.push(bytes);
    }

    /// As [`Relay::send`]; [`RelayEvent::Written`] follows once all bytes have been written.
    pub(super) fn send_and_notify(&mut self, bytes: &[u8]) {
        self.send(bytes);
        self.notifies_when_written = true;
    }

    /// Queues bytes of the wrap for the person's terminal. Call it only between two escape
    /// sequences of the program.
    pub(super) fn show(&mut self, bytes: &[u8]) {
        self.to_person.push(bytes);
    }

    /// Stops reading the person's keys, and leaves them to the next reader of the terminal.
    pub(super) fn stop_reading_input(&mut self) {
        self.input = None;
    }

    /// Waits for the next event. Cancel safe.
    pub(super) async fn next(&mut self) -> RelayEvent {
        poll_fn(|context| self.poll(context)).await
    }

    /// Writes all pending output. Used at the end, when nothing else is relayed.
    pub(super) async fn drain(&mut self) {
        poll_fn(|context| {
            let Some(output) = &self.output else {
                return Poll::Ready(());
            };
            let _terminal_is_gone = ready!(self.to_person.poll_flush(output, context));
            Poll::Ready(())
        })
        .await;
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<RelayEvent> {
        if let Some(output) = &self.output
            && let Poll::Ready(Err(_)) = self.to_person.poll_flush(output, context)
        {
            self.output = None;
            self.to_person = UnwrittenBytes::default();
            return Poll::Ready(RelayEvent::TerminalClosed);
        }
        let flushed = self.to_program.poll_flush(&self.master, context);
        if flushed.is_ready() && self.notifies_when_written {
            self.notifies_when_written = false;
            return Poll::Ready(RelayEvent::Written);
        }
        // Keys first: a flood of output must not keep Ctrl-C away from the program.
        if let Poll::Ready(event) = self.poll_input(context) {
            return Poll::Ready(event);
        }
        self.poll_program(context)
    }

    fn poll_input(&mut self, context: &mut Context<'_>) -> Poll<RelayEvent> {
        if self.to_program.len() >= KEYS {
            return Poll::Pending;
        }
        let Some(input) = &self.input else {
            return Poll::Pending;
        };
        let mut bytes = [0; 4096];
        match ready!(poll_read(input, &mut bytes, context)) {
            Ok(count) if count > 0 => Poll::Ready(RelayEvent::Input(bytes[..count].to_vec())),
            _ => {
                self.input = None;
                Poll::Ready(RelayEvent::TerminalClosed)
            }
        }
    }

    fn poll_program(&mut self, context: &mut Context<'_>) -> Poll<RelayEvent> {
        if self.to_person.len() > 0 {
            return Poll::Pending;
        }
        self.length = 0;
        // One read: a second one at once would find nothing in most cases, and the wait for more
        // that follows costs two calls a piece. By the time this piece is written, the next is
        // often there.
        match ready!(poll_read(&self.master, &mut self.piece, context)) {
            Ok(count) if count > 0 => self.length = count,
            _ => return Poll::Ready(RelayEvent::ProgramClosed),
        }
        let Some(output) = &self.output else {
            return Poll::Ready(RelayEvent::Output);
        };
        // The next flush reports any error.
        let shown = if output.may_block {
            0
        } else {
            rustix::io::write(output, &self.piece[..self.length]).unwrap_or(0)
        };
        self.to_person.push(&self.piece[shown..self.length]);
        Poll::Ready(RelayEvent::Output)
    }
}

/// A descriptor and its readiness.
#[derive(Debug)]
struct RelayDescriptor {
    ready: AsyncFd<OwnedFd>,
    /// The open file is shared with programs that do not expect `O_NONBLOCK`, so a read or write
    /// may block.
    may_block: bool,
}

impl RelayDescriptor {
    /// Whether a read or write would block now.
    fn would_wait(&self, for_what: PollFlags) -> bool {
        let now = Timespec::default();
        self.may_block
            && rustix::event::poll(&mut [PollFd::new(self, for_what)], Some(&now)) == Ok(0)
    }
}

impl AsFd for RelayDescriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.get_ref().as_fd()
    }
}

#[expect(
    unsafe_code,
    reason = "tokio asks for the promise that a descriptor stays what it is"
)]
fn watch(descriptor: BorrowedFd<'_>, interest: Interest) -> io::Result<RelayDescriptor> {
    let own = descriptor.try_clone_to_owned()?;
    let may_block = !rustix::fs::fcntl_getfl(&own)?.contains(OFlags::NONBLOCK);
    // SAFETY: an `OwnedFd` always gives the same descriptor, and the `AsyncFd` that takes it keeps
    // it open until it has deregistered it; nothing here takes it out again.
    let ready =
        unsafe { AsyncFd::register_with_interest(own, interest) }.map_err(io::Error::from)?;
    Ok(RelayDescriptor { ready, may_block })
}

fn poll_read(
    from: &RelayDescriptor,
    into: &mut [u8],
    context: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    loop {
        let mut guard = ready!(from.ready.poll_read_ready(context))?;
        if from.would_wait(PollFlags::IN) {
            guard.clear_ready();
            continue;
        }
        match rustix::io::read(from, &mut *into) {
            Err(Errno::AGAIN) => guard.clear_ready(),
            Err(Errno::INTR) => {}
            other => return Poll::Ready(other.map_err(io::Error::from)),
        }
    }
}

/// Bytes that a descriptor has not taken yet.
#[derive(Debug, Default)]
struct UnwrittenBytes {
    bytes: Vec<u8>,
    sent: usize,
}

impl UnwrittenBytes {
    fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Ready once no bytes are pending.
    fn poll_flush(
        &mut self,
        to: &RelayDescriptor,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.sent < self.bytes.len() {
            let mut guard = ready!(to.ready.poll_write_ready(context))?;
            if to.would_wait(PollFlags::OUT) {
                guard.clear_ready();
                continue;
            }
            match rustix::io::write(to, &self.bytes[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        self.bytes.clear();
        self.bytes.shrink_to(PIECE);
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn output_is_unread_until_its_event_and_while_the_terminal_takes_none() {
        let (person, ours) = UnixStream::pair().unwrap();
        let (program, master) = UnixStream::pair().unwrap();
        for one in [&ours, &master, &program] {
            one.set_nonblocking(true).unwrap();
        }
        let mut relay = Relay::new(ours.as_fd(), ours.as_fd(), master.as_fd()).unwrap();
        assert!(!relay.has_unread_output());
        rustix::io::write(&program, b"shown").unwrap();
        assert!(relay.has_unread_output());
        assert!(matches!(relay.next().await, RelayEvent::Output));
        assert!(!relay.has_unread_output());
        // The person's terminal takes no more, so the program's output is not read.
        while rustix::io::write(&ours, &[0; 4096]).is_ok() {}
        rustix::io::write(&program, b"late").unwrap();
        assert!(matches!(relay.next().await, RelayEvent::Output));
        rustix::io::write(&program, b"r").unwrap();
        let nothing = tokio::time::timeout(Duration::from_millis(100), relay.next()).await;
        assert!(nothing.is_err(), "{nothing:?}");
        assert!(relay.has_unread_output());
        let mut sink = [0; 8192];
        person.set_nonblocking(true).unwrap();
        while rustix::io::read(&person, &mut sink).is_ok() {}
        assert!(matches!(relay.next().await, RelayEvent::Output));
        assert!(!relay.has_unread_output());
    }

    #[test]
    fn a_blocking_terminal_does_not_block_the_session() {
        // After `su` the terminal belongs to another user and is used as it was inherited:
        // blocking. After the first key the session waited for the next, and showed nothing
        // meanwhile.
        let (told, heard) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            told.send(runtime.block_on(a_key_and_output()))
        });
        let shown = heard.recv_timeout(Duration::from_mins(1)).unwrap();
        assert_eq!(shown, *b"shown");
    }

    async fn a_key_and_output() -> [u8; 5] {
        let (person, ours) = UnixStream::pair().unwrap();
        let (program, master) = UnixStream::pair().unwrap();
        master.set_nonblocking(true).unwrap();
        let mut relay = Relay::new(ours.as_fd(), ours.as_fd(), master.as_fd()).unwrap();
        rustix::io::write(&person, b"k").unwrap();
        assert!(matches!(relay.next().await, RelayEvent::Input(keys) if keys == b"k"));
        rustix::io::write(&program, b"shown").unwrap();
        assert!(matches!(relay.next().await, RelayEvent::Output));
        relay.drain().await;
        let mut shown = [0; 5];
        rustix::io::read(&person, &mut shown).unwrap();
        shown
    }
}

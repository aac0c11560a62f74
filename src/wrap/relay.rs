//! Bytes between the person's terminal and the program's, unchanged, as fast as the two take them.
//!
//! Nothing is interpreted here. The owner of the relay sees what passed and may insert bytes of its
//! own.
//!
//! # Cost
//! One read and one write a piece of output, and never more than one piece on its way: what a
//! terminal has not taken stops the program, as it would without us. (A queue of 256 KiB here was
//! filled by every flood: each byte was copied once more, into memory fresh from the system, which
//! took a tenth of the rate.)
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

/// Read at once; a pseudo-terminal gives at most 4 KiB a read.
const PIECE: usize = 64 * 1024;
/// Unread input bytes above which no more is sent.
const KEYS: usize = 256 * 1024;

/// What moved.
#[derive(Debug)]
pub(super) enum Moved {
    /// The program wrote; it was shown already and is given here to look at.
    Output,
    /// The person's terminal sent these bytes. They have not been passed on.
    Input(Vec<u8>),
    /// Everything that was to be written to the program is written.
    Written,
    /// The program's side is closed and empty.
    ProgramGone,
    /// The person's terminal is gone.
    PersonGone,
}

/// The three descriptors and what waits for each.
#[derive(Debug)]
pub(super) struct Relay {
    input: Option<Watched>,
    output: Option<Watched>,
    master: Watched,
    to_person: Pending,
    to_program: Pending,
    owes_notice: bool,
    piece: Vec<u8>,
    length: usize,
}

impl Relay {
    /// A relay between these. Each should be non-blocking; one that is not costs a call more for
    /// each read and write.
    pub(super) fn new(
        input: BorrowedFd<'_>,
        output: BorrowedFd<'_>,
        master: BorrowedFd<'_>,
    ) -> io::Result<Self> {
        Ok(Self {
            input: Some(watch(input, Interest::READABLE)?),
            output: Some(watch(output, Interest::WRITABLE)?),
            master: watch(master, Interest::READABLE | Interest::WRITABLE)?,
            to_person: Pending::default(),
            to_program: Pending::default(),
            owes_notice: false,
            piece: vec![0; PIECE],
            length: 0,
        })
    }

    /// The output that the last [`Moved::Output`] was about.
    pub(super) fn seen(&self) -> &[u8] {
        &self.piece[..self.length]
    }

    /// Writes to the program, in order, as it takes it.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.to_program.push(bytes);
    }

    /// As [`Relay::send`], and [`Moved::Written`] follows when all of it is out.
    pub(super) fn send_and_tell(&mut self, bytes: &[u8]) {
        self.send(bytes);
        self.owes_notice = true;
    }

    /// Shows bytes of our own to the person. Only between sequences of the program's.
    pub(super) fn show(&mut self, bytes: &[u8]) {
        self.to_person.push(bytes);
    }

    /// Leaves the person's keys from now on to the next reader of the terminal.
    pub(super) fn leave_keys(&mut self) {
        self.input = None;
    }

    /// The next movement. Safe to drop half-way in a select.
    pub(super) async fn next(&mut self) -> Moved {
        poll_fn(|context| self.poll(context)).await
    }

    /// Writes out what is still to be shown; at the very end, when nothing else is relayed.
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

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Moved> {
        if let Some(output) = &self.output
            && let Poll::Ready(Err(_)) = self.to_person.poll_flush(output, context)
        {
            self.output = None;
            self.to_person = Pending::default();
            return Poll::Ready(Moved::PersonGone);
        }
        let flushed = self.to_program.poll_flush(&self.master, context);
        if flushed.is_ready() && self.owes_notice {
            self.owes_notice = false;
            return Poll::Ready(Moved::Written);
        }
        // Keys first: a flood of output must not keep Ctrl-C away from the program.
        if let Poll::Ready(moved) = self.poll_input(context) {
            return Poll::Ready(moved);
        }
        self.poll_program(context)
    }

    fn poll_input(&mut self, context: &mut Context<'_>) -> Poll<Moved> {
        if self.to_program.len() >= KEYS {
            return Poll::Pending;
        }
        let Some(input) = &self.input else {
            return Poll::Pending;
        };
        let mut bytes = [0; 4096];
        match ready!(poll_read(input, &mut bytes, context)) {
            Ok(count) if count > 0 => Poll::Ready(Moved::Input(bytes[..count].to_vec())),
            _ => {
                self.input = None;
                Poll::Ready(Moved::PersonGone)
            }
        }
    }

    fn poll_program(&mut self, context: &mut Context<'_>) -> Poll<Moved> {
        if self.to_person.len() > 0 {
            return Poll::Pending;
        }
        self.length = 0;
        // One read: a second one at once would find nothing in most cases, and the wait for more
        // that follows costs two calls a piece. By the time this piece is written, the next is
        // often there.
        match ready!(poll_read(&self.master, &mut self.piece, context)) {
            Ok(count) if count > 0 => self.length = count,
            _ => return Poll::Ready(Moved::ProgramGone),
        }
        let Some(output) = &self.output else {
            return Poll::Ready(Moved::Output);
        };
        // Anything but a short write comes again at the next flush.
        let shown = if output.may_block {
            0
        } else {
            rustix::io::write(output, &self.piece[..self.length]).unwrap_or(0)
        };
        self.to_person.push(&self.piece[shown..self.length]);
        Poll::Ready(Moved::Output)
    }
}

/// A descriptor and what wakes us for it.
#[derive(Debug)]
struct Watched {
    ready: AsyncFd<OwnedFd>,
    /// It is shared with others who would not understand `O_NONBLOCK`, so a call with nothing to do
    /// would wait.
    may_block: bool,
}

impl Watched {
    /// Whether a call would find nothing to do, and wait.
    fn would_wait(&self, for_what: PollFlags) -> bool {
        let now = Timespec::default();
        self.may_block
            && rustix::event::poll(&mut [PollFd::new(self, for_what)], Some(&now)) == Ok(0)
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.get_ref().as_fd()
    }
}

#[expect(
    unsafe_code,
    reason = "tokio asks for the promise that a descriptor stays what it is"
)]
fn watch(descriptor: BorrowedFd<'_>, interest: Interest) -> io::Result<Watched> {
    let own = descriptor.try_clone_to_owned()?;
    let may_block = !rustix::fs::fcntl_getfl(&own)?.contains(OFlags::NONBLOCK);
    // SAFETY: an `OwnedFd` always gives the same descriptor, and the `AsyncFd` that takes it keeps
    // it open until it has deregistered it; nothing here takes it out again.
    let ready =
        unsafe { AsyncFd::register_with_interest(own, interest) }.map_err(io::Error::from)?;
    Ok(Watched { ready, may_block })
}

fn poll_read(
    from: &Watched,
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
struct Pending {
    bytes: Vec<u8>,
    sent: usize,
}

impl Pending {
    fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Ready when nothing waits.
    fn poll_flush(&mut self, to: &Watched, context: &mut Context<'_>) -> Poll<io::Result<()>> {
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

    #[test]
    fn a_terminal_that_cannot_be_opened_again_keeps_nobody_waiting() {
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
        assert!(matches!(relay.next().await, Moved::Input(keys) if keys == b"k"));
        rustix::io::write(&program, b"shown").unwrap();
        assert!(matches!(relay.next().await, Moved::Output));
        relay.drain().await;
        let mut shown = [0; 5];
        rustix::io::read(&person, &mut shown).unwrap();
        shown
    }
}

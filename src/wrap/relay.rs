//! Bytes between the person's terminal and the program's, unchanged, as fast as the two take them.
//!
//! Nothing is interpreted here. Whoever owns the relay sees what passed and may put bytes of its own in between.
//!
//! # Cost
//! One read and one write a piece of output, and never more than one piece on its way: what a terminal has not taken stops the
//! program, as it would without us. (A queue of 256 KiB here was filled by every flood: each byte was copied once more, into
//! memory fresh from the system, which took a tenth of the rate.)
//!
//! Relies on tokio for readiness and on `rustix` for the calls.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Read at once; a pseudo-terminal gives at most 4 KiB a read.
const PIECE: usize = 64 * 1024;
/// A program that has not taken so many keys yet is sent no more of them.
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
    input: Option<AsyncFd<OwnedFd>>,
    output: Option<AsyncFd<OwnedFd>>,
    master: AsyncFd<OwnedFd>,
    to_person: Pending,
    to_program: Pending,
    owes_notice: bool,
    piece: Vec<u8>,
    length: usize,
}

impl Relay {
    /// A relay between these; each is non-blocking.
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

    /// The next movement. Safe to drop half-way in a select.
    pub(super) async fn next(&mut self) -> Moved {
        poll_fn(|context| self.poll(context)).await
    }

    /// Writes out what is still to be shown; at the very end, when nobody else moves anything.
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
        // One read: a second one at once would find nothing in most cases, and the wait for more that follows costs two
        // calls a piece. By the time this piece is written, the next is often there.
        match ready!(poll_read(&self.master, &mut self.piece, context)) {
            Ok(count) if count > 0 => self.length = count,
            _ => return Poll::Ready(Moved::ProgramGone),
        }
        let Some(output) = &self.output else {
            return Poll::Ready(Moved::Output);
        };
        // Anything but a short write comes again at the next flush.
        let shown = rustix::io::write(output.get_ref(), &self.piece[..self.length]).unwrap_or(0);
        self.to_person.push(&self.piece[shown..self.length]);
        Poll::Ready(Moved::Output)
    }
}

#[expect(
    unsafe_code,
    reason = "tokio asks for the promise that a descriptor stays what it is"
)]
fn watch(descriptor: BorrowedFd<'_>, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    let own = descriptor.try_clone_to_owned()?;
    // SAFETY: an `OwnedFd` always gives the same descriptor, and the `AsyncFd` that takes it keeps it open until it
    // has deregistered it; nothing here takes it out again.
    unsafe { AsyncFd::register_with_interest(own, interest) }.map_err(io::Error::from)
}

fn poll_read(
    from: &AsyncFd<OwnedFd>,
    into: &mut [u8],
    context: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    loop {
        let mut guard = ready!(from.poll_read_ready(context))?;
        match rustix::io::read(from.get_ref(), &mut *into) {
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
    fn poll_flush(
        &mut self,
        to: &AsyncFd<OwnedFd>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.sent < self.bytes.len() {
            let mut guard = ready!(to.poll_write_ready(context))?;
            match rustix::io::write(to.get_ref().as_fd(), &self.bytes[self.sent..]) {
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

//! Mends frames that lapin cannot read, on their way in, or ends the connection.
//!
//! Brokers other than the embedded one pass on what publishers wrote: names that are not UTF-8,
//! tables that are nested thousands of levels deep, and header frames that are larger than
//! negotiated. Each makes lapin end the connection or run out of stack. The message would be
//! delivered again to the next connection, and the session would never receive the messages behind
//! it.
//!
//! So unreadable properties are removed as a whole: the body is delivered without a known
//! publisher. In a name or a text of a method that is not UTF-8, each byte that is not ASCII
//! becomes `?`, so it cannot be the name of a session or of an exchange of cbroker. RabbitMQ cuts
//! the text of a refusal at 252 bytes, maybe inside a character.
//!
//! Nothing can stand in for another method. One that lapin cannot read, or that could make it run
//! out of stack, and which no broker sends unless it wants to harm, ends the connection with an
//! [`UnreadableFrame`].

#[cfg(any(test, fuzzing))]
pub mod attempts;
#[cfg(test)]
mod frames_for_tests;
mod mend;
mod methods;
mod reader;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(super) use mend::FRAME_BYTES;
use mend::FrameMender;

/// The size of one read from the broker.
const READ_BYTES: usize = 16 * 1024;

/// A connection whose incoming frames lapin can read.
pub(super) struct ReadableFrames<S> {
    stream: S,
    mender: FrameMender,
    /// Mended bytes, those from `taken` on not read yet.
    mended: Vec<u8>,
    taken: usize,
    /// Why nothing behind the mended bytes is read.
    failed: Option<UnreadableFrame>,
}

/// Why a frame that a broker sent is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableFrame {
    /// It has so many bytes.
    #[error("it sent a frame of {0} bytes, and at most {FRAME_BYTES} were agreed")]
    TooLarge(usize),
    /// A method frame is too short for the numbers of a method.
    #[error("it sent a method frame without a method")]
    NoMethod,
    /// The fields of a method are wrong, or a table in them has too many levels.
    #[error("it sent method {class}.{number} in a form that cannot be read")]
    Malformed {
        /// The class of the method.
        class: u16,
        /// Its number in the class.
        number: u16,
    },
    /// The method is unknown, or one that only clients send.
    #[error("it sent method {class}.{number}, which no broker sends")]
    NotOfBrokers {
        /// The class of the method.
        class: u16,
        /// Its number in the class.
        number: u16,
    },
}

impl<S> ReadableFrames<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            mender: FrameMender::default(),
            mended: Vec::new(),
            taken: 0,
            failed: None,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadableFrames<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.taken == this.mended.len() {
            if let Some(why) = this.failed {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
            }
            this.mended.clear();
            this.taken = 0;
            let mut room = [0; READ_BYTES];
            let mut read = ReadBuf::new(&mut room);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            let mended = this.mender.mend(read.filled(), &mut this.mended);
            this.failed = mended.err();
        }
        let rest = &this.mended[this.taken..];
        let count = rest.len().min(into.remaining());
        into.put_slice(&rest[..count]);
        this.taken += count;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadableFrames<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests;

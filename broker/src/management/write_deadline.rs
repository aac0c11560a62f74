//! Ends connections whose client does not read: a response takes memory until it is read, so a
//! client that reads nothing would keep that for ever. Depends on nothing.
//!
//! While the socket takes no more, each span of [`SPAN`] has to see the client read [`ENOUGH`]
//! bytes, or all that was written. A single byte now and then is not enough.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How long the client has for [`ENOUGH`] bytes.
pub(super) const SPAN: Duration = Duration::from_mins(1);
/// The bytes that a reading client takes in a span even over a poor line.
const ENOUGH: usize = 1024 * 1024;

/// A stream whose writes fail where the client reads too little.
#[derive(Debug)]
pub(super) struct WriteDeadline<S> {
    stream: S,
    span: Duration,
    /// Present while the socket takes no more.
    backlog: Option<Backlog>,
}

/// What the client has not read yet.
#[derive(Debug)]
struct Backlog {
    /// The end of the span.
    end: Pin<Box<Sleep>>,
    /// Bytes that were read in it.
    taken: usize,
}

impl<S: Unpin> WriteDeadline<S> {
    pub(super) fn new(stream: S, span: Duration) -> Self {
        Self {
            stream,
            span,
            backlog: None,
        }
    }

    /// The socket takes no more now: fails where it has taken too little for a span.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let span = self.span;
        let backlog = self.backlog.get_or_insert_with(|| Backlog {
            end: Box::pin(tokio::time::sleep(span)),
            taken: 0,
        });
        while backlog.end.as_mut().poll(context).is_ready() {
            if backlog.taken < ENOUGH {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            backlog.taken = 0;
            backlog.end.as_mut().reset(Instant::now() + span);
        }
        Poll::Pending
    }

    fn taken(&mut self, bytes: usize) {
        if let Some(backlog) = &mut self.backlog {
            backlog.taken = backlog.taken.saturating_add(bytes);
        }
    }

    fn written(
        &mut self,
        written: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Pending => self.wait(context).map(Err),
            Poll::Ready(Ok(bytes)) => {
                self.taken(bytes);
                written
            }
            Poll::Ready(Err(_)) => written,
        }
    }

    /// The writer flushes when it has nothing more: then there is no backlog.
    fn emptied(
        &mut self,
        flushed: Poll<io::Result<()>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if flushed.is_pending() {
            return self.wait(context).map(Err);
        }
        self.backlog = None;
        flushed
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteDeadline<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteDeadline<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.written(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.emptied(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.emptied(shut, context)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// Long enough for a busy machine to hand over a hundred bytes.
    const SOON: Duration = Duration::from_millis(500);

    #[tokio::test]
    async fn a_client_that_reads_a_byte_now_and_then_is_given_up() {
        let (mut client, server) = duplex(64);
        let mut server = WriteDeadline::new(server, SOON);
        let reading = async {
            let mut byte = [0];
            while client.read_exact(&mut byte).await.is_ok() {
                tokio::time::sleep(SOON / 10).await;
            }
        };
        let writing = async {
            let error = server.write_all(&vec![0; ENOUGH]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            drop(server);
        };
        tokio::join!(reading, writing);
    }

    #[tokio::test]
    async fn a_client_that_has_read_everything_may_rest_as_long_as_it_likes() {
        let (mut client, server) = duplex(64);
        let mut server = WriteDeadline::new(server, SOON);
        for _ in 0..2 {
            let mut bytes = [0; 100];
            let (written, read) = tokio::join!(
                async {
                    server.write_all(&[1; 100]).await?;
                    server.flush().await
                },
                client.read_exact(&mut bytes)
            );
            assert!(written.is_ok() && read.is_ok());
            tokio::time::sleep(2 * SOON).await;
        }
    }
}

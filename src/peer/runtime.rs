//! The runtime for lapin: tokio's executor and timers, with any kind of connection in place of its
//! TCP streams.
//!
//! lapin's own one for tokio would lock the crates of two more runtimes and of a DNS resolver.

use std::future::Future;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_rs::Runtime;
use async_rs::traits::{Executor, Reactor, RuntimeKit};
use async_rs::util::{Task, TaskImpl};
use futures_util::Stream as Items;
use futures_util::io::{AsyncRead, AsyncWrite};
use futures_util::stream::unfold;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use crate::transport::Stream;

/// The tokio runtime for lapin, with streams that were opened elsewhere.
#[derive(Debug, Clone)]
pub struct TokioRuntime(Handle);

/// The runtime that this code runs in.
pub fn current() -> Runtime<TokioRuntime> {
    Runtime::new(TokioRuntime(Handle::current()))
}

impl RuntimeKit for TokioRuntime {}

impl Executor for TokioRuntime {
    type Task<T: Send + 'static> = SpawnedTask<T>;

    fn block_on<T, F: Future<Output = T>>(&self, f: F) -> T {
        self.0.block_on(f)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        f: F,
    ) -> Task<Self::Task<T>> {
        SpawnedTask(self.0.spawn(f)).into()
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        f: F,
    ) -> Task<Self::Task<T>> {
        SpawnedTask(self.0.spawn_blocking(f)).into()
    }
}

/// A task of the executor. It goes on when this is dropped.
#[derive(Debug)]
pub struct SpawnedTask<T>(JoinHandle<T>);

impl<T: Send + 'static> Future for SpawnedTask<T> {
    type Output = T;

    /// A panic of the task goes on here, as `async_rs` asks for; so does its cancellation.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        Pin::new(&mut self.0).poll(context).map(|ended| {
            ended.unwrap_or_else(|error| {
                resume_unwind(
                    error
                        .try_into_panic()
                        .unwrap_or_else(|error| Box::new(error)),
                )
            })
        })
    }
}

impl<T: Send + 'static> TaskImpl for SpawnedTask<T> {
    fn cancel<'task, 'end>(
        &'task mut self,
    ) -> Pin<Box<dyn Future<Output = Option<T>> + Send + 'end>>
    where
        'task: 'end,
        Self: 'end,
    {
        self.0.abort();
        Box::pin(async { (&mut self.0).await.ok() })
    }
}

impl Reactor for TokioRuntime {
    type TcpStream = Compat<Stream>;
    type Sleep = tokio::time::Sleep;

    /// lapin registers no sockets of its own.
    fn register<H: Read + Write + Send + 'static>(
        &self,
        _socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Compat<Stream>, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, dur: Duration) -> Self::Sleep {
        let _entered = self.0.enter();
        tokio::time::sleep(dur)
    }

    fn interval(&self, dur: Duration) -> impl Items<Item = Instant> + Send + 'static {
        let _entered = self.0.enter();
        unfold(tokio::time::interval(dur), async |mut interval| {
            let at = interval.tick().await;
            Some((at.into_std(), interval))
        })
    }

    fn tcp_connect_addr(
        &self,
        addr: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = tokio::net::TcpStream::connect(addr);
        async move {
            let stream = connecting.await?;
            stream.set_nodelay(true)?;
            let stream: Stream = Box::new(stream);
            Ok(stream.compat())
        }
    }
}

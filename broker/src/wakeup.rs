//! A wakeup of one task from a thread outside the runtime, through a pipe. Depends on nothing.
//!
//! Waking a task from outside with a waker wakes two of the runtime's threads: one runs the task,
//! the other looks for more work and finds none. On a machine with few processors, the second one
//! delays the client that waits for its confirm. The thread that polls the sockets finds what
//! arrives in a pipe, and no other thread wakes up.
//!
//! # Cost
//! One write and one read of a byte for each sleep of the task.

use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::unix::pipe;

/// The sending end.
#[derive(Debug)]
pub(crate) struct Waker {
    pipe: File,
    /// A wakeup is pending: its byte is in the pipe, or was read but not yet acknowledged.
    is_pending: AtomicBool,
}

/// The receiving end.
#[derive(Debug)]
pub(crate) struct Wakeup {
    pipe: pipe::Receiver,
}

/// Creates both ends. Must be called in a tokio runtime.
pub(crate) fn channel() -> io::Result<(Waker, Wakeup)> {
    let (sender, receiver) = pipe::pipe()?;
    let waker = Waker {
        pipe: File::from(sender.into_nonblocking_fd()?),
        is_pending: AtomicBool::new(false),
    };
    Ok((waker, Wakeup { pipe: receiver }))
}

impl Waker {
    /// Wakes the task unless a wakeup is pending. The woken task sees everything done before this
    /// call.
    pub(crate) fn wake(&self) {
        if !self.is_pending.swap(true, Ordering::AcqRel) {
            // At most one byte is in the pipe, so there is room. If the other end is closed, no
            // task waits.
            let _ = (&self.pipe).write(&[0]);
        }
    }
}

impl Wakeup {
    /// Waits for a wakeup from `waker`. An error means that none will come.
    pub(crate) async fn wait(&self, waker: &Waker) -> io::Result<()> {
        loop {
            self.pipe.readable().await?;
            match self.pipe.try_read(&mut [0]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        // A swap, not a store, so that it is ordered with the swap in `wake`: that call either
        // happened before and its work is seen, or happens after and sends another byte.
        waker.is_pending.swap(false, Ordering::AcqRel);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn work_done_before_a_wakeup_is_seen_however_fast_they_come() {
        const LAST: u64 = 200_000;
        let (waker, wakeup) = channel().unwrap();
        let shared = Arc::new((waker, AtomicU64::new(0)));
        let waking = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            for number in 1..=LAST {
                waking.1.store(number, Ordering::Release);
                waking.0.wake();
            }
        });
        let mut times = 0;
        let all = async {
            while shared.1.load(Ordering::Acquire) < LAST || times == 0 {
                wakeup.wait(&shared.0).await.unwrap();
                times += 1;
            }
        };
        tokio::time::timeout(Duration::from_mins(3), all)
            .await
            .unwrap();
        thread.join().unwrap();
        assert!(times <= LAST);
    }

    #[tokio::test]
    async fn wakeups_that_were_not_waited_for_are_one() {
        let (waker, wakeup) = channel().unwrap();
        (0..100_000).for_each(|_| waker.wake());
        wakeup.wait(&waker).await.unwrap();
        let again = tokio::time::timeout(Duration::from_millis(20), wakeup.wait(&waker)).await;
        assert!(again.is_err(), "there was one byte in the pipe");
        waker.wake();
        wakeup.wait(&waker).await.unwrap();
    }
}

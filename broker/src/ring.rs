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
pub(crate) struct Ring {
    pipe: File,
    /// A wakeup is pending: its byte is in the pipe, or was read but not yet acknowledged.
    is_rung: AtomicBool,
}

/// The receiving end.
#[derive(Debug)]
pub(crate) struct Ear {
    pipe: pipe::Receiver,
}

/// Creates both ends. Must be called in a tokio runtime.
pub(crate) fn ring() -> io::Result<(Ring, Ear)> {
    let (sender, receiver) = pipe::pipe()?;
    let ring = Ring {
        pipe: File::from(sender.into_nonblocking_fd()?),
        is_rung: AtomicBool::new(false),
    };
    Ok((ring, Ear { pipe: receiver }))
}

impl Ring {
    /// Wakes the task unless a wakeup is pending. The woken task sees everything done before this
    /// call.
    pub(crate) fn ring(&self) {
        if !self.is_rung.swap(true, Ordering::AcqRel) {
            // At most one byte is in the pipe, so there is room. If the other end is closed, no
            // task waits.
            let _ = (&self.pipe).write(&[0]);
        }
    }
}

impl Ear {
    /// Waits for a wakeup of `ring`. An error means that none will come.
    pub(crate) async fn heard(&self, ring: &Ring) -> io::Result<()> {
        loop {
            self.pipe.readable().await?;
            match self.pipe.try_read(&mut [0]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        // A swap, not a store, so that it is ordered with the swap in `ring`: that call either
        // happened before and its work is seen, or happens after and sends another byte.
        ring.is_rung.swap(false, Ordering::AcqRel);
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
    async fn whatever_was_done_before_a_ring_is_seen_however_fast_they_come() {
        const LAST: u64 = 200_000;
        let (ring, ear) = ring().unwrap();
        let shared = Arc::new((ring, AtomicU64::new(0)));
        let ringing = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            for number in 1..=LAST {
                ringing.1.store(number, Ordering::Release);
                ringing.0.ring();
            }
        });
        let mut times = 0;
        let all = async {
            while shared.1.load(Ordering::Acquire) < LAST || times == 0 {
                ear.heard(&shared.0).await.unwrap();
                times += 1;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), all)
            .await
            .unwrap();
        thread.join().unwrap();
        assert!(times <= LAST);
    }

    #[tokio::test]
    async fn rings_that_nobody_heard_are_one() {
        let (ring, ear) = ring().unwrap();
        (0..100_000).for_each(|_| ring.ring());
        ear.heard(&ring).await.unwrap();
        let again = tokio::time::timeout(Duration::from_millis(20), ear.heard(&ring)).await;
        assert!(again.is_err(), "there was one byte in the pipe");
        ring.ring();
        ear.heard(&ring).await.unwrap();
    }
}

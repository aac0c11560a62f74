//! Connections and queues opened and closed a second.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::Life;
use crate::peer::Peer;
use crate::wire::fault;

/// Connections (with a channel) opened and closed a second, by two clients at once.
pub(crate) fn connections(peer: &Peer, seconds: f64) -> io::Result<f64> {
    let limit = Duration::from_secs_f64(seconds);
    let began = Instant::now();
    let counts: Vec<io::Result<u32>> = thread::scope(|scope| {
        let repeat = || {
            let mut count = 0;
            while began.elapsed() < limit {
                peer.connect()?.close()?;
                count += 1;
            }
            Ok(count)
        };
        let threads = [scope.spawn(repeat), scope.spawn(repeat)];
        threads
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(fault("a load thread panicked")))
            })
            .into()
    });
    let elapsed = began.elapsed().as_secs_f64();
    let total = counts.into_iter().sum::<io::Result<u32>>()?;
    Ok(f64::from(total) / elapsed)
}

/// Durable queues declared and deleted a second, by one client that waits for each answer.
pub(crate) fn queues(peer: &Peer, seconds: f64) -> io::Result<f64> {
    let limit = Duration::from_secs_f64(seconds);
    let mut client = peer.connect()?;
    let began = Instant::now();
    let mut count = 0;
    while began.elapsed() < limit {
        let name = format!("churn{count}");
        client.declare(&name, Life::Durable)?;
        client.delete(&name)?;
        count += 1;
    }
    let rate = f64::from(count) / began.elapsed().as_secs_f64();
    client.close()?;
    Ok(rate)
}

//! How long a broker needs from its start to real service, with and without a backlog.
//!
//! Service is one confirmed publish, and one message delivered from the recovered queue where there
//! is one; a port that merely accepts does not count.

use std::io;
use std::time::Instant;

use crate::backlog::{Backlog, fill};
use crate::client::{Client, Life, Settling};
use crate::message::{Layout, Mode, STAMP};
use crate::peer::{End, Peer};
use crate::wire::method;

const WAITING: &str = "waiting";

/// Seconds from an empty start; the data is emptied first.
pub(crate) fn empty(peer: &Peer) -> io::Result<f64> {
    peer.start_fresh()?;
    peer.stop(End::Asked)?;
    serve(peer, None)
}

/// Seconds to restart with `backlog` waiting, after a clean stop and after a kill.
pub(crate) fn with_backlog(peer: &Peer, backlog: Backlog) -> io::Result<(f64, f64)> {
    peer.start_fresh()?;
    fill(peer, WAITING, backlog)?;
    peer.stop(End::Asked)?;
    let clean = serve(peer, Some(WAITING))?;
    peer.stop(End::Killed)?;
    let killed = serve(peer, Some(WAITING))?;
    Ok((clean, killed))
}

fn serve(peer: &Peer, recovered: Option<&str>) -> io::Result<f64> {
    let began = Instant::now();
    peer.start()?;
    let mut client = peer.wait_until_open()?;
    client.declare("probe", Life::Durable)?;
    client.confirm()?;
    let layout = Layout::new("", "probe", STAMP, Mode::Persistent, client.frame_max);
    client.write(&layout.bytes)?;
    client.wait(method::BASIC_ACK)?;
    if let Some(queue) = recovered {
        first_delivery(peer.connect()?, queue)?;
    }
    let elapsed = began.elapsed().as_secs_f64();
    client.delete("probe")?;
    client.close()?;
    Ok(elapsed)
}

fn first_delivery(mut client: Client, queue: &str) -> io::Result<()> {
    client.consume(
        queue,
        Settling::Every {
            deliveries: 1,
            prefetch: 1,
        },
    )?;
    client.wait(method::BASIC_DELIVER).map(drop)
}

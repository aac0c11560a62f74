//! The writing task: everything unsent in one go, then the queues that waited for room. Relies on `outbox`.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::WriteHalf;
use crate::outbox::{Frames, KEEP_BYTES, Taken};
use crate::queue::Queue;
use crate::realm::Realm;
use crate::registry::{Ending, Link};

/// After so long without a byte to send, large buffers are given back. A busy connection uses them again: memory that
/// comes and goes every turn costs more than the copies into it.
const QUIET: Duration = Duration::from_secs(1);

/// Sends until the outbox has ended or the peer takes nothing more.
pub(super) async fn run(realm: Arc<Realm>, link: Arc<Link>, mut stream: WriteHalf) {
    let mut ending = link.ending.subscribe();
    let cut = async move {
        // An error means that the link is gone, and nobody can cut it.
        let _ = ending.wait_for(|ending| *ending == Some(Ending::Cut)).await;
    };
    tokio::select! {
        outcome = send(&realm, &link, &mut stream) => {
            if let Err(error) = outcome {
                tracing::debug!(connection = %link.name, %error, "cannot be written to");
                link.cut();
            }
        }
        () = cut => {}
    }
    link.outbox.break_off();
}

async fn send(realm: &Arc<Realm>, link: &Arc<Link>, stream: &mut WriteHalf) -> std::io::Result<()> {
    let mut frames = Frames::default();
    loop {
        match link.outbox.take(&mut frames) {
            Taken::Frames => {
                stream.write_all_buf(&mut frames.sending()).await?;
                stream.flush().await?;
                link.sent.add_alone(frames.len() as u64);
                let waiting = link.outbox.sent(frames.len());
                frames.clear();
                if !waiting.is_empty() {
                    pump(realm, &waiting);
                }
            }
            Taken::Nothing => {
                if frames.capacity() <= KEEP_BYTES && !link.outbox.is_large() {
                    link.outbox.woken().await;
                } else if timeout(QUIET, link.outbox.woken()).await.is_err() {
                    frames = Frames::default();
                    link.outbox.rest();
                }
            }
            Taken::Ended => return stream.shutdown().await,
        }
    }
}

fn pump(realm: &Arc<Realm>, waiting: &[Weak<Queue>]) {
    let mut turn = realm.turn();
    for queue in waiting.iter().filter_map(Weak::upgrade) {
        if let Err(error) = queue.pump(&mut turn) {
            tracing::debug!(queue = %queue.name(), %error, "not handed out");
        }
    }
    realm.end(turn);
}

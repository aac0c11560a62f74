//! The writing task: everything unsent in one write, then the queues that waited for room. Relies on `outbox`.

use std::sync::{Arc, Weak};

use tokio::io::AsyncWriteExt;

use super::WriteHalf;
use crate::outbox::Taken;
use crate::queue::Queue;
use crate::realm::Realm;
use crate::registry::{Ending, Link};

/// A buffer that grew beyond this is given back when the connection is quiet.
const KEEP_BYTES: usize = 64 * 1024;

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
    let mut buffer = Vec::new();
    loop {
        match link.outbox.take(&mut buffer) {
            Taken::Bytes => {
                stream.write_all(&buffer).await?;
                stream.flush().await?;
                link.sent.add_alone(buffer.len() as u64);
                let waiting = link.outbox.sent(buffer.len());
                buffer.clear();
                if !waiting.is_empty() {
                    pump(realm, &waiting);
                }
            }
            Taken::Nothing => {
                if buffer.capacity() > KEEP_BYTES {
                    buffer = Vec::new();
                }
                link.outbox.woken().await;
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

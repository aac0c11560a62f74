//! The store through the real broker: bodies that look like its log, acks before a kill, a full
//! disk.

use std::path::{Path, PathBuf};

use lapin::options::QueueDeclareOptions;

use crate::raw::Raw;
use crate::real::Real;
use crate::running::{confirming, declare, durable, get, persistent, publish};

const BLOCK: usize = 4096;

/// Files of the log, wherever the data folder is.
fn log_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(log_files(&path));
        } else if path.extension().is_some_and(|ending| ending == "log")
            && path.parent().is_some_and(|folder| folder.ends_with("log"))
        {
            files.push(path);
        }
    }
    files
}

/// Blocks of the log that hold anything: headers of segments, snapshots, frames.
fn pieces(real: &Real) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    for path in log_files(real.place.path()) {
        let bytes = std::fs::read(path).unwrap();
        let blocks = bytes.chunks(BLOCK).take(64);
        pieces.extend(
            blocks
                .filter(|block| block.iter().any(|byte| *byte != 0))
                .map(<[u8]>::to_vec),
        );
    }
    pieces
}

fn names(real: &Real, path: &str) -> Vec<String> {
    let listed = real.server.api(&real.place, path);
    let listed = listed.as_array().unwrap().iter();
    let mut names: Vec<String> = listed
        .map(|entry| entry["name"].as_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_the_log_as_bodies_make_no_user_and_no_message_after_a_kill() {
    let mut real = Real::start();
    let channel = confirming(&real.connect().await).await;
    declare(&channel, "q", durable()).await;
    for number in 0..20_u8 {
        assert!(publish(&channel, "q", &[number; 40], persistent()).await);
    }
    let users = names(&real, "/api/users");
    let pieces = pieces(&real);
    assert!(pieces.len() > 3, "{} pieces of the log", pieces.len());
    let mut bodies: Vec<Vec<u8>> = (0..20_u8).map(|number| vec![number; 40]).collect();
    // A body begins a fixed distance behind the block of its frame, so these shifts make the copies
    // begin at every place around a block's start; all others are tried on the store itself.
    for shift in (0..8).chain(500..516).chain(3_900..4_096) {
        let piece = &pieces[shift % pieces.len()];
        let body = [&vec![b'x'; shift][..], piece, piece].concat();
        assert!(publish(&channel, "q", &body, persistent()).await);
        bodies.push(body);
    }
    for _ in 0..2 {
        real.kill_and_restart();
        assert_eq!(names(&real, "/api/users"), users);
        assert_eq!(names(&real, "/api/queues"), ["q"]);
    }
    let channel = confirming(&real.connect().await).await;
    for (number, body) in bodies.iter().enumerate() {
        let (found, ..) = get(&channel, "q", true).await.unwrap();
        assert!(found == *body, "message {number}");
    }
    assert!(get(&channel, "q", true).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn acks_of_large_bodies_outlive_a_kill_once_a_later_publish_is_confirmed() {
    const MESSAGES: u32 = 200;
    let mut real = Real::start();
    let channel = confirming(&real.connect().await).await;
    declare(&channel, "large", durable()).await;
    declare(&channel, "purged", durable()).await;
    declare(&channel, "other", durable()).await;
    for number in 0..MESSAGES {
        for queue in ["large", "purged"] {
            let body = [&number.to_be_bytes()[..], &vec![1; 20_000]].concat();
            assert!(publish(&channel, queue, &body, persistent()).await);
        }
    }
    for _ in 0..MESSAGES {
        assert!(get(&channel, "large", true).await.is_some());
    }
    let purged = channel
        .queue_purge(
            "purged".into(),
            lapin::options::QueuePurgeOptions::default(),
        )
        .await;
    assert_eq!(purged.unwrap(), MESSAGES);
    assert!(publish(&channel, "other", b"behind them", persistent()).await);
    real.kill_and_restart();
    let channel = confirming(&real.connect().await).await;
    for (queue, left) in [("large", 0), ("purged", 0), ("other", 1)] {
        let passive = QueueDeclareOptions {
            passive: true,
            ..durable()
        };
        assert_eq!(declare(&channel, queue, passive).await, left, "{queue}");
    }
}

#[test]
fn a_stop_on_a_full_disk_that_wrote_every_ack_exits_0() {
    let Some(mut real) = Real::on_small_disk(160) else {
        return;
    };
    let url = real.url();
    let login = url.trim_start_matches("amqp://").split('@').next().unwrap();
    let (user, password) = login.split_once(':').unwrap();
    let mut client = Raw::open_as(real.server.port, user, password);
    let durable = [&b"\0\0"[..], &crate::raw::short("q"), b"\x02", &[0; 4]].concat();
    client.method(1, (50, 10), &durable);
    client.expect(1, (50, 11));
    client.method(1, (85, 10), b"\0");
    client.expect(1, (85, 11));
    client.publish_persistent(1, "q", &[1; 5_000]);
    client.expect(1, (60, 80));
    let ballast = real.disk().join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    for size in [1 << 20, 4096, 1] {
        while std::io::Write::write_all(&mut file, &vec![1; size]).is_ok() {}
    }
    let purge = [&b"\0\0"[..], &crate::raw::short("q"), b"\0"].concat();
    client.method(1, (50, 30), &purge);
    real.server.signal(rustix::process::Signal::TERM);
    assert_eq!(real.server.wait().code(), Some(0));
}

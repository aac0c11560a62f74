//! Publishers are told to wait when memory or disk is short.

use std::fs::File;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use crate::raw::{Raw, short};
use crate::real::Real;
use crate::running::Running;
use crate::support::wait_until;

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_is_told_that_memory_is_low_and_a_consumer_is_not() {
    // One byte is always exceeded.
    let running = Running::with(|config| config.memory_limit_bytes = 1).await;
    let port = running.port();
    let told = tokio::task::spawn_blocking(move || {
        let mut bystander = Raw::open(port);
        let mut publisher = Raw::open(port);
        let blocked = loop {
            publisher.publish(1, "nowhere", b"x");
            publisher.method(1, (20, 20), b"\x01");
            let (_, channel, payload) = publisher.next().unwrap();
            if channel == 0 {
                break payload;
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        bystander.method(1, (20, 20), b"\x01");
        bystander.expect(1, (20, 21));
        blocked
    });
    let blocked = told.await.unwrap();
    assert_eq!(&blocked[..4], [0, 10, 0, 60]);
    assert_eq!(&blocked[5..], b"low on memory");
}

/// Whether the exclusive queue `q` of another connection is still there. Channel 2 is open for the
/// time of the question.
fn is_held(bystander: &mut Raw) -> bool {
    bystander.method(2, (20, 10), &short(""));
    bystander.expect(2, (20, 11));
    let passive = [&b"\0\0"[..], &short("q"), b"\x01\0\0\0\0"].concat();
    bystander.method(2, (50, 10), &passive);
    let (code, text) = bystander.closed().unwrap();
    bystander.method(2, (20, 41), b"");
    assert!(matches!(code, 404 | 405), "{code} {text}");
    code == 405
}

/// A connection that is held does not read on once its buffer is full, so it cannot see the end of
/// the stream behind that.
fn is_noticed_gone_behind_unread_frames(port: u16, leave: impl FnOnce(TcpStream)) {
    let (mut bystander, mut publisher) = (Raw::open(port), Raw::open(port));
    let exclusive = [&b"\0\0"[..], &short("q"), b"\x04\0\0\0\0"].concat();
    publisher.method(1, (50, 10), &exclusive);
    publisher.expect(1, (50, 11));
    publisher.publish(1, "q", b"x");
    publisher.expect(0, (10, 60));
    // More than the buffer of a client that was quiet, and less than the system takes.
    for _ in 0..16 {
        publisher.publish(1, "q", &[7; 2_000]);
    }
    assert!(is_held(&mut bystander));
    let stream = publisher.stream();
    drop(publisher);
    leave(stream);
    wait_until(
        || !is_held(&mut bystander),
        || "a client that is gone is held".into(),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_publisher_that_leaves_behind_unread_frames_is_noticed_gone() {
    let running = Running::with(|config| config.memory_limit_bytes = 1).await;
    let port = running.port();
    let seen = tokio::task::spawn_blocking(move || {
        is_noticed_gone_behind_unread_frames(port, drop);
        is_noticed_gone_behind_unread_frames(port, |stream| {
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        });
    });
    seen.await.unwrap();
}

/// Fills a disk but for so many MiB.
pub(crate) fn fill_disk(file: &Path, left_mib: u64) {
    let (mut ballast, block) = (File::create(file).unwrap(), vec![1; 1 << 20]);
    loop {
        let room = rustix::fs::statvfs(file).unwrap();
        if (room.f_bavail * room.f_frsize) >> 20 <= left_mib {
            return;
        }
        ballast.write_all(&block).unwrap();
    }
}

/// A confirm for everything up to this tag.
fn is_ack(frame: &(u8, u16, Vec<u8>), tag: u64) -> bool {
    let (kind, channel, payload) = frame;
    (*kind, *channel) == (1, 1)
        && payload[..4] == [0, 60, 0, 80]
        && payload[4..12] == tag.to_be_bytes()
}

/// Publishes on channel 1, which confirms, until the client is told that the disk is full: space
/// that is allocated already takes a few MiB more. Takes and returns the tag of the last publish,
/// which may have been read just before.
pub(crate) fn publish_until_blocked(publisher: &mut Raw, queue: &str, mut published: u64) -> u64 {
    let body = vec![b'x'; 100_000];
    let blocked = loop {
        publisher.publish_persistent(1, queue, &body);
        published += 1;
        assert!(published < 1000, "the disk is never full");
        let frame = publisher.next().unwrap();
        if !is_ack(&frame, published) {
            break frame;
        }
    };
    assert_eq!((blocked.1, &blocked.2[..4]), (0, &[0, 10, 0, 60][..]));
    assert_eq!(&blocked.2[5..], b"low on disk");
    published
}

/// Whether nothing comes for a while but the confirm of `tag`, which may be late.
pub(crate) fn is_held_after(client: &mut Raw, tag: u64) -> bool {
    while !client.is_silent_for(Duration::from_millis(700)) {
        if !client.next().is_some_and(|frame| is_ack(&frame, tag)) {
            return false;
        }
    }
    true
}

#[test]
fn a_full_disk_blocks_publishers_until_there_is_room() {
    let Some(real) = Real::on_small_disk(160) else {
        return;
    };
    let url = real.url();
    let (_, login) = url.split_once("//").unwrap();
    let (user, password) = login.split_once('@').unwrap().0.split_once(':').unwrap();
    let mut publisher = Raw::open_as(real.server.port, user, password);
    let durable = [&b"\0\0"[..], &short("q"), b"\x02", b"\0\0\0\0"].concat();
    publisher.method(1, (50, 10), &durable);
    publisher.expect(1, (50, 11));
    publisher.method(1, (85, 10), b"\0");
    publisher.expect(1, (85, 11));
    publisher.publish_persistent(1, "q", b"there is room");
    assert!(is_ack(&publisher.next().unwrap(), 1));

    let ballast = real.disk().join("ballast");
    fill_disk(&ballast, 8);
    let last = publish_until_blocked(&mut publisher, "q", 1);
    publisher.publish_persistent(1, "q", b"there is none");
    let published = last + 1;
    assert!(
        is_held_after(&mut publisher, last),
        "a blocked publisher was read"
    );

    std::fs::remove_file(&ballast).unwrap();
    let (mut is_unblocked, mut is_acked) = (false, false);
    while !is_unblocked || !is_acked {
        let frame = publisher.next().unwrap();
        is_unblocked |= frame.1 == 0 && frame.2[..] == [0, 10, 0, 61];
        is_acked |= is_ack(&frame, published);
    }
    publisher.publish_persistent(1, "q", b"there is room again");
    assert!(is_ack(&publisher.next().unwrap(), published + 1));
}

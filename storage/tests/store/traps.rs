//! The ways in which a log with acks, slots that are used again and an index beside it can go
//! wrong. Each has a test here, or is named at the test elsewhere that covers it.
//!
//! Elsewhere: power cuts in a checkpoint, in compaction, in a switch of segments and in recovery
//! (`faults`), transactions and moves (`workload`), false headers in bodies (`hostile`), full disks
//! (`faults`, `space`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use storage::frame::{BLOCK, SegmentHeader, SegmentState};
use storage::{Opened, Options, QueueId, Sequence, Settled, Store, Ticket, Urgency};

use crate::damaged_store::frames;
use crate::random::Random;
use crate::simulated_disk::{Fault, Kind, SEGMENT_BYTES, SimulatedDisk};
use crate::support::{body, fill, read_all, until, wait};

const QUEUE: QueueId = QueueId(1);

fn open(disk: &SimulatedDisk) -> (Opened, tempfile::TempDir) {
    open_with(disk, |options| options)
}

fn open_with(
    disk: &SimulatedDisk,
    change: impl FnOnce(Options) -> Options,
) -> (Opened, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let options = change(disk.options(folder.path()));
    (Store::open(folder.path(), options, |_| {}).unwrap(), folder)
}

fn settled(store: &Store, queue: QueueId, number: u64) -> Ticket {
    match store.settle(queue, Sequence(number)).unwrap() {
        Settled::Recorded(ticket) => ticket,
        Settled::Elided => Ticket::NONE,
    }
}

fn headers(disk: &SimulatedDisk) -> Vec<SegmentHeader> {
    disk.find(|path, bytes| {
        let is_log = path.starts_with("log");
        is_log.then(|| SegmentHeader::parse(&bytes[..BLOCK as usize]))?
    })
}

/// The file of a segment: which slot it gets is decided by the thread that creates one first.
fn segment_path(disk: &SimulatedDisk, number: u64) -> PathBuf {
    let found = disk.find(|path, bytes| {
        let header = || SegmentHeader::parse(&bytes[..BLOCK as usize]);
        let is_it =
            path.starts_with("log") && header().is_some_and(|header| header.number == number);
        is_it.then(|| path.to_owned())
    });
    found.into_iter().next().unwrap()
}

/// A publish and its ack that never reach the log leave no record. The ack of a later message
/// must not make the store take the next ones for acked.
#[test]
fn no_message_is_born_acked() {
    let disk = SimulatedDisk::new();
    let (opened, _folder) = open(&disk);
    let store = &opened.store;
    for number in 0..50 {
        store
            .append(
                QUEUE,
                Sequence(number),
                &[b"short-lived"],
                Urgency::Eventually,
            )
            .unwrap();
        store.settle(QUEUE, Sequence(number)).unwrap();
    }
    store.settle_all(QUEUE, Sequence(0), Sequence(49)).unwrap();
    store.purge(QUEUE, Sequence(49)).unwrap();
    fill(store, QUEUE, 50..55, 30);
    // Even one that reaches too far, once it is over.
    wait(
        store,
        store.settle_all(QUEUE, Sequence(0), Sequence(80)).unwrap(),
    );
    fill(store, QUEUE, 55..60, 30);
    assert_eq!(read_all(store, QUEUE, 30), (55..60).collect::<Vec<_>>());
    let killed = disk.after_kill();
    for has_index in [true, false] {
        if !has_index {
            killed.change_rows(BTreeMap::clear);
        }
        let (again, _folder) = open(&killed);
        assert_eq!(
            read_all(&again.store, QUEUE, 30),
            (55..60).collect::<Vec<_>>()
        );
        assert_eq!(again.queues[0].next, Sequence(60));
    }
}

#[test]
fn a_torn_last_commit_is_no_loss_and_a_damaged_earlier_one_is() {
    let disk = SimulatedDisk::new();
    let (opened, _folder) = open(&disk);
    for number in 0..3 {
        fill(&opened.store, QUEUE, number..number + 1, 30);
    }
    let path = &segment_path(&disk, 1);
    let mut found = Vec::new();
    // Header, snapshot, then a block each.
    for (block, left) in [(2, [1, 2]), (3, [0, 2]), (4, [0, 1])] {
        let killed = disk.after_kill();
        killed.change_rows(BTreeMap::clear);
        let mut bytes = killed.bytes(path);
        bytes[block * BLOCK as usize + 40] ^= 1;
        killed.replace(path, bytes);
        let (again, _folder) = open(&killed);
        assert_eq!(read_all(&again.store, QUEUE, 30), left);
        let losses = again.report.losses.iter();
        found.push(losses.filter(|line| line.contains("damaged")).count());
        // Its number is used again only where it was never confirmed.
        let next = if block == 4 { 2 } else { 3 };
        assert_eq!(again.queues[0].next, Sequence(next));
    }
    assert_eq!(found, [1, 1, 0]);
}

/// Behind a torn place, under the same salt, old frames could become reachable again.
#[test]
fn every_opening_begins_a_new_segment_that_says_where_the_one_before_ended() {
    let disk = SimulatedDisk::new();
    for session in 0..4_u64 {
        let (opened, _folder) = open_with(&disk, |options| Options {
            compact_from_bytes: u64::MAX,
            ..options
        });
        fill(&opened.store, QUEUE, session..session + 1, 30);
        drop(opened);
    }
    let mut headers = headers(&disk);
    headers.retain(|header| header.first_commit > 0);
    headers.sort_by_key(|header| header.number);
    let numbers: Vec<_> = headers.iter().map(|header| header.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    for pair in headers.windows(2) {
        assert_eq!(pair[1].previous, pair[0].number);
        assert_eq!(pair[1].previous_end, 3 * BLOCK);
        assert_ne!(pair[1].salt, pair[0].salt);
    }
}

/// The acks of a message lie in a later segment, which may be used again before the message's own.
#[test]
fn acks_whose_segment_was_used_again_still_count() {
    let disk = SimulatedDisk::new();
    let (opened, _folder) = open_with(&disk, |options| Options {
        compact_from_bytes: u64::MAX,
        checkpoint_every: Duration::from_hours(1),
        ..options
    });
    let store = &opened.store;
    // The first segment keeps a live message; the acks of its others are in the next ones.
    fill(store, QUEUE, 0..10, 300);
    let other = QueueId(2);
    let mut last = Ticket::NONE;
    for number in 0..300 {
        fill(store, other, number..number + 1, 3_000);
        last = settled(store, other, number);
        if number < 9 {
            last = last.max(settled(store, QUEUE, number));
        }
    }
    wait(store, last);
    let holds_acks =
        |header: &SegmentHeader| header.number == 2 && header.state == SegmentState::Log;
    until(
        || !headers(&disk).iter().any(holds_acks),
        "the segment of the acks may be used again",
    );
    let killed = disk.after_kill();
    killed.change_rows(BTreeMap::clear);
    let (again, _folder) = open(&killed);
    assert_eq!(read_all(&again.store, QUEUE, 300), [9]);
    assert_eq!(read_all(&again.store, other, 3_000), []);
}

#[test]
fn a_reader_never_sees_a_segment_that_is_being_used_again() {
    let disk = SimulatedDisk::new();
    let (opened, _folder) = open(&disk);
    let store = &opened.store;
    fill(store, QUEUE, 0..40, 900);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 40..2_000 {
                fill(store, QUEUE, number..number + 1, 900);
                store.settle(QUEUE, Sequence(number - 40)).unwrap();
            }
        });
        let mut seen = 0;
        while !writer.is_finished() {
            for (sequence, found) in store.read(QUEUE, Sequence(0), 40_000).unwrap() {
                assert!(
                    found[..] == body(QUEUE, sequence.0, 900)[..],
                    "message {}",
                    sequence.0
                );
                seen += 1;
            }
        }
        assert!(seen > 100, "{seen} messages");
    });
    until(|| disk.files().len() < 14, "segments are used again");
}

#[test]
fn a_purge_spares_what_comes_after_its_number_and_a_dropped_queue_takes_nothing_with_it() {
    let disk = SimulatedDisk::new();
    let (opened, _folder) = open(&disk);
    let store = &opened.store;
    fill(store, QUEUE, 0..10, 30);
    // All in one commit: the purge must not reach what is published behind it.
    let together = store.pause_commits();
    store.purge(QUEUE, Sequence(9)).unwrap();
    for number in 10..13 {
        let text = body(QUEUE, number, 30);
        store
            .append(QUEUE, Sequence(number), &[&text], Urgency::Confirmed)
            .unwrap();
    }
    drop(together);
    fill(store, QueueId(2), 0..5, 30);
    wait(store, store.drop_queue(QueueId(2)).unwrap());
    // A late ack of a queue that is gone.
    wait(
        store,
        store
            .settle_all(QueueId(2), Sequence(0), Sequence(4))
            .unwrap(),
    );
    fill(store, QueueId(3), 0..1, 30);
    for has_index in [true, false] {
        let killed = disk.after_kill();
        if !has_index {
            killed.change_rows(BTreeMap::clear);
        }
        let (again, _folder) = open(&killed);
        let found: Vec<_> = again
            .queues
            .iter()
            .map(|found| (found.queue.0, found.ready))
            .collect();
        assert_eq!(found, [(1, 3), (3, 1)]);
        assert_eq!(read_all(&again.store, QUEUE, 30), [10, 11, 12]);
    }
}

#[test]
fn a_purge_through_a_higher_number_than_was_used_spares_what_comes_later() {
    let disk = SimulatedDisk::new();
    let (opened, _folder) = open(&disk);
    let store = &opened.store;
    fill(store, QUEUE, 0..10, 30);
    // All in one commit, so that both are looked at together.
    let together = store.pause_commits();
    store.purge(QUEUE, Sequence(1_000)).unwrap();
    let text = body(QUEUE, 10, 30);
    let ticket = store.append(QUEUE, Sequence(10), &[&text], Urgency::Confirmed);
    drop(together);
    wait(store, ticket.unwrap());
    assert_eq!(read_all(store, QUEUE, 30), [10]);
    let (again, _folder) = open(&disk.after_kill());
    assert_eq!(read_all(&again.store, QUEUE, 30), [10]);
}

#[test]
fn acks_while_their_messages_are_copied_count() {
    let disk = SimulatedDisk::new();
    let (opened, _folder) = open(&disk);
    let store = &opened.store;
    let mut live: Vec<u64> = Vec::new();
    let mut last = Ticket::NONE;
    let before = disk.written();
    let mut published = 0;
    for number in 0..3_000_u64 {
        fill(store, QUEUE, number..number + 1, 700);
        published += BLOCK;
        live.push(number);
        // Three of four go early, so that every segment is soon mostly dead and is compacted; the
        // rest go while they are being copied.
        if number % 4 > 0 {
            live.retain(|left| *left != number);
            last = settled(store, QUEUE, number);
        }
        if live.len() > 120 {
            last = settled(store, QUEUE, live.remove(number as usize % 60));
        }
        if number % 500 == 499 {
            wait(store, last);
            for has_index in [true, false] {
                let killed = disk.after_kill();
                if !has_index {
                    killed.change_rows(BTreeMap::clear);
                }
                let (again, _folder) = open(&killed);
                assert_eq!(read_all(&again.store, QUEUE, 700), live, "at {number}");
                assert_eq!(again.queues[0].bytes, live.len() as u64 * 700);
                assert!(!has_index || again.report.losses.is_empty());
            }
        }
    }
    assert_eq!(read_all(store, QUEUE, 700), live);
    assert!(disk.written() - before > published, "nothing was copied");
    until(
        || store.disk_bytes() < 40 * SEGMENT_BYTES,
        "segments are freed",
    );
}

#[test]
fn a_large_body_has_a_file_of_its_own_which_goes_with_it() {
    let disk = SimulatedDisk::new();
    let (opened, _folder) = open(&disk);
    let store = &opened.store;
    let bodies = |disk: &SimulatedDisk| {
        let files = disk.files().into_iter();
        files
            .filter(|path| path.to_string_lossy().contains("body-"))
            .count()
    };
    fill(store, QUEUE, 0..2, 3 << 20);
    assert_eq!(bodies(&disk), 2);
    let killed = disk.after_kill();
    let (again, _other) = open(&killed);
    let found = again.store.read(QUEUE, Sequence(0), 1).unwrap();
    assert!(found.len() == 1 && found[0].1 == body(QUEUE, 0, 3 << 20));
    wait(store, settled(store, QUEUE, 0));
    fill(store, QueueId(2), 0..40, 3_000);
    until(|| bodies(&disk) == 1, "its file is removed");
    // What a crash left of a body whose commit never came is removed as well.
    let killed = disk.after_kill();
    let path = disk
        .files()
        .into_iter()
        .find(|path| path.to_string_lossy().contains("body-"));
    let mut orphan = killed.bytes(&path.unwrap());
    let mut header = SegmentHeader::parse(&orphan[..BLOCK as usize]).unwrap();
    header.number = 999;
    orphan[..BLOCK as usize].copy_from_slice(&header.encode());
    killed.replace(Path::new("log/body-000000000999.log"), orphan);
    let (again, _folder) = open(&killed);
    fill(&again.store, QueueId(2), 100..140, 3_000);
    until(|| bodies(&killed) == 1, "the orphan is removed");
    assert_eq!(read_all(&again.store, QUEUE, 3 << 20), [1]);
}

/// Its file has a sync of its own, before the frame that names it.
#[test]
fn a_confirmed_large_body_survives_a_power_cut() {
    let disk = SimulatedDisk::new();
    let (opened, _folder) = open(&disk);
    fill(&opened.store, QUEUE, 0..1, 3 << 20);
    for cut in 1..=20 {
        let (again, _folder) = open(&disk.after_power_cut(&mut Random(cut), 512));
        assert_eq!(read_all(&again.store, QUEUE, 3 << 20), [0], "cut {cut}");
    }
}

/// A transaction, or a move: a crash must not find a half of it.
#[test]
fn what_is_handed_over_together_is_not_committed_by_halves() {
    let disk = SimulatedDisk::new();
    let (opened, _folder) = open(&disk);
    let store = &opened.store;
    for number in 0..8 {
        let held = Instant::now();
        let append = |queue| {
            let text = body(queue, number, 30);
            store.append(queue, Sequence(number), &[&text], Urgency::Confirmed)
        };
        let together = store.pause_commits();
        let half = append(QUEUE).unwrap();
        // Time for a commit that does not wait for the other half.
        std::thread::sleep(Duration::from_millis(2));
        let is_committed = store.durable() >= half;
        // Nobody holds commits back for longer than a second.
        assert!(!is_committed || held.elapsed() > Duration::from_secs(1));
        let other = append(QueueId(2)).unwrap();
        drop(together);
        wait(store, other);
    }
}

/// After a failed sync the system may take pages for clean that never reached the disk.
#[test]
fn nothing_is_confirmed_on_a_file_whose_sync_failed() {
    let disk = SimulatedDisk::new();
    let (opened, _folder) = open_with(&disk, |options| Options {
        compact_from_bytes: u64::MAX,
        ..options
    });
    let store = &opened.store;
    fill(store, QUEUE, 0..5, 30);
    disk.fail(Some(Fault {
        at: 0,
        count: 1,
        error: std::io::ErrorKind::Other,
        hits: |kind| kind == Kind::Sync,
    }));
    for number in 5..15 {
        fill(store, QUEUE, number..number + 1, 30);
    }
    assert_eq!(disk.hits(), 1);
    // Everything since, the unknown frame included, is in the next segment.
    let next = headers(&disk).into_iter().find(|next| next.number == 2);
    let next = next.expect("the log goes on in a new segment");
    assert_eq!(next.previous, 1);
    let failed = frames(&disk.bytes(&segment_path(&disk, 1)));
    let ends = failed.iter().filter(|(at, _)| *at >= next.previous_end);
    assert!(ends.count() < 2, "{failed:?}");
    for seed in 1..20 {
        let cut = disk.after_power_cut(&mut Random(seed), 512);
        let (again, _folder) = open(&cut);
        assert_eq!(
            read_all(&again.store, QUEUE, 30),
            (0..15).collect::<Vec<_>>()
        );
        assert_eq!(again.report.losses, [""; 0]);
    }
}

#[test]
fn a_jumping_clock_does_not_matter_to_what_is_durable() {
    // The store takes no time of day: its files hold none, so that a clock that jumps changes
    // nothing.
    let disk = SimulatedDisk::new();
    let (opened, _folder) = open(&disk);
    fill(&opened.store, QUEUE, 0..5, 30);
    drop(opened);
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    for path in disk.files() {
        for window in disk.bytes(&path).windows(8) {
            let number = u64::from_le_bytes(window.try_into().unwrap());
            for unit in [
                now.as_secs(),
                now.as_millis() as u64,
                now.as_micros() as u64,
            ] {
                assert!(
                    number.abs_diff(unit) > unit / 1_000_000,
                    "{}",
                    path.display()
                );
            }
        }
    }
}

/// A newer program's store would look damaged, and be set aside.
#[test]
fn a_store_of_a_newer_format_is_refused_and_left_alone() {
    let disk = SimulatedDisk::new();
    let (opened, _folder) = open(&disk);
    fill(&opened.store, QUEUE, 0..3, 30);
    opened.store.close().unwrap();
    let path = segment_path(&disk, 1);
    let mut bytes = disk.bytes(&path);
    for version in [7, 2048 + 7] {
        bytes[version] = 6;
    }
    disk.replace(&path, bytes.clone());
    let files = disk.files();
    let folder = tempfile::tempdir().unwrap();
    let error = Store::open(folder.path(), disk.options(folder.path()), |_| {}).unwrap_err();
    assert!(
        matches!(
            error,
            storage::OpenError::Newer {
                found: 6,
                known: 5,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!((disk.files(), disk.bytes(&path)), (files, bytes));
}

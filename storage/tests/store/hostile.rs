//! Bodies that look like parts of the log, and log files full of hostile bytes: nothing appears
//! that was not put.

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use storage::frame::{BLOCK, FrameBuilder, Record, Secret, SegmentHeader, pack_ranges};
use storage::{Opened, QueueId, Sequence, Store, Urgency};

use crate::damaged_store::logs;
use crate::forge::{raw_frame, segment};
use crate::simulated_disk::SimulatedDisk;
use crate::support::{fill, read_all, until, wait};

const QUEUE: QueueId = QueueId(1);
/// The only queue of the store that frames are copied from which the attacked one never has.
const FOREIGN: QueueId = QueueId(2);

fn open(disk: &SimulatedDisk) -> (Opened, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let opened = Store::open(folder.path(), disk.options(folder.path()), |_| {}).unwrap();
    (opened, folder)
}

fn log_bytes(disk: &SimulatedDisk) -> Vec<Vec<u8>> {
    disk.find(|path, bytes| path.starts_with("log").then(|| bytes.to_vec()))
}

/// Frames of every kind in segments of their own: an administrator, a purge, a dropped queue.
fn donor(disk: &SimulatedDisk) {
    let (opened, _folder) = open(disk);
    let store = &opened.store;
    fill(store, FOREIGN, 1_000..1_050, 30);
    store.put(b"user evil", b"administrator".to_vec()).unwrap();
    fill(store, FOREIGN, 1_050..1_060, 30);
    store.purge(FOREIGN, Sequence(1_055)).unwrap();
    let ticket = store.remove(b"user evil").unwrap();
    wait(store, ticket);
    wait(store, store.drop_queue(FOREIGN).unwrap());
    opened.store.clone().close().unwrap();
}

/// All blocks of a disk that hold anything.
fn pieces(disk: &SimulatedDisk) -> Vec<Vec<u8>> {
    let bytes = log_bytes(disk).concat();
    let blocks = bytes.chunks(BLOCK as usize);
    blocks
        .filter(|block| block.iter().any(|byte| *byte != 0))
        .map(<[u8]>::to_vec)
        .collect()
}

/// Nothing is there but the bodies that were published, whole.
fn check(disk: &SimulatedDisk, bodies: &[Vec<u8>], is_damaged: bool, what: &str) {
    let (opened, _folder) = open(disk);
    assert!(
        opened.definitions.is_empty(),
        "{what}: {:?}",
        opened.definitions
    );
    let queues: Vec<_> = opened.queues.iter().map(|found| found.queue).collect();
    assert!(queues.is_empty() || queues == [QUEUE], "{what}: {queues:?}");
    let mut from = Sequence(0);
    let mut seen = 0;
    loop {
        match opened.store.read(QUEUE, from, 1 << 20) {
            Ok(slice) => {
                let Some((last, _)) = slice.last() else { break };
                from = Sequence(last.0 + 1);
                for (sequence, found) in &slice {
                    let right = &bodies[sequence.0 as usize];
                    assert!(found[..] == right[..], "{what}: message {}", sequence.0);
                    seen += 1;
                }
            }
            Err(storage::ReadError::Damaged { next, .. }) if is_damaged => from = Sequence(next),
            Err(error) => panic!("{what}: {error}"),
        }
    }
    if !is_damaged {
        assert_eq!(seen, bodies.len(), "{what}");
        assert_eq!(opened.report, storage::OpenReport::default(), "{what}");
    }
}

fn publish(store: &Store, bodies: &mut Vec<Vec<u8>>, body: Vec<u8>) {
    let ticket = store
        .append(
            QUEUE,
            Sequence(bodies.len() as u64),
            &[&body],
            Urgency::Confirmed,
        )
        .unwrap();
    bodies.push(body);
    wait(store, ticket);
}

#[test]
fn whole_frames_of_this_store_at_every_alignment_are_only_bodies() {
    let disk = SimulatedDisk::new();
    donor(&disk);
    let pieces = pieces(&disk);
    assert!(pieces.len() > 5, "{} pieces", pieces.len());
    let (opened, _folder) = open(&disk);
    let mut bodies = Vec::new();
    // A frame begins at a block, and its body a fixed distance behind: every alignment occurs.
    for shift in 0..BLOCK as usize {
        let piece = &pieces[shift % pieces.len()];
        publish(
            &opened.store,
            &mut bodies,
            [&vec![0; shift][..], piece].concat(),
        );
    }
    // The newest frames, while their segment is still written to.
    let newest = log_bytes(&disk)
        .into_iter()
        .max_by_key(|bytes| {
            SegmentHeader::parse(&bytes[..BLOCK as usize]).map(|found| found.number)
        })
        .unwrap();
    for shift in [0, 1, 511, 4_000, 4_056, 4_064] {
        publish(
            &opened.store,
            &mut bodies,
            [&vec![0; shift][..], &newest].concat(),
        );
    }
    check(&disk.after_kill(), &bodies, false, "after a kill");
    let killed = disk.after_kill();
    killed.change_rows(std::collections::BTreeMap::clear);
    let (again, _folder) = open(&killed);
    assert!(again.definitions.is_empty() && again.queues.len() == 1);
    drop(again);
    // Where the chain of frames is broken, the search for the next one meets the bodies.
    for broken in 0..4 {
        let killed = disk.after_kill();
        killed.change_rows(std::collections::BTreeMap::clear);
        for path in logs(&killed) {
            let mut bytes = killed.bytes(&path);
            for at in (BLOCK as usize * (1 + broken % 3)..bytes.len()).step_by(3 * BLOCK as usize) {
                bytes[at + broken % 8] ^= 0xFF;
            }
            killed.replace(&path, bytes);
        }
        check(&killed, &bodies, true, &format!("broken {broken}"));
    }
}

#[test]
fn bodies_in_segments_that_are_used_again_never_come_back_as_frames() {
    let disk = SimulatedDisk::new();
    donor(&disk);
    let pieces = pieces(&disk);
    let (opened, _folder) = open(&disk);
    let mut bodies = Vec::new();
    for round in 0..300 {
        publish(
            &opened.store,
            &mut bodies,
            pieces[round % pieces.len()].repeat(2),
        );
        if round % 3 == 2 {
            let last = Sequence(bodies.len() as u64 - 1);
            wait(
                &opened.store,
                opened.store.settle_all(QUEUE, Sequence(0), last).unwrap(),
            );
            let (again, _folder) = open(&disk.after_kill());
            assert!(
                again.definitions.is_empty(),
                "round {round}: {:?}",
                again.definitions
            );
            assert_eq!(read_ready(&again), 0, "round {round}");
            assert_eq!(again.report.losses, [""; 0], "round {round}");
        }
    }
    until(|| logs(&disk).len() < 12, "segments are used again");
}

fn read_ready(opened: &Opened) -> u64 {
    opened.queues.iter().map(|found| found.ready).sum()
}

#[test]
fn many_false_headers_in_a_damaged_store_do_not_slow_the_start() {
    // Hashing every body from every false header would read the segment once for each block of it.
    let disk = SimulatedDisk::new();
    let (opened, _folder) = open(&disk);
    let mut bodies = Vec::new();
    publish(&opened.store, &mut bodies, b"first".to_vec());
    let first = log_bytes(&disk)[0][..BLOCK as usize].to_vec();
    publish(&opened.store, &mut bodies, first.repeat(10));
    let killed = disk.after_kill();
    for path in logs(&killed) {
        let mut bytes = killed.bytes(&path);
        bytes[3 * BLOCK as usize] ^= 1;
        killed.replace(&path, bytes);
    }
    check(&killed, &bodies, true, "false headers");
}

#[test]
fn a_frame_made_as_documented_counts() {
    let mut builder = FrameBuilder::default();
    builder.push(&Record::Put(b"key", b"value"));
    let salt = [9; 16];
    let sealed = builder.seal(&Secret::new(&salt), 1, BLOCK, 4).to_vec();
    assert_eq!(raw_frame(builder.body(), &salt, (BLOCK, 4)), sealed);
}

#[test]
fn records_of_queues_that_nobody_knows_are_counted_and_left_out() {
    let mut builder = FrameBuilder::default();
    for range in [(0, 4), (6, 6)] {
        let ranges = pack_ranges([range].into_iter());
        builder.push(&Record::Settled(9, &ranges));
    }
    let disk = SimulatedDisk::new();
    let segment = segment(&[builder.body().to_vec()]);
    disk.replace(Path::new("log/000001.log"), segment);
    let (opened, _folder) = open(&disk);
    assert_eq!(opened.queues, []);
    let line = "2 records of queues that are not there were left out";
    let repairs = &opened.report.repairs;
    assert!(repairs.iter().any(|repair| repair == line), "{repairs:?}");
}

/// Records that are nearly right: built, then changed.
fn nearly(kind: u8, numbers: [u64; 4], body: &[u8], damage: &[(usize, u8)]) -> Vec<u8> {
    let mut builder = FrameBuilder::default();
    let [a, b, c, d] = numbers;
    let entries = [(b, body), (b.saturating_add(1 + c % 5), body)];
    let packed = |first, last| pack_ranges([(first, last)].into_iter());
    let range = packed(b.min(c), b.max(c));
    match kind % 8 {
        0 => builder.messages((a, d), entries.into_iter()),
        1 => builder.messages((a, b), entries.into_iter()),
        2 => builder.push(&Record::Settled(a, &range)),
        3 => builder.push(&Record::Put(body, body)),
        4 => builder.push(&Record::Settled(a, &packed(0, b))),
        5 => builder.push(&Record::Drop(a)),
        6 => builder.push(&Record::Numbers([a, b, c], &range)),
        _ => builder.push(&Record::Run([a, b, c], body)),
    }
    let mut bytes = builder.body().to_vec();
    for (at, byte) in damage {
        if !bytes.is_empty() {
            let at = at % bytes.len();
            bytes[at] = *byte;
        }
    }
    bytes
}

fn replayed(records: &[Vec<u8>]) {
    let disk = SimulatedDisk::new();
    disk.replace(Path::new("log/000001.log"), segment(records));
    let (opened, _folder) = open(&disk);
    for found in &opened.queues {
        let mut from = Sequence(0);
        for _ in 0..64 {
            match opened.store.read(found.queue, from, 1 << 16) {
                Ok(slice) => match slice.last() {
                    Some((last, _)) if last.0 < u64::MAX => from = Sequence(last.0 + 1),
                    _ => break,
                },
                Err(storage::ReadError::Damaged { next, .. }) => {
                    assert!(next > from.0 || next == u64::MAX);
                    if next == u64::MAX {
                        break;
                    }
                    from = Sequence(next);
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    // It goes on, and can be opened again.
    let ticket = opened
        .store
        .append(
            QueueId(u64::MAX),
            Sequence(0),
            &[b"new"],
            Urgency::Confirmed,
        )
        .unwrap();
    wait(&opened.store, ticket);
    opened.store.close().unwrap();
    let (again, _folder) = open(&disk);
    assert!(
        again
            .queues
            .iter()
            .any(|found| found.queue == QueueId(u64::MAX))
    );
}

/// No memory is asked for before the file is known to have so many bytes.
#[test]
fn an_extent_longer_than_its_file_costs_no_memory() {
    // One message from sequence 0 on, 2^39 bytes long, at offset 4096.
    let extent = [0, 1, 6, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10, 0x80, 0x20];
    let mut builder = FrameBuilder::default();
    builder.push(&Record::Run([1, 0, 1], &extent));
    let disk = SimulatedDisk::new();
    let records = [builder.body().to_vec()];
    disk.replace(Path::new("log/000001.log"), segment(&records));
    let (opened, _folder) = open(&disk);
    assert_eq!(opened.queues[0].bytes, 1 << 39);
    let read = opened.store.read(QUEUE, Sequence(0), 1);
    assert!(matches!(
        read,
        Err(storage::ReadError::Damaged { next: 1, .. })
    ));
    replayed(&records);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn hostile_records_in_valid_frames_never_panic(
        records in vec(vec(any::<u8>(), 0..200), 0..6),
    ) {
        replayed(&records);
    }

    #[test]
    fn records_that_are_nearly_right_never_panic(
        parts in vec(
            (
                any::<u8>(),
                any::<[u64; 4]>(),
                0_u64..40,
                vec(any::<u8>(), 0..20),
                vec((any::<usize>(), any::<u8>()), 0..3),
            ),
            1..12,
        ),
    ) {
        let records: Vec<Vec<u8>> = parts
            .iter()
            .map(|(kind, numbers, small, body, damage)| {
                // Mostly small numbers, which meet each other; sometimes the largest.
                let [a, b, c, d] = *numbers;
                let shrink = |number: u64| match number % 4 {
                    0 => number,
                    _ => number % (small + 1),
                };
                let b = shrink(b).min(u64::MAX - 8);
                nearly(*kind, [a % 3, b, shrink(c).min(u64::MAX - 8), shrink(d)], body, damage)
            })
            .collect();
        replayed(&records);
    }

    #[test]
    fn any_bytes_as_log_files_never_panic_and_hold_nothing(bytes in vec(any::<u8>(), 0..20_000)) {
        let disk = SimulatedDisk::new();
        disk.replace(Path::new("log/000001.log"), bytes);
        let (opened, _folder) = open(&disk);
        prop_assert!(opened.definitions.is_empty() && opened.queues.is_empty());
        fill(&opened.store, QUEUE, 0..3, 10);
        prop_assert_eq!(read_all(&opened.store, QUEUE, 10), [0, 1, 2]);
    }
}

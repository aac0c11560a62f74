//! A store that tests damage: what it held before, and what is found in it afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use storage::frame::{BLOCK, FRAME_HEADER, FrameHeader, Secret, SegmentHeader};
use storage::{Definitions, Opened, Options, QueueId, ReadError, Sequence, Store, Urgency};

use crate::definitions::{parse, render};
use crate::simulated_disk::{SEGMENT_BYTES, SimulatedDisk};
use crate::support::{body, wait};

const QUEUES: [QueueId; 2] = [QueueId(1), QueueId(2)];
pub(crate) const LENGTH: usize = 40;
/// Messages in each commit.
pub(crate) const IN_A_FRAME: u64 = 3;

pub(crate) fn options(disk: &SimulatedDisk, folder: &Path, segment_bytes: u64) -> Options {
    Options {
        segment_bytes,
        definitions: Some(Definitions { render, parse }),
        // Copies of all messages in one frame would be lost together.
        compact_from_bytes: u64::MAX,
        ..disk.options(folder)
    }
}

/// What the store held before it was damaged.
#[derive(Clone)]
pub(crate) struct Held {
    live: BTreeMap<QueueId, BTreeSet<u64>>,
    definitions: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Commits of messages in each session.
    commits: u64,
    segment_bytes: u64,
}

pub(crate) fn filled(is_clean: bool) -> (SimulatedDisk, Held) {
    filled_in(3, 4, SEGMENT_BYTES, is_clean)
}

/// Messages, acks and definitions in a segment for each session. Its index is as of the stop, or of
/// the start.
pub(crate) fn filled_in(
    sessions: u64,
    commits: u64,
    segment_bytes: u64,
    is_clean: bool,
) -> (SimulatedDisk, Held) {
    let disk = SimulatedDisk::new();
    let mut held = Held {
        live: BTreeMap::new(),
        definitions: BTreeMap::new(),
        commits,
        segment_bytes,
    };
    let mut image = None;
    for session in 0..sessions {
        let folder = tempfile::tempdir().unwrap();
        let options = options(&disk, folder.path(), segment_bytes);
        let opened = Store::open(folder.path(), options, |_| {}).unwrap();
        let store = &opened.store;
        let key = format!("definition {session}").into_bytes();
        wait(store, store.put(&key, b"value".to_vec()).unwrap());
        held.definitions.insert(key, b"value".to_vec());
        for commit in 0..commits {
            let mut last = storage::Ticket::NONE;
            let together = store.pause_commits();
            for queue in QUEUES {
                for number in 0..IN_A_FRAME {
                    let number = session * 100 + commit * IN_A_FRAME + number;
                    let text = body(queue, number, LENGTH);
                    last = store
                        .append(queue, Sequence(number), &[&text], Urgency::Confirmed)
                        .unwrap();
                    held.live.entry(queue).or_default().insert(number);
                }
            }
            drop(together);
            wait(store, last);
        }
        let gone = session * 100;
        if let storage::Settled::Recorded(ticket) = store.settle(QUEUES[0], Sequence(gone)).unwrap()
        {
            wait(store, ticket);
            held.live.get_mut(&QUEUES[0]).unwrap().remove(&gone);
        }
        image = Some(disk.after_kill());
        opened.store.close().unwrap();
    }
    let killed = image.unwrap();
    (if is_clean { disk.after_kill() } else { killed }, held)
}

/// What is found in a damaged store.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) missing: usize,
    pub(crate) returned: usize,
    pub(crate) missing_definitions: usize,
    /// Something was reported, at the opening or by a read.
    is_reported: bool,
    pub(crate) report: storage::OpenReport,
}

/// Reads all that can be read of a queue. Bodies must be right. The flag says that a read met
/// damage.
fn readable(opened: &Opened, queue: QueueId, length: usize) -> (BTreeSet<u64>, bool) {
    let mut from = Sequence(0);
    let (mut numbers, mut has_met) = (BTreeSet::new(), false);
    loop {
        match opened.store.read(queue, from, 100_000) {
            Ok(slice) => {
                let Some((last, _)) = slice.last() else {
                    return (numbers, has_met);
                };
                from = Sequence(last.0 + 1);
                for (sequence, found) in slice {
                    let right = body(queue, sequence.0, length);
                    assert!(found[..] == right[..], "message {}", sequence.0);
                    assert!(numbers.insert(sequence.0), "message {} twice", sequence.0);
                }
            }
            Err(ReadError::Damaged { next, .. }) => {
                assert!(next > from.0);
                has_met = true;
                from = Sequence(next);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Opens a damaged store; a loss must be reported.
pub(crate) fn look(disk: &SimulatedDisk, held: &Held, what: &str) -> Found {
    let found = open_and_read(disk, held, what);
    if found.missing + found.returned + found.missing_definitions > 0 {
        let is_reported = found.is_reported || found.report != storage::OpenReport::default();
        assert!(is_reported, "{what}: lost in silence: {found:?}");
    }
    found
}

pub(crate) fn open_and_read(disk: &SimulatedDisk, held: &Held, what: &str) -> Found {
    let folder = tempfile::tempdir().unwrap();
    let options = options(disk, folder.path(), held.segment_bytes);
    let opened = Store::open(folder.path(), options, |_| {})
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut found = Found {
        report: opened.report.clone(),
        ..Found::default()
    };
    for queue in QUEUES {
        let (numbers, has_met) = readable(&opened, queue, LENGTH);
        let live = &held.live[&queue];
        found.missing += live.difference(&numbers).count();
        found.returned += numbers.difference(live).count();
        found.is_reported |= has_met;
        let in_session = held.commits * IN_A_FRAME;
        if let Some(stray) = numbers.iter().find(|number| **number % 100 >= in_session) {
            panic!("{what}: message {stray} was never put");
        }
        let recovered = opened.queues.iter().find(|found| found.queue == queue);
        let ready = recovered.map_or(0, |found| found.ready);
        assert!(
            ready == numbers.len() as u64 || has_met && ready > numbers.len() as u64,
            "{what}: {ready} are counted, {} are there",
            numbers.len()
        );
    }
    let known: Vec<_> = opened.queues.iter().map(|found| found.queue.0).collect();
    assert!(known.iter().all(|queue| *queue < 3), "{what}: {known:?}");
    for (key, value) in &opened.definitions {
        assert_eq!(held.definitions.get(key), Some(value), "{what}: {key:?}");
    }
    found.missing_definitions = held.definitions.len() - opened.definitions.len();
    // It takes new work, also in the queues that lost something, and keeps it.
    let next = opened.queues.iter().find(|found| found.queue == QUEUES[1]);
    let next = next.map_or(500, |found| found.next.0.max(500));
    let text = body(QUEUES[1], next, LENGTH);
    let ticket = opened
        .store
        .append(QUEUES[1], Sequence(next), &[&text], Urgency::Confirmed);
    wait(&opened.store, ticket.unwrap());
    let numbers = readable(&opened, QUEUES[1], LENGTH).0;
    assert!(
        numbers.contains(&next),
        "{what}: a new message is not there"
    );
    found
}

pub(crate) fn logs(disk: &SimulatedDisk) -> Vec<PathBuf> {
    let files = disk.files().into_iter();
    files.filter(|path| path.starts_with("log")).collect()
}

/// Where the frames of a segment are: offset and length without padding.
pub(crate) fn frames(bytes: &[u8]) -> Vec<(u64, u64)> {
    let Some(header) = SegmentHeader::parse(&bytes[..BLOCK as usize]) else {
        return Vec::new();
    };
    let secret = Secret::new(&header.salt);
    let mut frames = Vec::new();
    let mut at = BLOCK;
    while let Some(frame) = bytes
        .get(at as usize..)
        .and_then(|rest| FrameHeader::parse(rest, &secret, header.number, at))
    {
        frames.push((at, FRAME_HEADER as u64 + frame.length));
        at += frame.stride();
    }
    frames
}

/// The segment that was written last.
pub(crate) fn newest(disk: &SimulatedDisk) -> PathBuf {
    let number = |path: &PathBuf| {
        let bytes = disk.bytes(path);
        let header = SegmentHeader::parse(&bytes[..BLOCK as usize]);
        header.map_or(0, |header| header.number)
    };
    logs(disk).into_iter().max_by_key(number).unwrap()
}

/// Where its last frame begins.
pub(crate) fn last_frame(disk: &SimulatedDisk) -> u64 {
    frames(&disk.bytes(&newest(disk))).last().unwrap().0
}

/// Whether every place is damaged, not some of them.
pub(crate) fn is_long() -> bool {
    std::env::var_os("CBROKER_SOAK_DAMAGE").is_some()
}

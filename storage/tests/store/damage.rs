//! Damaged files: the store opens, keeps what it could not read, says so, and never panics or gives out wrong bytes.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use storage::{OpenError, Opened, Options, QueueId, ReadError, Sequence, Store};

use crate::child::Random;
use crate::support::{body, fill, open, read_all};

const QUEUE: QueueId = QueueId(3);
const LENGTH: usize = 700;
const MESSAGES: u64 = 6_000;

fn filled() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    opened.store.put(b"a fact", b"its value".to_vec()).unwrap();
    fill(&opened.store, QUEUE, 0..MESSAGES, LENGTH);
    opened.store.close().unwrap();
    folder
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn snapshot(folder: &Path) -> PathBuf {
    let files = fs::read_dir(folder.join("rows"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut snapshots = files.filter(|file| {
        file.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("snap.")
    });
    snapshots.next().unwrap()
}

/// The numbers of all messages that can be read, stepping over damage. Every body is checked.
fn readable(opened: &Opened) -> Vec<u64> {
    let mut from = Sequence(0);
    let mut numbers = Vec::new();
    loop {
        match opened.store.read(QUEUE, from, 100_000) {
            Ok(slice) => {
                let Some((last, _)) = slice.last() else {
                    return numbers;
                };
                from = Sequence(last.0 + 1);
                for (sequence, found) in slice {
                    assert!(
                        found[..] == body(QUEUE, sequence.0, LENGTH)[..],
                        "message {}",
                        sequence.0
                    );
                    numbers.push(sequence.0);
                }
            }
            Err(ReadError::Damaged { next, .. }) => {
                assert!(next > from.0);
                from = Sequence(next);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn kept(folder: &Path) -> usize {
    fs::read_dir(folder.join("set-aside")).map_or(0, Iterator::count)
}

#[test]
fn a_snapshot_that_a_crash_left_half_written_is_removed() {
    let folder = filled();
    fs::write(
        folder.path().join("rows/snap.0000000000FFFFFF.generating"),
        b"half",
    )
    .unwrap();
    let opened = open(folder.path());
    assert_eq!(opened.report.repairs.len(), 1, "{:?}", opened.report);
    assert_eq!(
        read_all(&opened.store, QUEUE, LENGTH).len() as u64,
        MESSAGES
    );
}

#[test]
fn a_damaged_snapshot_costs_nothing() {
    for change in [
        |bytes: &mut Vec<u8>| bytes.truncate(20),
        |bytes: &mut Vec<u8>| bytes[30] ^= 0xFF,
        |bytes: &mut Vec<u8>| bytes.clear(),
    ] {
        let folder = filled();
        // The snapshot is written at an opening.
        open(folder.path()).store.close().unwrap();
        let snapshot = snapshot(folder.path());
        let mut bytes = fs::read(&snapshot).unwrap();
        change(&mut bytes);
        fs::write(&snapshot, bytes).unwrap();
        let opened = open(folder.path());
        assert_ne!(opened.report.repairs, [""; 0]);
        assert_eq!(opened.report.losses, [""; 0]);
        assert_eq!(kept(folder.path()), 1);
        assert_eq!(
            read_all(&opened.store, QUEUE, LENGTH).len() as u64,
            MESSAGES
        );
        assert_eq!(opened.facts.len(), 1);
    }
}

#[test]
fn damaged_settings_cost_nothing() {
    for bytes in [
        b"".as_slice(),
        b"short",
        b"something else that is long enough",
    ] {
        let folder = filled();
        fs::write(folder.path().join("rows/conf"), bytes).unwrap();
        let opened = open(folder.path());
        assert_eq!(
            read_all(&opened.store, QUEUE, LENGTH).len() as u64,
            MESSAGES
        );
    }
}

fn flip(folder: &Path, random: &mut Random, times: u64) {
    let db = OpenOptions::new()
        .read(true)
        .write(true)
        .open(folder.join("rows/db"))
        .unwrap();
    let length = db.metadata().unwrap().len();
    for _ in 0..times {
        let at = random.below(length - 8);
        let mut bytes = [0; 8];
        db.read_exact_at(&mut bytes, at).unwrap();
        db.write_all_at(&bytes.map(|byte| !byte), at).unwrap();
    }
}

/// Opens a damaged folder twice: where a reader met damage, the next start salvages. Returns what was found in the end.
fn reopened(folder: &Path) -> (u64, storage::Report) {
    let opened = open(folder);
    let before = readable(&opened);
    let mut losses = opened.report.losses.clone();
    let _ = opened.store.close();
    let again = open(folder);
    let after = readable(&again);
    losses.extend(again.report.losses.iter().cloned());
    assert!(
        after.len() >= before.len(),
        "{} messages, then {}",
        before.len(),
        after.len()
    );
    if (after.len() as u64) < MESSAGES {
        assert_ne!(
            losses,
            [""; 0],
            "{} messages are missing in silence, {} before: {:?} {:?}",
            MESSAGES - after.len() as u64,
            before.len(),
            opened.report,
            again.report
        );
    }
    assert_eq!(
        again.queues.iter().map(|queue| queue.ready).sum::<u64>(),
        after.len() as u64
    );
    (after.len() as u64, opened.report)
}

#[test]
fn flipped_bits_lose_only_what_they_hit_and_the_loss_is_told_and_kept() {
    let sound = filled();
    // The engine makes its snapshot at an opening.
    open(sound.path()).store.close().unwrap();
    let mut random = Random(4);
    let mut hits = 0;
    for round in 0..24 {
        let folder = tempfile::tempdir().unwrap();
        copy(sound.path(), folder.path());
        flip(folder.path(), &mut random, round % 4 + 1);
        let (found, report) = reopened(folder.path());
        if found < MESSAGES {
            hits += 1;
            assert!(kept(folder.path()) > 0);
            assert!(
                found > MESSAGES * 9 / 10,
                "round {round}: only {found} messages were saved: {report:?}"
            );
        }
    }
    assert!(hits > 2, "the damage hit {hits} times only");
}

#[test]
fn damage_in_what_no_snapshot_covers_is_told_and_kept() {
    let sound = filled();
    let mut random = Random(5);
    for round in 0..8 {
        let folder = tempfile::tempdir().unwrap();
        copy(sound.path(), folder.path());
        flip(folder.path(), &mut random, round % 2 + 1);
        let _ = reopened(folder.path());
    }
}

#[test]
fn a_file_that_was_cut_short_gives_what_is_left() {
    let sound = filled();
    for cut in [1, 700, 70_000, 600_000, 1_500_000] {
        let folder = tempfile::tempdir().unwrap();
        copy(sound.path(), folder.path());
        let db = OpenOptions::new()
            .write(true)
            .open(folder.path().join("rows/db"))
            .unwrap();
        let length = db.metadata().unwrap().len();
        db.set_len(length - cut).unwrap();
        drop(db);
        let opened = open(folder.path());
        readable(&opened);
        let losses = opened.report.losses;
        let _ = opened.store.close();
        let again = open(folder.path());
        let found = readable(&again);
        let is_told = !again.report.losses.is_empty() || !losses.is_empty();
        assert!(
            found.len() as u64 == MESSAGES || is_told,
            "{} messages are missing in silence",
            MESSAGES - found.len() as u64
        );
    }
}

/// What a kill leaves of a store whose last commits were small: their rows are in the journal alone.
fn killed_after_small_commits() -> tempfile::TempDir {
    let folder = filled();
    let opened = open(folder.path());
    for number in MESSAGES..MESSAGES + 20 {
        fill(&opened.store, QUEUE, number..number + 1, LENGTH);
    }
    let killed = tempfile::tempdir().unwrap();
    copy(folder.path(), killed.path());
    killed
}

#[test]
fn small_commits_outlive_a_kill_in_the_journal() {
    let killed = killed_after_small_commits();
    let opened = open(killed.path());
    assert_eq!(opened.report, storage::Report::default());
    assert_eq!(readable(&opened).len() as u64, MESSAGES + 20);
    fill(&opened.store, QUEUE, MESSAGES + 20..MESSAGES + 21, LENGTH);
    opened.store.close().unwrap();
    // A clean stop has brought them to the rows.
    fs::remove_file(killed.path().join("journal")).unwrap();
    assert_eq!(readable(&open(killed.path())).len() as u64, MESSAGES + 21);
}

#[test]
fn a_damaged_record_of_the_journal_is_told_and_kept() {
    let killed = killed_after_small_commits();
    let journal = killed.path().join("journal");
    let mut bytes = fs::read(&journal).unwrap();
    bytes[5_000] ^= 0xFF;
    fs::write(&journal, &bytes).unwrap();
    let opened = open(killed.path());
    let found = readable(&opened).len() as u64;
    assert!((MESSAGES..MESSAGES + 20).contains(&found), "{found}");
    assert_ne!(opened.report.losses, [""; 0]);
    let place = fs::read_dir(killed.path().join("set-aside")).unwrap();
    let kept = place.last().unwrap().unwrap().path().join("journal");
    assert_eq!(fs::read(kept).unwrap(), bytes);
    opened.store.close().unwrap();
    assert_eq!(readable(&open(killed.path())).len() as u64, found);
}

#[test]
fn rows_that_are_no_rows_at_all_are_set_aside_whole() {
    let folder = filled();
    let db = folder.path().join("rows/db");
    let length = fs::metadata(&db).unwrap().len() as usize;
    fs::write(&db, vec![0x5A; length]).unwrap();
    let opened = open(folder.path());
    assert_ne!(opened.report.losses, [""; 0]);
    assert!(kept(folder.path()) > 0);
    fill(&opened.store, QUEUE, 0..10, LENGTH);
    opened.store.close().unwrap();
    assert_eq!(
        read_all(&open(folder.path()).store, QUEUE, LENGTH).len(),
        10
    );
}

/// Names a damaged store for a child that opens it.
const DAMAGED: &str = "CBROKER_STORE_DAMAGED";

#[test]
fn opens_what_is_damaged() {
    // Only as the child of another test.
    if let Some(folder) = std::env::var_os(DAMAGED) {
        println!("{:?}", open(Path::new(&folder)).report);
    }
}

#[test]
fn a_panic_of_the_engine_is_reported_and_not_printed_as_a_panic() {
    let sound = filled();
    let mut random = Random(5);
    let mut reported = 0;
    // Where a flipped bit makes the engine panic depends on where its rows came to lie: tried until it has, more than once.
    for round in 0..400 {
        if reported == 3 {
            break;
        }
        let folder = tempfile::tempdir().unwrap();
        copy(sound.path(), folder.path());
        flip(folder.path(), &mut random, round % 2 + 1);
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "damage::opens_what_is_damaged", "--nocapture"]);
        let ran = child.env(DAMAGED, folder.path()).output().unwrap();
        let said = String::from_utf8(ran.stderr).unwrap();
        assert!(ran.status.success(), "{said}");
        assert!(!said.contains("panicked at"), "{said}");
        let report = String::from_utf8(ran.stdout).unwrap();
        reported += usize::from(report.contains("the engine panicked"));
    }
    assert!(reported > 0, "the engine panicked nowhere");
}

#[test]
fn a_store_of_a_newer_program_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    {
        use storage::engine::{Change, Engine, Sled};
        let rows = Sled::open(&folder.path().join("rows"), 1 << 20).unwrap();
        let mut newer = storage::record::format_row();
        newer.truncate(newer.len() - 6);
        newer.extend_from_slice(&9_u16.to_be_bytes());
        let sum = crc32c::crc32c(&newer);
        newer.extend_from_slice(&sum.to_be_bytes());
        rows.commit(&[vec![Change::Put(storage::key::FORMAT.to_vec(), newer)]])
            .unwrap();
    }
    let error = Store::open(folder.path(), Options::default(), |_| {}).unwrap_err();
    assert!(
        matches!(
            error,
            OpenError::Newer {
                found: 9,
                known: 1,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(kept(folder.path()), 0);
}

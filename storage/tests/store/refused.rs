//! A start while the disk refuses something: what is whole is neither lost nor moved away, and
//! damage is reported all the same.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use storage::{Opened, Options, QueueId, Store};

use crate::damaged_store::{filled, logs, look, options};
use crate::simulated_disk::{Fault, Kind, SEGMENT_BYTES, SimulatedDisk};
use crate::support::{fill, read_all};

const QUEUE: QueueId = QueueId(1);
/// Each has a file of its own.
const LARGE: usize = (1 << 20) + 1;

fn open(disk: &SimulatedDisk) -> Opened {
    let folder = tempfile::tempdir().unwrap();
    Store::open(folder.path(), disk.options(folder.path()), |_| {}).unwrap()
}

fn set_aside(disk: &SimulatedDisk) -> Vec<PathBuf> {
    let files = disk.files().into_iter();
    files.filter(|path| path.starts_with("set-aside")).collect()
}

/// How many reads succeed before the one that fails.
static SUCCEEDING: AtomicU64 = AtomicU64::new(0);

#[test]
fn a_read_that_fails_once_costs_nothing() {
    let (sound, held) = filled(true);
    sound.change_rows(BTreeMap::clear);
    for before in 0.. {
        let disk = sound.after_kill();
        SUCCEEDING.store(before, Ordering::SeqCst);
        disk.fail(Some(Fault {
            at: 0,
            count: 1,
            error: ErrorKind::Other,
            hits: |kind| {
                let is_read = matches!(kind, Kind::Read | Kind::ReadFile);
                is_read && SUCCEEDING.fetch_sub(1, Ordering::SeqCst) == 0
            },
        }));
        let folder = tempfile::tempdir().unwrap();
        let options = options(&disk, folder.path(), SEGMENT_BYTES);
        let opened = Store::open(folder.path(), options, |_| {}).unwrap();
        let was_met = disk.hits() > 0;
        disk.fail(None);
        assert_eq!(opened.report.losses, [""; 0], "read {before}");
        assert_eq!(set_aside(&disk), [""; 0].map(PathBuf::from));
        opened.store.close().unwrap();
        let found = look(&disk.after_kill(), &held, &format!("after read {before}"));
        assert_eq!((found.missing, found.missing_definitions), (0, 0));
        if !was_met {
            assert!(before > 10, "{before} reads");
            return;
        }
    }
}

/// Half of a header is enough.
#[test]
fn a_header_of_which_one_copy_cannot_be_read_counts() {
    let (sound, held) = filled(true);
    let is_used = |path: &PathBuf| sound.bytes(path)[0] != 0;
    for path in logs(&sound).into_iter().filter(is_used) {
        for byte in [10, 2048 + 10] {
            let disk = sound.after_kill();
            disk.set_bad_byte(&path, byte);
            let found = look(&disk, &held, &format!("{}, {byte}", path.display()));
            assert_eq!((found.missing, set_aside(&disk).len()), (0, 0));
        }
    }
}

/// A disk that turned read-only, or a folder without rights.
#[test]
fn what_is_damaged_and_cannot_be_moved_stays_where_it_is_and_prevents_no_start() {
    let sound = SimulatedDisk::new();
    let opened = open(&sound);
    fill(&opened.store, QUEUE, 0..2, LARGE);
    fill(&opened.store, QUEUE, 2..3, 30);
    for path in logs(&sound) {
        let disk = sound.after_kill();
        let mut bytes = disk.bytes(&path);
        bytes[..4096].fill(0xA5);
        disk.replace(&path, bytes.clone());
        disk.fail(Some(Fault {
            at: 0,
            count: u64::MAX,
            error: ErrorKind::ReadOnlyFilesystem,
            hits: |kind| {
                let changes = ![Kind::Read, Kind::ReadFile].contains(&kind);
                changes && ![Kind::Sync, Kind::SyncFolder].contains(&kind)
            },
        }));
        let opened = open(&disk);
        let losses = opened.report.losses.join(" ");
        assert!(losses.contains("it is not set aside: "), "{losses}");
        disk.fail(None);
        // Nothing new takes its place.
        fill(&opened.store, QueueId(2), 0..3, LARGE);
        assert_eq!(read_all(&opened.store, QueueId(2), LARGE), [0, 1, 2]);
        assert!(disk.bytes(&path) == bytes, "{}", path.display());
        opened.store.close().unwrap();
        let opened = open(&disk);
        let aside = set_aside(&disk);
        assert!(aside.iter().any(|aside| disk.bytes(aside) == bytes));
        assert_eq!(read_all(&opened.store, QueueId(2), LARGE), [0, 1, 2]);
    }
}

/// They are whole, so the start must not go on without them.
#[test]
fn definitions_that_may_not_be_read_end_the_start_if_the_index_is_gone() {
    let (disk, held) = filled(true);
    disk.change_rows(BTreeMap::clear);
    disk.fail(Some(Fault {
        at: 0,
        count: u64::MAX,
        error: ErrorKind::PermissionDenied,
        hits: |kind| kind == Kind::ReadFile,
    }));
    let folder = tempfile::tempdir().unwrap();
    let options = options(&disk, folder.path(), SEGMENT_BYTES);
    let error = Store::open(folder.path(), options, |_| {}).unwrap_err();
    assert!(error.to_string().contains("permission denied"), "{error}");
    disk.fail(None);
    let found = look(&disk, &held, "after a refused start");
    assert_eq!((found.missing, found.missing_definitions), (0, 0));
}

/// It is not damaged: the log is read instead, and it is left for when it may be opened.
#[test]
fn an_index_that_may_not_be_opened_is_left_where_it_is() {
    let (disk, held) = filled(true);
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        open_index: |_| Err(ErrorKind::PermissionDenied.into()),
        ..options(&disk, folder.path(), SEGMENT_BYTES)
    };
    let opened = Store::open(folder.path(), options, |_| {}).unwrap();
    let repairs = opened.report.repairs.join(" ");
    assert!(repairs.contains("could not be opened"), "{repairs}");
    let mut rows = BTreeMap::new();
    disk.change_rows(|found| rows.clone_from(found));
    assert!(!rows.is_empty(), "the index was moved away");
    drop(opened);
    let found = look(&disk, &held, "the index may be opened again");
    assert_eq!((found.missing, found.missing_definitions), (0, 0));
}

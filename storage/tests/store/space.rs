//! Disk space: it is given back when messages go, and acks stay durable where there is none.
//!
//! The full disks are real: tmpfs in a user namespace, and ext4, xfs and btrfs on a loop device
//! in a mount namespace, where the machine lets a test have one. A test that cannot says so.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use storage::{Opened, Options, QueueId, Sequence, Store, StoreEvent, Ticket, Urgency};

use crate::support::{LIMIT, body, fill, open, open_telling, open_with, read_all, until, wait};

const QUEUE: QueueId = QueueId(5);
/// Its messages are acked while the disk is full.
const ACKED: QueueId = QueueId(6);
const LENGTH: usize = 4_000;
/// Names the small disk that a child works on, its device and the kind of file system.
const DISK: &str = "CBROKER_STORE_SMALL_DISK";
const DEVICE: &str = "CBROKER_STORE_SMALL_DEVICE";
const KIND: &str = "CBROKER_STORE_SMALL_KIND";

fn small() -> Options {
    Options {
        segment_bytes: 1 << 20,
        compact_from_bytes: 4 << 20,
        least_free_bytes: 0,
        ..Options::default()
    }
}

/// The store works on: a file that is removed while they are counted has no bytes.
fn bytes_of_files(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap();
    let lengths = entries.filter_map(|entry| Some(entry.unwrap().metadata().ok()?.len()));
    lengths.sum()
}

#[test]
fn a_drained_store_gives_the_disk_its_room_back() {
    let folder = tempfile::tempdir().unwrap();
    let opened = Store::open(folder.path(), small(), |_| {}).unwrap();
    fill(&opened.store, QUEUE, 0..8_000, LENGTH);
    let full = opened.store.disk_bytes();
    assert!(full > 30 << 20, "{full} bytes");
    let ticket = opened.store.purge(QUEUE, Sequence(7_999)).unwrap();
    wait(&opened.store, ticket);
    fill(&opened.store, QUEUE, 8_000..8_100, LENGTH);
    until(
        || opened.store.disk_bytes() < full / 3,
        "room is given back",
    );
    assert_eq!(read_all(&opened.store, QUEUE, LENGTH).len(), 100);
    until(
        || bytes_of_files(&folder.path().join("log")) < full / 3,
        "the files are gone",
    );
    opened.store.close().unwrap();
    let (opened, _) = open_with(folder.path(), small());
    assert_eq!(
        read_all(&opened.store, QUEUE, LENGTH),
        (8_000..8_100).collect::<Vec<_>>()
    );
}

/// Runs a test of this binary in a mount namespace with a small disk. False, said aloud, where the
/// machine does not let a test have one.
fn on_small_disk(kind: &str, size_mib: u64, test: &str) -> bool {
    let work = tempfile::tempdir().unwrap();
    let (disk, image) = (work.path().join("disk"), work.path().join("image"));
    fs::create_dir(&disk).unwrap();
    let may = |arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(arguments).arg("true");
        command.status().is_ok_and(|status| status.success())
    };
    let binary = std::env::current_exe().unwrap();
    let run = format!("exec {} --exact {test} --nocapture", binary.display());
    let (arguments, mount) = if kind == "tmpfs" {
        (
            ["--user", "--map-root-user", "--mount"].as_slice(),
            format!("mount -t tmpfs -o size={size_mib}m none {}", disk.display()),
        )
    } else {
        let file = fs::File::create(&image).unwrap();
        file.set_len(size_mib << 20).unwrap();
        let made = Command::new(format!("mkfs.{kind}"))
            .args(if kind == "ext4" {
                ["-q", "-F"].as_slice()
            } else {
                &["-q"]
            })
            .arg(&image)
            .output();
        if !made.is_ok_and(|made| made.status.success()) {
            println!("NOT EXERCISED on {kind}: mkfs.{kind} is not there or failed");
            return false;
        }
        (
            ["--mount"].as_slice(),
            format!(
                "mount -o loop {} {} || exit 77",
                image.display(),
                disk.display()
            ),
        )
    };
    if !may(arguments) {
        println!("NOT EXERCISED on {kind}: this machine does not allow unshare {arguments:?}");
        return false;
    }
    let status = Command::new("unshare")
        .args(arguments)
        .args(["sh", "-c", &format!("{mount} && {run}")])
        .env(DISK, &disk)
        .env(DEVICE, &image)
        .env(KIND, kind)
        .status()
        .unwrap();
    if status.code() == Some(77) {
        println!("NOT EXERCISED on {kind}: this machine does not let a test mount a loop device");
        return false;
    }
    assert!(status.success(), "on {kind}");
    true
}

#[test]
fn acks_are_durable_at_0_bytes_free_on_every_file_system() {
    for (kind, size_mib) in [("tmpfs", 40), ("ext4", 64), ("xfs", 300), ("btrfs", 128)] {
        on_small_disk(kind, size_mib, "space::fills_a_disk_and_acks");
    }
}

#[test]
fn a_disk_that_was_full_goes_on_by_itself() {
    on_small_disk("tmpfs", 40, "space::waits_for_room_and_goes_on");
}

#[test]
fn a_file_system_that_turned_read_only_loses_nothing_confirmed() {
    on_small_disk("ext4", 64, "space::is_made_read_only");
}

fn disk() -> Option<PathBuf> {
    std::env::var_os(DISK).map(PathBuf::from)
}

/// Leaves a few MiB, so that the store fills them soon.
fn take_most(disk: &Path) {
    let mut ballast = fs::File::create(disk.join("ballast")).unwrap();
    let block = vec![1; 1 << 20];
    loop {
        let room = rustix::fs::statvfs(disk).unwrap();
        if (room.f_bavail * room.f_frsize) >> 20 <= 8 || ballast.write_all(&block).is_err() {
            return;
        }
    }
}

/// Publishes until no commit goes through. Returns how many messages are surely durable.
fn fill_up(opened: &Opened, is_short: &AtomicBool) -> u64 {
    const AT_ONCE: u64 = 32;
    let mut number = 0;
    let until = Instant::now() + LIMIT;
    loop {
        let mut last = Ticket::NONE;
        for _ in 0..AT_ONCE {
            let text = body(QUEUE, number, LENGTH);
            last = opened
                .store
                .append(QUEUE, Sequence(number), &[&text], Urgency::Confirmed)
                .unwrap();
            number += 1;
        }
        let late = Instant::now() + Duration::from_secs(1);
        while opened.store.durable() < last {
            if is_short.load(Ordering::Relaxed) && Instant::now() > late {
                return number - AT_ONCE;
            }
            assert!(Instant::now() < until, "the disk does not fill up");
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

/// Writes a file until there is not a byte left.
fn take_the_rest(disk: &Path) -> PathBuf {
    let path = disk.join("filler");
    let mut filler = fs::File::create(&path).unwrap();
    for size in [1 << 20, 4096, 1] {
        while filler.write_all(&vec![1; size]).is_ok() {}
    }
    let _ = filler.sync_all();
    path
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else if let Err(error) = fs::copy(entry.path(), target) {
            // A dead segment was removed meanwhile.
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
        }
    }
}

/// How many messages a queue has after a `kill -9` at this moment, as another disk shows it. The
/// log alone counts: files of the index may change while they are copied.
fn left_after_kill(folder: &Path, queue: QueueId) -> u64 {
    let target = tempfile::tempdir().unwrap();
    copy(&folder.join("log"), &target.path().join("log"));
    let opened = Store::open(target.path(), small(), |_| {}).unwrap();
    let mut queues = opened.queues.iter();
    queues
        .find(|found| found.queue == queue)
        .map_or(0, |found| found.ready)
}

fn open_noting_shortage(folder: &Path) -> (Opened, Arc<AtomicBool>) {
    let is_short = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&is_short);
    let opened = open_telling(folder, small(), move |progress| match progress {
        StoreEvent::NoRoom => noted.store(true, Ordering::Relaxed),
        StoreEvent::Room => noted.store(false, Ordering::Relaxed),
        _ => {}
    });
    (opened, is_short)
}

#[test]
fn fills_a_disk_and_acks() {
    // Only as the child of the test above.
    let Some(disk) = disk() else { return };
    let folder = disk.join("store");
    let (opened, is_short) = open_noting_shortage(&folder);
    fill(&opened.store, ACKED, 0..2_000, 300);
    take_most(&disk);
    let durable = fill_up(&opened, &is_short);
    let filler = take_the_rest(&disk);
    for number in 0..1_000 {
        opened.store.settle(ACKED, Sequence(number)).unwrap();
    }
    until(
        || left_after_kill(&folder, ACKED) == 1_000,
        "acks are durable at 0 bytes free",
    );
    opened
        .store
        .settle_all(ACKED, Sequence(0), Sequence(1_499))
        .unwrap();
    // A stop that can write them writes them; the messages that nobody was promised keep it from
    // being a success.
    let _ = opened.store.close();
    assert_eq!(left_after_kill(&folder, ACKED), 500);
    let (opened, _) = open_noting_shortage(&folder);
    let found = opened
        .queues
        .iter()
        .find(|found| found.queue == QUEUE)
        .unwrap();
    assert!(found.ready >= durable, "{} of {durable}", found.ready);
    opened.store.purge(ACKED, Sequence(1_998)).unwrap();
    until(
        || left_after_kill(&folder, ACKED) == 1,
        "a purge is durable at 0 bytes free",
    );
    opened.store.drop_queue(QUEUE).unwrap();
    until(
        || left_after_kill(&folder, QUEUE) == 0,
        "a drop is durable at 0 bytes free",
    );
    // The room that they give back is taken by new messages, still at 0 bytes free.
    fill(&opened.store, QueueId(7), 0..200, LENGTH);
    fs::remove_file(filler).unwrap();
    fs::remove_file(disk.join("ballast")).unwrap();
    opened.store.close().unwrap();
    let (opened, _) = open_with(&folder, small());
    assert_eq!(opened.report.losses, [""; 0]);
    assert_eq!(read_all(&opened.store, ACKED, 300), [1_999]);
    assert_eq!(read_all(&opened.store, QueueId(7), LENGTH).len(), 200);
}

#[test]
fn waits_for_room_and_goes_on() {
    // Only as the child of the test above.
    let Some(disk) = disk() else { return };
    let folder = disk.join("store");
    let (opened, is_short) = open_noting_shortage(&folder);
    let durable = fill_up(&opened, &is_short);
    let status = Command::new("mount")
        .args(["-o", "remount,size=400m"])
        .arg(&disk)
        .status()
        .unwrap();
    assert!(status.success());
    let mut last = Ticket::NONE;
    // The last group of the filling waits for room.
    for number in durable + 32..durable + 100 {
        let text = body(QUEUE, number, LENGTH);
        last = opened
            .store
            .append(QUEUE, Sequence(number), &[&text], Urgency::Confirmed)
            .unwrap();
    }
    wait(&opened.store, last);
    until(|| !is_short.load(Ordering::Relaxed), "room is reported");
    assert_eq!(
        read_all(&opened.store, QUEUE, LENGTH),
        (0..durable + 100).collect::<Vec<_>>()
    );
    opened.store.close().unwrap();
    let opened = open(&folder);
    assert_eq!(
        read_all(&opened.store, QUEUE, LENGTH).len() as u64,
        durable + 100
    );
}

#[test]
fn is_made_read_only() {
    // Only as the child of the test above.
    let Some(disk) = disk() else { return };
    let folder = disk.join("store");
    let (opened, is_short) = open_noting_shortage(&folder);
    fill(&opened.store, QUEUE, 0..500, LENGTH);
    // ext4 does this of its own accord when its disk fails.
    let aborted = Command::new("mount")
        .args(["-o", "remount,abort"])
        .arg(&disk)
        .output();
    if !aborted.is_ok_and(|aborted| aborted.status.success()) {
        println!("NOT EXERCISED: this system does not remount ext4 as aborted");
        return;
    }
    let text = body(QUEUE, 500, LENGTH);
    let late = opened
        .store
        .append(QUEUE, Sequence(500), &[&text], Urgency::Confirmed)
        .unwrap();
    let is_stopped = || opened.store.read(QUEUE, Sequence(0), 1).is_err();
    until(
        || is_short.load(Ordering::Relaxed) || is_stopped(),
        "the disk's state is noticed",
    );
    assert!(
        opened.store.durable() < late,
        "it was confirmed on a read-only disk"
    );
    opened.store.close().unwrap_err();
    let shell = format!(
        "umount {0} && e2fsck -fy {1} >/dev/null; mount -o loop {1} {0}",
        disk.display(),
        std::env::var(DEVICE).unwrap()
    );
    assert!(
        Command::new("sh")
            .args(["-c", &shell])
            .status()
            .unwrap()
            .success()
    );
    let (opened, _) = open_with(&folder, small());
    assert_eq!(opened.report.losses, [""; 0]);
    let found = read_all(&opened.store, QUEUE, LENGTH);
    assert!(
        found.len() == 500 || found.len() == 501,
        "{} messages",
        found.len()
    );
    drop(opened);
}

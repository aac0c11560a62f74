//! Disk space: it is given back when messages go, and when there is none the store waits.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use storage::{Options, Progress, QueueId, Sequence, Store, Ticket, Urgency};

use crate::support::{LIMIT, body, fill, open, read_all, wait};

const QUEUE: QueueId = QueueId(5);
const LENGTH: usize = 4_000;
/// Names the small disk that the child works on.
const SMALL_DISK: &str = "CBROKER_STORE_SMALL_DISK";

#[test]
fn a_drained_store_gives_the_disk_its_room_back() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    fill(&opened.store, QUEUE, 0..30_000, LENGTH);
    let full = opened.store.disk_bytes();
    assert!(full > 100 << 20, "{full} bytes");
    let ticket = opened.store.purge(QUEUE, Sequence(29_999)).unwrap();
    wait(&opened.store, ticket);
    fill(&opened.store, QUEUE, 30_000..30_100, LENGTH);
    let until = Instant::now() + LIMIT;
    while opened.store.disk_bytes() > full / 10 {
        assert!(
            Instant::now() < until,
            "{} bytes are still occupied",
            opened.store.disk_bytes()
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(read_all(&opened.store, QUEUE, LENGTH).len(), 100);
    fill(&opened.store, QUEUE, 30_100..30_200, LENGTH);
    opened.store.close().unwrap();
    let opened = open(folder.path());
    assert_eq!(
        read_all(&opened.store, QUEUE, LENGTH),
        (30_000..30_200).collect::<Vec<_>>()
    );
    assert!(!folder.path().join("rows.old").exists() && !folder.path().join("rows.new").exists());
}

#[test]
fn a_compaction_that_a_crash_interrupted_is_finished_or_undone() {
    let copy = |from: &Path, to: &Path| {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from)
            .unwrap()
            .map(Result::unwrap)
            .filter(|entry| entry.path().is_file())
        {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    };
    // Which of rows, rows.new and rows.old the crash left.
    for left in [
        ["rows", "rows.new"].as_slice(),
        &["rows.new", "rows.old"],
        &["rows", "rows.old"],
        &["rows.old"],
    ] {
        let folder = tempfile::tempdir().unwrap();
        let opened = open(folder.path());
        fill(&opened.store, QUEUE, 0..500, LENGTH);
        opened.store.close().unwrap();
        let rows = folder.path().join("rows");
        for name in left.iter().filter(|name| **name != "rows") {
            copy(&rows, &folder.path().join(name));
        }
        if !left.contains(&"rows") {
            fs::remove_dir_all(&rows).unwrap();
        }
        let opened = open(folder.path());
        assert_eq!(
            opened.report.repairs.len(),
            1,
            "{left:?}: {:?}",
            opened.report
        );
        assert_eq!(
            read_all(&opened.store, QUEUE, LENGTH).len(),
            500,
            "{left:?}"
        );
        let names = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        assert!(
            names
                .filter(|name| name.to_str().unwrap().starts_with("rows."))
                .count()
                == 0,
            "{left:?}"
        );
    }
}

#[test]
fn a_disk_that_fills_up_makes_wait_and_goes_on_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let work = format!(
        "mount -t tmpfs -o size=40m none {0} && exec {1} --exact space::works_on_a_small_disk --nocapture",
        folder.path().display(),
        std::env::current_exe().unwrap().display()
    );
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--mount"]);
    if !unshare
        .arg("true")
        .status()
        .is_ok_and(|status| status.success())
    {
        println!(
            "NOT EXERCISED: this machine does not let a test mount a small disk of its own (unshare --user --mount)"
        );
        return;
    }
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &work])
        .env(SMALL_DISK, folder.path());
    assert!(unshare.status().unwrap().success());
}

#[test]
fn works_on_a_small_disk() {
    // Only as the child of the test above.
    let Some(disk) = std::env::var_os(SMALL_DISK) else {
        return;
    };
    let disk = Path::new(&disk);
    // Without a margin of its own the store meets the real end of the disk, in the middle of a commit.
    for least_free_bytes in [0, 12 << 20] {
        let folder = disk.join(format!("store-{least_free_bytes}"));
        let is_short = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_short);
        let options = Options {
            least_free_bytes,
            ..Options::default()
        };
        let opened = Store::open(&folder, options, move |progress| {
            told.fetch_or(progress == Progress::NoRoom, Ordering::Relaxed);
        });
        let opened = opened.unwrap();
        let until = Instant::now() + LIMIT;
        let mut last = Ticket::NONE;
        let mut number = 0;
        while !is_short.load(Ordering::Relaxed) {
            assert!(Instant::now() < until, "the disk does not fill up");
            if opened.store.pending_bytes() > 1 << 20 {
                std::thread::yield_now();
                continue;
            }
            let text = body(QUEUE, number, LENGTH);
            last = opened
                .store
                .append(QUEUE, Sequence(number), &[&text], Urgency::Confirmed)
                .unwrap();
            number += 1;
        }
        // Somebody gives room.
        let status = Command::new("mount")
            .args(["-o", "remount,size=400m"])
            .arg(disk)
            .status()
            .unwrap();
        assert!(status.success());
        wait(&opened.store, last);
        assert_eq!(
            read_all(&opened.store, QUEUE, LENGTH),
            (0..number).collect::<Vec<_>>()
        );
        opened.store.close().unwrap();
        let opened = open(&folder);
        assert_eq!(opened.queues[0].ready, number);
        assert_eq!(read_all(&opened.store, QUEUE, LENGTH).len() as u64, number);
        drop(opened);
        fs::remove_dir_all(&folder).unwrap();
        let status = Command::new("mount")
            .args(["-o", "remount,size=40m"])
            .arg(disk)
            .status()
            .unwrap();
        assert!(status.success());
    }
}

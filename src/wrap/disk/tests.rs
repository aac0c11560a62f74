//! Tests of the thread for file writes.

#![allow(clippy::unwrap_used)]

use std::fs::File;

use super::*;
use crate::config::Environment;

/// A disk that does nothing until its lock is dropped.
fn stopped(folder: &Path) -> (DiskThread, tokio::sync::mpsc::Receiver<DiskEvent>, File) {
    let home = Home::of(&Environment::from_iter([("CBROKER_HOME", folder)])).unwrap();
    let paths = DiskPaths::of(&home, "q", "s");
    std::fs::create_dir_all(&paths.sessions).unwrap();
    std::fs::create_dir_all(home.dead_letters("q").parent().unwrap()).unwrap();
    let lock = File::create(paths.sessions.join("q.seen.lock")).unwrap();
    lock.lock().unwrap();
    let (disk, events) = DiskThread::start(paths).unwrap();
    (disk, events, lock)
}

fn look_up(number: u64) -> Job {
    Job::LookUp(MessageKey(number), format!("m{number} a 1"), None)
}

fn dead_letter(number: u64) -> Job {
    let letter = NewDeadLetter {
        ts: "t".into(),
        error: "no JSON".into(),
        body: DeadBody::cut(b"{".to_vec()),
        is_own: number.is_multiple_of(2),
    };
    Job::WriteDeadLetter(MessageKey(number), letter, None)
}

#[test]
fn a_blocked_disk_never_makes_the_session_wait() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, mut events, lock) = stopped(folder.path());
    let jobs = 3 * EVENTS as u64;
    let (sender, submitted) = mpsc::sync_channel(1);
    let session = thread::spawn(move || {
        (0..jobs).for_each(|number| disk.submit(look_up(number)));
        sender.send(()).unwrap();
        disk
    });
    let is_free = submitted.recv_timeout(Duration::from_secs(30)).is_ok();
    drop(lock);
    for number in 0..jobs {
        let event = events.blocking_recv();
        assert!(matches!(event, Some(DiskEvent::LookedUp(MessageKey(key), ..)) if key == number));
    }
    drop(session.join().unwrap());
    assert!(is_free, "the session waited for the disk");
}

#[test]
fn a_session_that_ended_leaves_no_file_of_a_text_that_nobody_was_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, events, lock) = stopped(folder.path());
    std::fs::create_dir_all(folder.path().join("spill")).unwrap();
    let body = r#"{"id":"m","from":"a","to":"q","ts":"t","message":"long"}"#;
    let text = || {
        Box::new(LongText {
            envelope: Envelope::parse(body.as_bytes(), 1 << 20).unwrap(),
            pointer: Pointer::Hidden,
        })
    };
    // The first one waits for the lock when the session ends, the others are not begun.
    let first = Job::LookUp(MessageKey(1), "m a 1".into(), Some(text()));
    let second = Job::LookUp(MessageKey(2), "n a 1".into(), Some(text()));
    for job in [first, second, Job::Spill(MessageKey(3), text())] {
        disk.submit(job);
    }
    while disk.waiting.load(Ordering::Relaxed) == 3 {
        thread::sleep(Duration::from_millis(1));
    }
    drop(events);
    drop(lock);
    drop(disk);
    let files = std::fs::read_dir(folder.path().join("spill")).unwrap();
    assert_eq!(files.count(), 0);
}

#[test]
fn dead_letters_delay_no_message_and_all_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, mut events, lock) = stopped(folder.path());
    disk.submit(look_up(0));
    (1..=20).for_each(|number| disk.submit(dead_letter(number)));
    disk.submit(look_up(21));
    drop(lock);
    drop(disk);
    let mut order = Vec::new();
    while let Ok(event) = events.try_recv() {
        match event {
            DiskEvent::LookedUp(key, ..) | DiskEvent::DeadLetterWritten(key, _) => {
                order.push(key.0);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(order[..2], [0, 21]);
    order.sort_unstable();
    assert_eq!(order, (0..=21).collect::<Vec<_>>());
    for file in ["dlq/q.jsonl", "dlq/q.others.jsonl"] {
        let written = std::fs::read_to_string(folder.path().join(file)).unwrap();
        assert_eq!(written.lines().count(), 10, "{file}");
    }
}

//! A disk that fails or loses power at any operation: nothing confirmed is lost, nothing settled
//! comes back, no transaction is cut, and what only tidies up never stops the store.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex};

use storage::{QueueId, Sequence, Store, StoreEvent, Urgency};

use crate::random::Random;
use crate::simulated_disk::{Fault, Kind, SimulatedDisk};
use crate::support::{body, wait};
use crate::workload::{self, Diary, Known, check};

const ROUNDS: u64 = 10;
const SECTORS: [usize; 2] = [512, 4096];

fn asked(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |number| number.parse().unwrap())
}

/// Opens what a fault left and compares it with what was known then.
fn reopen(disk: &SimulatedDisk, known: &Known, what: &str) {
    let folder = tempfile::tempdir().unwrap();
    let opened = workload::open(
        folder.path(),
        disk.options(folder.path()),
        &Diary::default(),
    );
    assert_eq!(opened.report.losses, [""; 0], "{what}");
    check(&opened, known);
    // It takes new work.
    let ticket = opened
        .store
        .append(QueueId(77), Sequence(1), &[b"new"], Urgency::Confirmed)
        .unwrap();
    wait(&opened.store, ticket);
}

type CheckpointImage = (String, SimulatedDisk, Known);

/// Images of one piece of work at most, of about 7 MiB each. A quick machine makes 300; a slow one
/// more, because it writes more checkpoints meanwhile.
const MOST_IMAGES: usize = 400;

/// The kind of the operation that an image was taken before.
fn kind_of(what: &str) -> &str {
    what.rsplit(' ').next().unwrap()
}

/// Works on a disk and keeps what a kill and power cuts before each operation would leave, or a
/// sample of them where they are many.
fn images_of(
    disk: &SimulatedDisk,
    every: u64,
    diary: &Diary,
    work: impl FnOnce(&std::path::Path, storage::Options),
) -> Vec<CheckpointImage> {
    let images: Arc<Mutex<Vec<CheckpointImage>>> = Arc::default();
    let (kept, known) = (Arc::clone(&images), Arc::clone(diary));
    let mut random = Random(0xC07);
    disk.watch(move |number, kind, moment| {
        if number % every != 0 {
            return;
        }
        // First what is promised, then the disk: the promise is never newer.
        let known = known.lock().unwrap().clone();
        let mut images = kept.lock().unwrap();
        while images.len() >= MOST_IMAGES {
            // Removes one of the most frequent kind, so that some of each kind stay.
            let mut places: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
            for (place, (what, ..)) in images.iter().enumerate() {
                places.entry(kind_of(what)).or_default().push(place);
            }
            let commonest = places.into_values().max_by_key(Vec::len).unwrap();
            let any = random.below(commonest.len() as u64);
            images.swap_remove(commonest[any as usize]);
        }
        let sector = SECTORS[random.below(2) as usize];
        let cut = moment.after_power_cut(&mut random, sector);
        images.push((
            format!("power cut before {number} {kind:?}"),
            cut,
            known.clone(),
        ));
        if random.below(4) == 0 {
            images.push((
                format!("kill before {number} {kind:?}"),
                moment.after_kill(),
                known,
            ));
        }
    });
    let folder = tempfile::tempdir().unwrap();
    work(folder.path(), disk.options(folder.path()));
    disk.end_watch();
    Arc::into_inner(images).map_or_else(Vec::new, |images| images.into_inner().unwrap())
}

fn worked_through(every: u64, seed: u64) -> Vec<CheckpointImage> {
    let disk = SimulatedDisk::new();
    let diary = Diary::default();
    images_of(&disk, every, &diary, |folder, options| {
        let options = storage::Options {
            checkpoint_every: std::time::Duration::from_millis(30),
            ..options
        };
        let opened = workload::open(folder, options, &diary);
        workload::run(&opened.store, &diary, ROUNDS, seed).unwrap();
        opened.store.close().unwrap();
    })
}

#[test]
fn a_power_cut_or_kill_before_any_operation_loses_nothing_confirmed_and_cuts_no_transaction() {
    let mut kinds = std::collections::BTreeSet::new();
    for seed in 0..asked("CBROKER_SOAK_RECORDS", 1) {
        for (what, disk, known) in worked_through(1, 77 + seed) {
            kinds.insert(kind_of(&what).to_owned());
            reopen(&disk, &known, &what);
        }
    }
    // Checkpoints, segments in use again and new ones: the script must have made them all.
    for kind in [
        Kind::Write,
        Kind::Sync,
        Kind::Create,
        Kind::Index,
        Kind::SyncFolder,
    ] {
        assert!(kinds.contains(&format!("{kind:?}")), "{kinds:?}");
    }
}

#[test]
fn a_power_cut_during_recovery_itself_loses_nothing() {
    let images = worked_through(1, 5);
    let step = (images.len() / 24).max(1);
    let mut cuts = 0;
    for (what, disk, known) in images.iter().step_by(step) {
        let diary: Diary = Arc::new(Mutex::new(Known {
            durable: known.durable,
            ..Known::default()
        }));
        let again = images_of(disk, 1, &diary, |folder, options| {
            let opened = workload::open(folder, options, &Diary::default());
            let ticket = opened
                .store
                .append(QueueId(76), Sequence(1), &[b"new"], Urgency::Confirmed)
                .unwrap();
            wait(&opened.store, ticket);
            opened.store.close().unwrap();
        });
        for (then, disk, _) in again {
            cuts += 1;
            reopen(&disk, known, &format!("{what}, then {then}"));
        }
    }
    assert!(cuts > 100, "{cuts} cuts");
}

/// A killed process leaves writes in the kernel's cache that it had not synced. What recovery makes
/// of them must not be lost with them.
#[test]
fn a_power_cut_after_a_kill_takes_nothing_that_was_built_on_what_was_not_synced() {
    let mut random = Random(0xCAC4E);
    let images = worked_through(1, 13);
    let killed = images.iter().filter(|(what, ..)| what.starts_with("kill"));
    let mut cuts = 0;
    for (what, disk, known) in killed {
        let folder = tempfile::tempdir().unwrap();
        let options = disk.options(folder.path());
        let opened = workload::open(folder.path(), options, &Diary::default());
        let ticket = opened
            .store
            .append(QueueId(76), Sequence(1), &[b"new"], Urgency::Confirmed)
            .unwrap();
        wait(&opened.store, ticket);
        opened.store.close().unwrap();
        for sector in SECTORS {
            cuts += 1;
            let left = disk.after_power_cut(&mut random, sector);
            reopen(&left, known, &format!("{what}, a start, and a power cut"));
        }
    }
    assert!(cuts > 60, "{cuts} cuts");
}

/// Works with a fault in it, then opens what a kill and power cuts leave of it.
fn fail(fault: Fault, random: &mut Random) -> (u64, bool) {
    let disk = SimulatedDisk::new();
    let diary = Diary::default();
    let folder = tempfile::tempdir().unwrap();
    let opened = workload::open(folder.path(), disk.options(folder.path()), &diary);
    disk.fail(Some(fault));
    let outcome = workload::run(&opened.store, &diary, 4, 3);
    let hits = disk.hits();
    let known = diary.lock().unwrap().clone();
    let left = [
        disk.after_kill(),
        disk.after_power_cut(random, 512),
        disk.after_power_cut(random, 4096),
    ];
    disk.fail(None);
    drop(opened);
    for disk in &left {
        reopen(disk, &known, &format!("{fault:?}"));
    }
    (hits, outcome.is_ok())
}

fn is_change(kind: Kind) -> bool {
    kind != Kind::Read
}

/// Every operation of the script fails once in turn, or in strides when there are many.
fn fail_at_every_operation(
    error: ErrorKind,
    count: u64,
    stride: u64,
    hits: fn(Kind) -> bool,
) -> (u64, u64) {
    let sound = SimulatedDisk::new();
    let folder = tempfile::tempdir().unwrap();
    let opened = workload::open(
        folder.path(),
        sound.options(folder.path()),
        &Diary::default(),
    );
    let begun = sound.operations();
    workload::run(&opened.store, &Diary::default(), 4, 3).unwrap();
    let operations = sound.operations();
    drop(opened);
    assert!(operations > 40, "{operations} operations only");
    let mut random = Random(0xFA11);
    let (mut met, mut survived) = (0, 0);
    let mut stopped = Vec::new();
    for at in (begun + 1..operations).step_by(stride as usize) {
        let fault = Fault {
            at,
            count,
            error,
            hits,
        };
        let (hits, is_ok) = fail(fault, &mut random);
        met += u64::from(hits > 0);
        survived += u64::from(hits > 0 && is_ok);
        if !is_ok {
            stopped.push(at - begun);
        }
    }
    println!("stopped by a failure of operations {stopped:?}");
    assert!(met > 8, "{met} faults were met");
    (met, survived)
}

#[test]
fn one_failure_of_any_operation_loses_nothing_and_is_survived_in_a_new_segment() {
    let (met, survived) = fail_at_every_operation(ErrorKind::Other, 1, 1, is_change);
    assert_eq!(met, survived, "a single failure stops no store");
}

#[test]
fn a_disk_that_fails_for_good_at_any_operation_loses_nothing_confirmed() {
    // Where no file can be created, commits would wait for one.
    let hits = |kind| is_change(kind) && ![Kind::Create, Kind::SyncFolder].contains(&kind);
    let (met, survived) = fail_at_every_operation(ErrorKind::Other, u64::MAX, 3, hits);
    assert!(survived < met, "a dead disk takes no commits");
}

#[test]
fn a_full_or_read_only_disk_only_makes_wait() {
    for error in [ErrorKind::StorageFull, ErrorKind::ReadOnlyFilesystem] {
        let (met, survived) = fail_at_every_operation(error, 3, 3, is_change);
        assert_eq!(met, survived, "{error:?}");
    }
}

#[test]
fn an_operation_that_fails_while_a_store_is_opened_costs_no_message() {
    let images = worked_through(40, 9);
    let (_, sound, known) = images.last().unwrap();
    let mut opened_anyway = 0;
    for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
        for at in 1..40 {
            let disk = sound.after_kill();
            let folder = tempfile::tempdir().unwrap();
            let options = disk.options(folder.path());
            disk.fail(Some(Fault {
                at,
                count: 2,
                error: kind,
                hits: |kind| kind != Kind::Read,
            }));
            let opened = Store::open(folder.path(), options, |_| {});
            opened_anyway += u64::from(opened.is_ok());
            drop(opened);
            reopen(
                &disk.after_kill(),
                known,
                &format!("opening, {kind:?} at {at}"),
            );
        }
    }
    assert!(opened_anyway > 0);
}

/// Files that the process may not open are whole, so their messages are not lost: the start fails
/// instead, and nothing is changed.
#[test]
fn a_log_file_that_may_not_be_opened_ends_the_start_and_loses_nothing() {
    let images = worked_through(40, 11);
    let (_, disk, known) = images.last().unwrap();
    disk.fail(Some(Fault {
        at: 0,
        count: u64::MAX,
        error: ErrorKind::PermissionDenied,
        hits: |kind| kind == Kind::Read,
    }));
    let folder = tempfile::tempdir().unwrap();
    let refused = Store::open(folder.path(), disk.options(folder.path()), |_| {});
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("permission denied"), "{error}");
    disk.fail(None);
    reopen(&disk.after_kill(), known, "after a refused start");
}

#[test]
fn tidying_that_fails_never_stops_the_store() {
    let disk = SimulatedDisk::new();
    let diary = Diary::default();
    let folder = tempfile::tempdir().unwrap();
    let options = storage::Options {
        checkpoint_every: std::time::Duration::from_millis(5),
        ..disk.options(folder.path())
    };
    let opened = workload::open(folder.path(), options, &diary);
    disk.fail(Some(Fault {
        at: 0,
        count: u64::MAX,
        error: ErrorKind::Other,
        hits: |kind| {
            matches!(
                kind,
                Kind::Index | Kind::Rename | Kind::Remove | Kind::WriteFile
            )
        },
    }));
    workload::run(&opened.store, &diary, ROUNDS, 4).unwrap();
    assert!(disk.hits() > 0, "nothing was tidied");
    let known = diary.lock().unwrap().clone();
    reopen(&disk.after_kill(), &known, "no checkpoint ever succeeded");
    disk.fail(None);
    opened.store.close().unwrap();
    reopen(&disk.after_kill(), &known, "after a clean stop");
}

#[test]
fn a_body_that_cannot_be_read_is_an_error_of_that_read_alone() {
    let disk = SimulatedDisk::new();
    let folder = tempfile::tempdir().unwrap();
    let (queue, diary) = (QueueId(1), Diary::default());
    let opened = workload::open(folder.path(), disk.options(folder.path()), &diary);
    let ticket = opened
        .store
        .append(
            queue,
            Sequence(0),
            &[&body(queue, 0, 900)],
            Urgency::Confirmed,
        )
        .unwrap();
    wait(&opened.store, ticket);
    disk.fail(Some(Fault {
        at: 0,
        count: 2,
        error: ErrorKind::Other,
        hits: |kind| kind == Kind::Read,
    }));
    opened.store.read(queue, Sequence(0), 1).unwrap_err();
    disk.fail(None);
    let found = opened.store.read(queue, Sequence(0), 1).unwrap();
    assert_eq!(found[0].1[..], body(queue, 0, 900)[..]);
    let ticket = opened
        .store
        .append(queue, Sequence(1), &[b"more"], Urgency::Confirmed)
        .unwrap();
    wait(&opened.store, ticket);
}

#[test]
fn acks_purges_and_drops_of_large_bodies_are_one_small_commit() {
    const MESSAGES: u64 = 800;
    let disk = SimulatedDisk::new();
    let folder = tempfile::tempdir().unwrap();
    let options = storage::Options {
        segment_bytes: 16 << 20,
        compact_from_bytes: 64 << 20,
        ..disk.options(folder.path())
    };
    let opened = workload::open(folder.path(), options, &Diary::default());
    let store = &opened.store;
    for queue in [QueueId(1), QueueId(2), QueueId(3)] {
        crate::support::fill(store, queue, 0..MESSAGES, 20_000);
    }
    let confirm = |number| {
        let ticket = store
            .append(QueueId(4), Sequence(number), &[b"x"], Urgency::Confirmed)
            .unwrap();
        wait(store, ticket);
    };
    confirm(0);
    // Whoever publishes next waits behind these bytes.
    let before = disk.written();
    (0..MESSAGES).for_each(|number| {
        store.settle(QueueId(1), Sequence(number)).unwrap();
    });
    store.purge(QueueId(2), Sequence(MESSAGES)).unwrap();
    store.drop_queue(QueueId(3)).unwrap();
    confirm(1);
    let written = disk.written() - before;
    assert!(written < 128 << 10, "{written} bytes were written");
    // And they were in it: the confirm came after them.
    let killed = disk.after_kill();
    let other = tempfile::tempdir().unwrap();
    let opened = workload::open(
        other.path(),
        killed.options(other.path()),
        &Diary::default(),
    );
    let ready: Vec<_> = opened
        .queues
        .iter()
        .filter(|queue| queue.ready > 0)
        .collect();
    assert_eq!(ready.len(), 1, "{ready:?}");
}

#[test]
fn a_panic_of_the_thread_that_commits_is_told_and_ends_the_store() {
    let disk = SimulatedDisk::new();
    let folder = tempfile::tempdir().unwrap();
    let (sender, told) = std::sync::mpsc::sync_channel(1);
    let opened = Store::open(
        folder.path(),
        disk.options(folder.path()),
        move |event| match event {
            StoreEvent::Durable(_) => panic!("on purpose"),
            StoreEvent::Stopped(stopped) => sender.try_send(stopped).unwrap(),
            _ => {}
        },
    );
    let store = opened.unwrap().store;
    let append = |number| {
        let message: &[&[u8]] = &[b"a message"];
        store.append(QueueId(1), Sequence(number), message, Urgency::Confirmed)
    };
    append(0).unwrap();
    let stopped = told.recv_timeout(std::time::Duration::from_mins(1));
    assert!(stopped.unwrap().to_string().contains("panicked"));
    append(1).unwrap_err();
    store.close().unwrap_err();
}

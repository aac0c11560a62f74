//! Each call, and what is left of it after the store was opened again.

use storage::{OpenError, Options, QueueId, ReadLimit, Sequence, Settled, Store, Urgency};

use crate::support::{body, fill, open, read_all, wait};

const QUEUE: QueueId = QueueId(7);

#[test]
fn what_was_appended_is_there_after_a_restart_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    fill(&opened.store, QUEUE, 1..2_001, 100);
    opened.store.close().unwrap();

    let opened = open(folder.path());
    let queue = &opened.queues[0];
    assert_eq!(
        (queue.queue, queue.next, queue.ready, queue.bytes),
        (QUEUE, Sequence(2_001), 2_000, 200_000)
    );
    assert_eq!(
        read_all(&opened.store, QUEUE, 100),
        (1..2_001).collect::<Vec<_>>()
    );
    assert_eq!(opened.report, storage::OpenReport::default());
}

#[test]
fn a_message_of_ten_megabytes_comes_back_whole_and_goes_for_good() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    fill(&opened.store, QUEUE, 1..3, 10 << 20);
    opened.store.close().unwrap();

    let opened = open(folder.path());
    let found = opened.store.read(QUEUE, Sequence(1), 1).unwrap();
    assert_eq!(found.len(), 1);
    assert!(found[0].1 == body(QUEUE, 1, 10 << 20));
    let Settled::Recorded(ticket) = opened.store.settle(QUEUE, Sequence(1)).unwrap() else {
        panic!("it is on disk")
    };
    wait(&opened.store, ticket);
    assert_eq!(read_all(&opened.store, QUEUE, 10 << 20), [2]);
}

#[test]
fn a_message_settled_before_its_commit_never_reaches_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    let together = opened.store.pause_commits();
    let ticket = opened
        .store
        .append(QUEUE, Sequence(1), &[b"short-lived"], Urgency::Eventually)
        .unwrap();
    assert_eq!(
        opened.store.settle(QUEUE, Sequence(1)).unwrap(),
        Settled::Elided
    );
    drop(together);
    wait(&opened.store, ticket);
    opened.store.close().unwrap();
    let opened = open(folder.path());
    assert_eq!(opened.queues, []);
}

#[test]
fn messages_settled_in_any_order_do_not_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    fill(&opened.store, QUEUE, 0..3_000, 40);
    let mut left: Vec<u64> = (0..3_000).collect();
    let settle = |store: &Store, number: u64| match store.settle(QUEUE, Sequence(number)).unwrap() {
        Settled::Recorded(ticket) => ticket,
        Settled::Elided => panic!("it is on disk"),
    };
    for step in [7, 5, 3] {
        let gone: Vec<u64> = left
            .iter()
            .copied()
            .filter(|number| number % step == 0 || *number < 400 / step)
            .rev()
            .collect();
        left.retain(|number| !gone.contains(number));
        let tickets: Vec<_> = gone
            .iter()
            .map(|number| settle(&opened.store, *number))
            .collect();
        assert_eq!(read_all(&opened.store, QUEUE, 40), left);
        wait(&opened.store, *tickets.iter().max().unwrap());
        assert_eq!(read_all(&opened.store, QUEUE, 40), left);
    }
    opened.store.close().unwrap();

    let opened = open(folder.path());
    assert_eq!(read_all(&opened.store, QUEUE, 40), left);
    assert_eq!(opened.queues[0].ready, left.len() as u64);
    assert_eq!(opened.queues[0].bytes, left.len() as u64 * 40);
    for number in left {
        settle(&opened.store, number);
    }
    opened.store.close().unwrap();
    let opened = open(folder.path());
    assert_eq!(opened.queues[0].ready, 0);
    assert_eq!(opened.queues[0].next, Sequence(3_000));
}

#[test]
fn a_purged_queue_is_empty_at_once_and_takes_new_messages() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    fill(&opened.store, QUEUE, 0..20_000, 400);
    opened.store.purge(QUEUE, Sequence(19_999)).unwrap();
    assert_eq!(read_all(&opened.store, QUEUE, 400), []);
    fill(&opened.store, QUEUE, 20_000..20_010, 400);
    opened.store.close().unwrap();

    let opened = open(folder.path());
    assert_eq!(opened.queues[0].ready, 10);
    assert_eq!(
        read_all(&opened.store, QUEUE, 400),
        (20_000..20_010).collect::<Vec<_>>()
    );
}

#[test]
fn a_partial_purge_leaves_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    fill(&opened.store, QUEUE, 0..1_000, 100);
    let ticket = opened.store.purge(QUEUE, Sequence(499)).unwrap();
    wait(&opened.store, ticket);
    opened.store.close().unwrap();
    let opened = open(folder.path());
    assert_eq!(opened.queues[0].ready, 500);
    assert_eq!(
        read_all(&opened.store, QUEUE, 100),
        (500..1_000).collect::<Vec<_>>()
    );
}

#[test]
fn a_stretch_that_is_settled_at_once_is_gone_from_memory_and_disk_and_spares_its_neighbours() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    // One message in 37 lies in parts; the last thousand may be settled before they reach the disk.
    fill(&opened.store, QUEUE, 0..2_000, 400);
    opened
        .store
        .append(
            QUEUE,
            Sequence(2_000),
            &[&body(QUEUE, 2_000, 20_000)],
            Urgency::Confirmed,
        )
        .unwrap();
    fill(&opened.store, QUEUE, 2_001..3_000, 400);
    opened.store.settle(QUEUE, Sequence(700)).unwrap();
    let ticket = opened
        .store
        .settle_all(QUEUE, Sequence(5), Sequence(2_989))
        .unwrap();
    let left: Vec<u64> = (0..5).chain(2_990..3_000).collect();
    assert_eq!(read_all(&opened.store, QUEUE, 400), left);
    wait(&opened.store, ticket);
    assert_eq!(read_all(&opened.store, QUEUE, 400), left);
    opened.store.close().unwrap();
    let opened = open(folder.path());
    assert_eq!(
        (opened.queues[0].ready, opened.queues[0].bytes),
        (15, 15 * 400)
    );
    assert_eq!(read_all(&opened.store, QUEUE, 400), left);
    opened
        .store
        .settle_all(QUEUE, Sequence(0), Sequence(9_999))
        .unwrap();
    opened.store.close().unwrap();
    let opened = open(folder.path());
    assert_eq!(
        (opened.queues[0].ready, opened.queues[0].next),
        (0, Sequence(3_000))
    );
}

#[test]
fn a_dropped_queue_is_gone_and_the_others_stay() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    fill(&opened.store, QUEUE, 0..5_000, 300);
    fill(&opened.store, QueueId(8), 0..10, 300);
    let ticket = opened.store.drop_queue(QUEUE).unwrap();
    assert_eq!(read_all(&opened.store, QUEUE, 300), []);
    wait(&opened.store, ticket);
    assert_eq!(read_all(&opened.store, QUEUE, 300), []);
    opened.store.close().unwrap();
    let opened = open(folder.path());
    assert_eq!(opened.queues.len(), 1);
    assert_eq!(read_all(&opened.store, QueueId(8), 300).len(), 10);
}

#[test]
fn definitions_come_back_in_the_order_of_their_keys() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    let long = vec![9_u8; 1 << 20];
    opened.store.put(b"b", b"two".to_vec()).unwrap();
    opened.store.put(b"long", long.clone()).unwrap();
    opened.store.put(b"a", Vec::new()).unwrap();
    opened.store.put(b"gone", vec![1; 100_000]).unwrap();
    opened.store.put(b"shrunk", vec![1; 100_000]).unwrap();
    opened.store.close().unwrap();
    let opened = open(folder.path());
    opened.store.remove(b"gone").unwrap();
    opened.store.put(b"shrunk", b"small".to_vec()).unwrap();
    opened.store.close().unwrap();
    let opened = open(folder.path());
    let expected: Vec<(Vec<u8>, Vec<u8>)> = vec![
        (b"a".to_vec(), Vec::new()),
        (b"b".to_vec(), b"two".to_vec()),
        (b"long".to_vec(), long),
        (b"shrunk".to_vec(), b"small".to_vec()),
    ];
    assert_eq!(opened.definitions, expected);
}

#[test]
fn the_watermark_of_deliveries_survives() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    fill(&opened.store, QUEUE, 0..10, 10);
    opened.store.delivered(QUEUE, Sequence(4));
    opened.store.close().unwrap();
    let opened = open(folder.path());
    assert_eq!(opened.queues[0].delivered, Some(Sequence(4)));
}

#[test]
fn a_second_store_on_the_folder_is_told_who_holds_it() {
    let folder = tempfile::tempdir().unwrap();
    let _opened = open(folder.path());
    let error = Store::open(folder.path(), Options::default(), |_| {}).unwrap_err();
    let OpenError::InUse { holder, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(*holder, Some(std::process::id()));
}

#[test]
fn reading_sees_messages_that_wait_for_their_commit() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    fill(&opened.store, QUEUE, 0..100, 10);
    for number in 100..200 {
        opened
            .store
            .append(
                QUEUE,
                Sequence(number),
                &[&body(QUEUE, number, 10)],
                Urgency::Eventually,
            )
            .unwrap();
    }
    assert_eq!(
        read_all(&opened.store, QUEUE, 10),
        (0..200).collect::<Vec<_>>()
    );
}

/// What a plan reads, in its order.
fn read_plan(mut plan: storage::ReadPlan, length: usize) -> Vec<u64> {
    let mut numbers = Vec::new();
    while let Some(slice) = plan.read_next() {
        for (Sequence(number), message) in slice {
            assert!(message == body(QUEUE, number, length), "{number}");
            numbers.push(number);
        }
    }
    numbers
}

/// Their slots must not be used again before that.
#[test]
fn a_read_that_was_planned_finds_messages_that_are_gone_since() {
    let folder = tempfile::tempdir().unwrap();
    let small = Options {
        segment_bytes: 1 << 20,
        compact_from_bytes: 4 << 20,
        ..Options::default()
    };
    let store = Store::open(folder.path(), small, |_| {}).unwrap().store;
    fill(&store, QUEUE, 0..1_000, 4_000);
    wait(
        &store,
        store.settle_all(QUEUE, Sequence(0), Sequence(99)).unwrap(),
    );
    // Not in the index yet, and the last messages not on the disk.
    let settled = store.settle_all(QUEUE, Sequence(200), Sequence(299));
    for number in 1_000..1_010 {
        let message = body(QUEUE, number, 4_000);
        let urgency = Urgency::Eventually;
        let appended = store.append(QUEUE, Sequence(number), &[&message], urgency);
        appended.unwrap();
    }
    let everything = ReadLimit {
        bytes: usize::MAX,
        message_bytes: usize::MAX,
    };
    let plan = |first| store.plan_read(QUEUE, Sequence(first), everything).unwrap();
    let (purged, dropped) = (plan(150), plan(0));
    assert!(purged.bytes() > 3_000_000, "{}", purged.bytes());
    settled.unwrap();
    wait(&store, store.purge(QUEUE, Sequence(1_009)).unwrap());
    wait(&store, store.drop_queue(QUEUE).unwrap());
    for round in 0..20 {
        let other = QueueId(100 + round);
        fill(&store, other, 0..500, 4_000);
        wait(&store, store.drop_queue(other).unwrap());
    }
    let all = |from| (from..200).chain(300..1_010).collect::<Vec<_>>();
    assert_eq!(read_plan(purged, 4_000), all(150));
    assert_eq!(read_plan(dropped, 4_000), all(100));
    store.close().unwrap();
}

#[test]
fn a_read_that_was_planned_leaves_long_messages_out_and_does_not_read_them() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).store;
    fill(&store, QUEUE, 0..3, 3 << 20);
    fill(&store, QUEUE, 3..6, 100);
    let short = ReadLimit {
        bytes: 1 << 20,
        message_bytes: 1 << 20,
    };
    let plan = store.plan_read(QUEUE, Sequence(0), short).unwrap();
    assert!(plan.bytes() < 1_000, "{}", plan.bytes());
    assert_eq!(read_plan(plan, 100), [3, 4, 5]);
    store.close().unwrap();
}

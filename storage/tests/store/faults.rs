//! A disk that fails at the n-th step, for every n: nothing confirmed is lost, nothing lost is confirmed.

use std::sync::mpsc::{Receiver, sync_channel};

use storage::{
    Opened, Options, Progress, QueueId, Sequence, Settled, Stopped, Store, Ticket, Urgency,
};

use crate::memory::{Fault, MemoryDisk};
use crate::model::{Fate, Model};
use crate::support::{LIMIT, body, wait};

const LENGTH: usize = 900;

fn open_on(disk: &MemoryDisk) -> (Opened, Receiver<Progress>) {
    let (sender, receiver) = sync_channel(1 << 16);
    let opened = Store::open_on(
        Box::new(disk.clone()),
        Options::default(),
        move |progress| drop(sender.try_send(progress)),
    );
    (opened.unwrap(), receiver)
}

fn settle(
    store: &Store,
    model: &mut Model,
    queue: QueueId,
    number: u64,
) -> Result<Ticket, Stopped> {
    model.note(queue, number, Fate::Open);
    match store.settle(queue, Sequence(number))? {
        Settled::Elided => {
            model.note(queue, number, Fate::Elided);
            Ok(Ticket::NONE)
        }
        Settled::Recorded(ticket) => {
            model.note(queue, number, Fate::Settled(ticket.number()));
            Ok(ticket)
        }
    }
}

/// Waits until a ticket is durable or the store has stopped.
fn settle_down(store: &Store, ticket: Ticket) -> Result<(), Stopped> {
    let until = std::time::Instant::now() + LIMIT;
    while store.durable() < ticket {
        match store.read(QueueId(0), Sequence(0), 1) {
            Err(storage::ReadError::Stopped(stopped)) => return Err(stopped),
            Err(storage::ReadError::NoRoom) | Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(std::time::Instant::now() < until);
        std::thread::sleep(std::time::Duration::from_micros(50));
    }
    Ok(())
}

/// Every kind of work, in an order that makes commits of every kind.
fn script(store: &Store, model: &mut Model) -> Result<(), Stopped> {
    let queues = [QueueId(1), QueueId(2), QueueId(3)];
    for round in 0..6_u64 {
        let mut last = Ticket::NONE;
        let name = format!("fact {}", round % 2).into_bytes();
        let value = vec![round as u8; 1 + 7_000 * (round as usize % 3)];
        let ticket = store.put(&name, value.clone())?;
        model
            .facts
            .entry(name)
            .or_default()
            .push((ticket.number(), Some(value)));
        for queue in queues {
            for number in round * 40..round * 40 + 40 {
                model.note(queue, number, Fate::Open);
                let text = body(queue, number, length_of(number));
                last = store.append(queue, Sequence(number), &[&text], Urgency::Confirmed)?;
                model.note(queue, number, Fate::Appended(last.number()));
            }
        }
        // A few are taken off before their commit, if they are quick enough.
        last = last.max(settle(store, model, QueueId(1), round * 40 + 39)?);
        settle_down(store, last)?;
        // In order, out of order, and a dead letter that moves.
        for number in round * 20..round * 20 + 20 {
            last = last.max(settle(store, model, QueueId(1), number)?);
            last = last.max(settle(
                store,
                model,
                QueueId(2),
                number * 7 % 240 / 40 * 40 % (round * 40 + 40) + number % 40,
            )?);
        }
        store.delivered(QueueId(2), Sequence(round * 30));
        settle_down(store, last)?;
    }
    let ticket = store.settle_all(QueueId(1), Sequence(150), Sequence(189))?;
    for (_, fate) in model
        .queues
        .entry(QueueId(1))
        .or_default()
        .range_mut(150..190)
    {
        if matches!(fate, Fate::Appended(_)) {
            *fate = Fate::Settled(ticket.number());
        }
    }
    settle_down(store, ticket)?;
    let ticket = store.drop_queue(QueueId(3))?;
    model.dropped.insert(QueueId(3), ticket.number());
    settle_down(store, ticket)?;
    let ticket = store.purge(QueueId(2), Sequence(239))?;
    for fate in model.queues.entry(QueueId(2)).or_default().values_mut() {
        *fate = if *fate == Fate::Elided {
            Fate::Elided
        } else {
            Fate::Settled(ticket.number())
        };
    }
    settle_down(store, ticket)
}

/// Longer than a row now and then.
fn length_of(number: u64) -> usize {
    if number % 37 == 5 { 20_000 } else { LENGTH }
}

#[test]
fn a_disk_that_fails_before_any_step_loses_nothing_confirmed() {
    fail_at_every_step(Fault::Broken);
}

#[test]
fn a_disk_that_fails_after_any_step_loses_nothing_confirmed() {
    fail_at_every_step(Fault::BrokenAfter);
}

fn fail_at_every_step(fault: Fault) {
    let sound = MemoryDisk::default();
    let (opened, _progress) = open_on(&sound);
    let begun = sound.steps();
    script(&opened.store, &mut Model::default()).unwrap();
    opened.store.close().unwrap();
    let steps = sound.steps() - begun;
    // Two commits a round at least: on a busy machine no more come between the script's own waits.
    assert!(steps >= 12, "the script makes {steps} steps only");
    for step in 1..=steps {
        let disk = MemoryDisk::default();
        let (opened, progress) = open_on(&disk);
        disk.fail_at(step, fault);
        let mut model = Model::default();
        let outcome = script(&opened.store, &mut model).and_then(|()| opened.store.clone().close());
        let durable = opened.store.durable().number();
        if disk.has_failed() {
            outcome.expect_err("a failed commit stops the store");
            // The latch closes a moment before it is announced.
            while !matches!(progress.recv_timeout(LIMIT).unwrap(), Progress::Stopped(_)) {}
            let late =
                opened
                    .store
                    .append(QueueId(1), Sequence(9_999), &[b"late"], Urgency::Confirmed);
            late.unwrap_err();
        }
        let (after, _progress) = open_on(&disk.after_the_fault());
        model.check(&after, durable, length_of);
    }
}

/// Parts were left behind until their queue was dropped.
#[test]
fn what_a_crash_leaves_of_a_big_message_is_cleared_away_at_the_next_opening() {
    const BIG_BYTES: usize = 2 << 20;
    let work = |store: &Store| -> Result<(), Stopped> {
        for number in 0..2 {
            let text = body(QueueId(1), number, BIG_BYTES);
            let ticket =
                store.append(QueueId(1), Sequence(number), &[&text], Urgency::Confirmed)?;
            settle_down(store, ticket)?;
        }
        if let Settled::Recorded(ticket) = store.settle(QueueId(1), Sequence(0))? {
            settle_down(store, ticket)?;
        }
        store.clone().close()
    };
    let mut cut_short = 0;
    for step in 1.. {
        let disk = MemoryDisk::default();
        let (opened, _progress) = open_on(&disk);
        disk.fail_at(step, Fault::BrokenAfter);
        let outcome = work(&opened.store);
        if !disk.has_failed() {
            outcome.unwrap();
            assert!(step > 4, "each message takes more than one step");
            break;
        }
        let left = disk.after_the_fault();
        cut_short += left.rows_of_kind(0x06);
        let (after, _progress) = open_on(&left);
        let alive = after
            .store
            .read(QueueId(1), Sequence(0), usize::MAX)
            .unwrap();
        let parts: usize = alive
            .iter()
            .map(|(_, body)| body.len().div_ceil(storage::record::PART_BYTES))
            .sum();
        assert_eq!(left.rows_of_kind(0x12), parts, "after step {step}");
        assert_eq!(left.rows_of_kind(0x06), 0, "after step {step}");
    }
    assert!(cut_short > 2, "some crashes came in the middle");
}

#[test]
fn a_full_disk_only_makes_wait() {
    let sound = MemoryDisk::default();
    let (opened, _progress) = open_on(&sound);
    script(&opened.store, &mut Model::default()).unwrap();
    opened.store.close().unwrap();
    for step in (1..sound.steps()).step_by(7) {
        let disk = MemoryDisk::default();
        let (opened, progress) = open_on(&disk);
        disk.fail_at(step, Fault::Full(3));
        let mut model = Model::default();
        script(&opened.store, &mut model).unwrap();
        if !disk.has_failed() {
            // This run needed fewer steps: which messages share a commit is a matter of time.
            continue;
        }
        let durable = opened.store.durable().number();
        opened.store.close().unwrap();
        let told: Vec<_> = progress
            .iter()
            .filter(|progress| !matches!(progress, Progress::Durable(_)))
            .collect();
        assert_eq!(told, [Progress::NoRoom, Progress::Room], "at step {step}");
        let (after, _progress) = open_on(&disk.after_the_fault());
        model.check(&after, durable, length_of);
    }
}

#[test]
fn little_room_is_told_before_there_is_none_and_work_goes_on() {
    let disk = MemoryDisk::default();
    let (opened, progress) = open_on(&disk);
    let ticket = opened
        .store
        .append(QueueId(1), Sequence(1), &[b"one"], Urgency::Confirmed)
        .unwrap();
    wait(&opened.store, ticket);
    disk.set_little_room(true);
    let told = |wanted: Progress| loop {
        let ticket = opened
            .store
            .append(QueueId(1), Sequence(1), &[b"more"], Urgency::Confirmed)
            .unwrap();
        wait(&opened.store, ticket);
        if progress.try_iter().any(|progress| progress == wanted) {
            break;
        }
    };
    told(Progress::NoRoom);
    disk.set_little_room(false);
    told(Progress::Room);
}

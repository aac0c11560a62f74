//! Tests of the pauses: how long a caller can keep a batch open.

#![allow(clippy::unwrap_used)]

use std::thread;

use super::*;

fn handover() -> Handover {
    let account = PendingAccount {
        charge: |_| {},
        release: |_| {},
    };
    Handover::new((1 << 20, account), Box::new(|_| {}))
}

fn append(handover: &Handover, queue: u64) -> Ticket {
    let appended = handover.append(QueueId(queue), Sequence(0), &[b"x"], Urgency::Confirmed);
    appended.unwrap()
}

/// Its owner waited for the backlog, and the backlog for its owner.
#[test]
fn a_guard_is_awaited_until_the_limit_is_reached_or_commits_go_on_without_it() {
    let handover = handover();
    let round = handover.begin_pause();
    assert!(handover.is_pause_in_effect(round));
    let (body, urgency) = (vec![7; 1 << 20], Urgency::Confirmed);
    let appended = handover.append(QueueId(1), Sequence(1), &[&body], urgency);
    assert!(
        appended.is_ok() && !handover.is_pause_in_effect(round),
        "the limit"
    );
    let (through, _) = handover.close_batch();
    handover.finish(handover.take_batch(through));
    assert!(!handover.is_pause_in_effect(round), "without it");
    handover.end_pause(Some(round));
}

/// The committer takes a while to wake. Callers that leave no gap as long as that kept it from
/// every commit for as long as one may be held back.
#[test]
fn a_commit_goes_between_callers_that_leave_no_time_between_them() {
    let handover = handover();
    let mut round = handover.begin_pause();
    for queue in 0..100 {
        thread::scope(|scope| {
            let cutting = scope.spawn(|| handover.close_batch());
            while lock(&handover.pauses).awaited != AwaitedClose::Wanted {
                thread::yield_now();
            }
            let nested = handover.begin_pause();
            let first = append(&handover, 2 * queue);
            handover.end_pause(Some(nested));
            let second = append(&handover, 2 * queue + 1);
            assert_eq!(first, second, "a nested call does not end what it is in");
            handover.end_pause(Some(round));
            round = handover.begin_pause();
            assert!(append(&handover, 2 * queue) > second);
            assert_eq!(cutting.join().unwrap().0, second.0);
        });
    }
}

/// A caller that goes on for long, and waits for the store in between, held up every commit for as
/// long as one may be held back.
#[test]
fn a_batch_is_closed_without_the_pause_that_was_yielded() {
    let handover = handover();
    let (yielded, other) = (handover.begin_pause(), handover.begin_pause());
    let first = append(&handover, 0);
    thread::scope(|scope| {
        let closing = scope.spawn(|| handover.close_batch());
        while lock(&handover.pauses).awaited != AwaitedClose::Wanted {
            thread::yield_now();
        }
        handover.yield_pause(yielded);
        assert_eq!(append(&handover, 1), first, "the other pause is in effect");
        handover.end_pause(Some(other));
        assert_eq!(closing.join().unwrap().0, first.0);
    });
    let second = append(&handover, 0);
    assert_eq!(handover.close_batch().0, second.0, "nobody is waited for");
    assert_eq!(handover.grouping(), Grouping::Together, "it is still open");
    handover.end_pause(None);
    assert_eq!(handover.grouping(), Grouping::Alone);
}

//! Ends of messages, seen by an observer.

#![allow(clippy::unwrap_used)]
use std::sync::Mutex;

use super::*;

/// Notes what it is told, and waits each time for a word.
#[derive(Debug)]
struct Slow {
    told: SyncSender<usize>,
    go_on: Mutex<Receiver<()>>,
}

impl EndObserver for Slow {
    fn exchange(&self) -> &'static str {
        "x"
    }

    fn largest_body(&self) -> usize {
        1 << 20
    }

    fn ended(&self, messages: &[EndedMessage<'_>]) {
        self.told.send(messages.len()).unwrap();
        self.go_on.lock().unwrap().recv().unwrap();
    }
}

fn ended(bytes: usize) -> EndedEntry {
    EndedEntry {
        queue: "q".into(),
        end: BrokerEnd::Expired,
        messages: EndedMessages::InMemory(Message::transient((b"x", b"q"), &vec![0; bytes])),
    }
}

#[test]
fn what_waits_for_a_slow_observer_is_bounded() {
    let (told, was_told) = sync_channel(100);
    let (go, go_on) = sync_channel(100);
    let go_on = Mutex::new(go_on);
    let sender = EndSender::start(Arc::new(Slow { told, go_on })).unwrap();
    sender.send(std::iter::once(ended(1)));
    assert_eq!(was_told.recv().unwrap(), 1);
    // It is behind: 40 MiB are too much.
    sender.send((0..40).map(|_| ended(1 << 20)));
    assert_eq!(sender.backlog.lost.load(Relaxed), 25);
    go.send(()).unwrap();
    assert_eq!(was_told.recv().unwrap(), 15);
    go.send(()).unwrap();
    // Once it is told of another one, it is not behind any more.
    sender.send(std::iter::once(ended(1)));
    assert_eq!(was_told.recv().unwrap(), 1);
    sender.send((0..15).map(|_| ended(1 << 20)));
    go.send(()).unwrap();
    assert_eq!(was_told.recv().unwrap(), 15);
    go.send(()).unwrap();
}

#[tokio::test]
async fn a_stop_waits_until_the_observer_was_told() {
    let (told, was_told) = sync_channel(100);
    let (go, go_on) = sync_channel(100);
    let go_on = Mutex::new(go_on);
    let sender = EndSender::start(Arc::new(Slow { told, go_on })).unwrap();
    sender.send(std::iter::once(ended(1)));
    was_told.recv().unwrap();
    sender.send((0..3).map(|_| ended(1)));
    assert_eq!(sender.recorded(Duration::from_millis(50)).await, 4);
    go.send(()).unwrap();
    go.send(()).unwrap();
    assert_eq!(sender.recorded(Duration::from_mins(1)).await, 0);
    assert_eq!(was_told.recv().unwrap(), 3);
}

/// Panics at its first call.
#[derive(Debug, Default)]
struct Panicking(AtomicUsize);

impl EndObserver for Panicking {
    fn exchange(&self) -> &'static str {
        "x"
    }

    fn largest_body(&self) -> usize {
        1 << 20
    }

    fn ended(&self, messages: &[EndedMessage<'_>]) {
        assert!(
            self.0.fetch_add(messages.len(), Relaxed) > 0,
            "as the test wants"
        );
    }
}

/// The thread died, and no end was recorded until the next start, without a word.
#[tokio::test]
async fn an_observer_that_panics_is_told_of_later_messages() {
    let observer = Arc::<Panicking>::default();
    let sender = EndSender::start(Arc::clone(&observer) as Arc<dyn EndObserver>).unwrap();
    for count in 1..=3 {
        sender.send(std::iter::once(ended(1)));
        assert_eq!(sender.recorded(Duration::from_mins(1)).await, 0);
        assert_eq!(observer.0.load(Relaxed), count);
    }
}

//! Tests of when Codex counts as having a text.

use super::*;

#[tokio::test]
async fn a_text_that_no_daemon_took_was_never_with_the_agent() {
    // It was reported to its sender as handed over, when it waited here and the daemon ended.
    let (daemon, setup) = Daemon::start(Manner {
        status: "active",
        ..USUAL
    });
    let (codex, mut reports) = start(setup);
    assert_eq!(reports.next_result().await, WayReport::Open);
    assert!(codex.deliver(submission(Timing::Idle)));
    daemon.task.abort();
    loop {
        match reports.next().await {
            WayReport::HandedOver(_) => panic!("the daemon got nothing"),
            WayReport::NotTaken { number: 1, .. } => return,
            _ => {}
        }
    }
}

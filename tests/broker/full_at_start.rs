//! A broker that is started on a disk that is nearly full.
//!
//! It used to wait for room before it listened: `status` and `stop` did not see it, SIGTERM did not
//! end it, and `start` gave up after a minute without saying why.

use std::process::ExitStatus;

use rustix::process::Signal;

use crate::real::{self, Real};
use crate::support::{Place, free_port, wait_until};

/// Leaves 4 of 96 MiB.
const FILL: &str = "head -c 92M /dev/zero > ballast";

fn wait_for_end(real: &mut Real) -> ExitStatus {
    let mut ended = None;
    wait_until(
        || {
            ended = real.server.try_wait();
            ended.is_some()
        },
        || "SIGTERM did not end the broker".into(),
    );
    ended.unwrap()
}

#[test]
fn it_listens_says_that_the_disk_is_nearly_full_and_stops_on_a_signal() {
    // Reaching the next line means that it listens.
    let Some(mut real) = Real::on_small_disk_after(96, FILL) else {
        return;
    };
    let status = real.place.ok(["status"]);
    assert!(status.contains("low on disk"), "{status}");
    assert!(status.contains("running"), "{status}");
    real.server.signal(Signal::TERM);
    let ended = wait_for_end(&mut real);
    assert_eq!(ended.code(), Some(1), "what it was told is not on the disk");
}

#[test]
fn start_says_that_the_disk_is_nearly_full_and_status_and_stop_find_the_broker() {
    let place = Place::new();
    let script = format!(
        "{FILL}\n\
         export CBROKER_HOME=$PWD/home\n\
         \"$CBROKER\" start --port {} --mgmt-port {}; echo start: $?\n\
         \"$CBROKER\" status; echo status: $?\n\
         \"$CBROKER\" stop; echo stop: $?\n\
         \"$CBROKER\" status; echo then: $?",
        free_port(),
        free_port()
    );
    let Some(mut shell) = real::on_small_disk(&place, 96, &script) else {
        return;
    };
    let ran = shell.output().unwrap();
    let (said, warned) = (
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr),
    );
    let all = format!("{said}\n{warned}");
    // A start that waits for room until its patience ends is a failure.
    assert!(said.contains("start: 0"), "{all}");
    assert!(warned.contains("the disk is nearly full"), "{all}");
    assert!(said.contains("low on disk"), "{all}");
    assert!(said.contains("status: 0"), "{all}");
    assert!(said.contains("stop: 0"), "{all}");
    assert!(!said.contains("then: 0"), "it still runs: {all}");
}

#[test]
fn it_goes_on_as_soon_as_there_is_room() {
    let Some(mut real) = Real::on_small_disk_after(96, FILL) else {
        return;
    };
    std::fs::remove_file(real.disk().join("ballast")).unwrap();
    wait_until(
        || !real.place.ok(["status"]).contains("low on disk"),
        || "the alarm stays though there is room".into(),
    );
    real.place.ok([
        "send",
        "--to",
        "later",
        "-m",
        "there is room",
        "--from",
        "test",
    ]);
    real.server.signal(Signal::TERM);
    assert_eq!(wait_for_end(&mut real).code(), Some(0));
}

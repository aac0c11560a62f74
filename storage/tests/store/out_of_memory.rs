//! Memory that runs out at a random moment under load, again and again on the same folder. How much
//! a process has is asked of Linux.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit};

use crate::kill::{ROUNDS, check_rounds};
use crate::support::LIMIT;

/// How many bytes of memory the child may use beyond those that it begins with.
const MEMORY: &str = "CBROKER_STORE_CHILD_MEMORY";

/// In the child: allocations fail from here on once they need so much more than there is.
pub(crate) fn limit_as_asked() {
    let Ok(more) = std::env::var(MEMORY) else {
        return;
    };
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mut lines = status.lines();
    let size = lines.find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let kib: u64 = size.split_whitespace().next().unwrap().parse().unwrap();
    let limit = Some((kib << 10) + more.parse::<u64>().unwrap());
    let (current, maximum) = (limit, limit);
    let limit = Rlimit { current, maximum };
    rustix::process::setrlimit(Resource::As, limit).unwrap();
}

/// A failing allocation ends the process wherever it is.
#[test]
fn nothing_confirmed_is_lost_when_memory_runs_out() {
    let mut died = 0;
    check_rounds(ROUNDS, 600, |mut command, round| {
        let more = round * (64 << 10);
        let command = command.env(MEMORY, more.to_string());
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let until = Instant::now() + LIMIT;
        let ended = loop {
            if let Some(ended) = child.try_wait().unwrap() {
                break ended;
            }
            if Instant::now() > until {
                // One that is stuck in a library counts as killed.
                child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        died += u64::from(!ended.success());
    });
    assert!(died > 0, "memory ran out in no round");
}

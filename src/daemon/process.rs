//! A process identified by its id and its start time, so that a reused id is not mistaken for it.

use rustix::process::{Pid, Signal, kill_process};

pub(crate) use crate::platform::start_time;

/// A process that was running when it was looked up.
#[derive(Debug, Clone)]
pub struct RunningProcess {
    pid: Pid,
    began: String,
}

impl RunningProcess {
    /// Returns the process of this id if it runs and has this start time.
    pub fn alive(pid: u32, began_then: &str) -> Option<Self> {
        let id = Pid::from_raw(i32::try_from(pid).ok()?)?;
        let process = Self {
            pid: id,
            began: began_then.to_owned(),
        };
        process.is_alive().then_some(process)
    }

    /// Whether the same process still runs.
    pub fn is_alive(&self) -> bool {
        start_time(self.pid()).is_some_and(|began| began == self.began)
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_pid().unsigned_abs()
    }

    /// Sends a signal. It is not an error if the process has ended.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(self.pid, signal);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_known_by_its_beginning_too() {
        let me = std::process::id();
        let when = start_time(me).unwrap();
        assert!(RunningProcess::alive(me, &when).is_some());
        assert!(RunningProcess::alive(me, "another moment").is_none());
    }

    #[test]
    fn an_ended_process_is_not_alive() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert_eq!(start_time(pid), None);
    }
}

//! Information about other processes: parent and arguments.

pub use crate::platform::Process;
pub(crate) use crate::platform::find_process;

/// Maximum number of ancestors that are searched.
const GENERATIONS: usize = 64;

/// Whether `pid` is `ancestor` or descends from it.
pub fn descends_from(pid: i32, ancestor: i32) -> bool {
    is_below(pid, ancestor, |pid| {
        find_process(pid).map(|found| found.parent)
    })
}

/// As [`descends_from`], with `parent_of` as the source of parents.
pub(super) fn is_below(pid: i32, ancestor: i32, parent_of: impl Fn(i32) -> Option<i32>) -> bool {
    let mut at = pid;
    for _ in 0..GENERATIONS {
        if at == ancestor {
            return true;
        }
        match parent_of(at) {
            Some(parent) if parent > 0 => at = parent,
            _ => return false,
        }
    }
    false
}

/// Sleeps until `due`; forever if it is `None`.
pub(super) async fn sleep_until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Whether a process with this id runs. A zombie does not.
pub fn is_alive(pid: i32) -> bool {
    find_process(pid).is_some()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_child_has_its_arguments_and_descends_from_us() {
        let mut child = std::process::Command::new("sleep")
            .arg("30")
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let us = i32::try_from(std::process::id()).unwrap();
        // Between fork and exec the child still has our arguments.
        while find_process(pid).is_some_and(|child| child.arguments != ["sleep", "30"]) {
            std::thread::yield_now();
        }
        assert_eq!(find_process(pid).unwrap().parent, us);
        assert!(descends_from(pid, us));
        assert!(!descends_from(us, pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_alive(pid));
    }
}

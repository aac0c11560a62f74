//! What another process is: its parent and its arguments.
//!
//! Linux tells it in `/proc`; elsewhere `ps` does.

/// One process, as the system describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its parent's id.
    pub parent: i32,
    /// Its arguments, the program's name first.
    pub arguments: Vec<String>,
}

/// Steps from a process to its ancestors before the search is given up.
const GENERATIONS: usize = 64;

/// Whether `pid` is `ancestor` or descends from it.
pub fn descends_from(pid: i32, ancestor: i32) -> bool {
    let mut at = pid;
    for _ in 0..GENERATIONS {
        if at == ancestor {
            return true;
        }
        match look(at) {
            Some(process) if process.parent > 0 => at = process.parent,
            _ => return false,
        }
    }
    false
}

/// Sleeps until `due`; for ever where nothing is.
pub(super) async fn sleep_until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Whether a process of this id runs. One that has ended and was not waited for does not.
pub fn is_alive(pid: i32) -> bool {
    look(pid).is_some()
}

/// A running process; `None` when there is none of this id.
#[cfg(target_os = "linux")]
pub fn look(pid: i32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces and parentheses of its own.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    if state == "Z" || state == "X" {
        return None;
    }
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let arguments = String::from_utf8_lossy(&arguments)
        .trim_end_matches('\0')
        .split('\0')
        .map(str::to_owned)
        .collect();
    Some(Process { parent, arguments })
}

/// A running process; `None` when there is none of this id.
#[cfg(not(target_os = "linux"))]
pub fn look(pid: i32) -> Option<Process> {
    let output = std::process::Command::new("ps")
        .args(["-ww", "-o", "stat=,ppid=,args=", "-p", &pid.to_string()])
        .output()
        .ok()?;
    let line = String::from_utf8_lossy(&output.stdout);
    let mut words = line.split_whitespace();
    let state = words.next()?;
    let parent = words.next()?.parse().ok()?;
    (!state.starts_with('Z')).then(|| Process {
        parent,
        arguments: words.map(str::to_owned).collect(),
    })
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
        while look(pid).is_some_and(|child| child.arguments != ["sleep", "30"]) {
            std::thread::yield_now();
        }
        assert_eq!(look(pid).unwrap().parent, us);
        assert!(descends_from(pid, us));
        assert!(!descends_from(us, pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_alive(pid));
    }
}

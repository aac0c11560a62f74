//! What the fake agent writes down of itself in its own folder, as the real one does: its session
//! and what it does in `sessions/PID.json`, and its transcript below `projects`.
//!
//! Relies on `CLAUDE_CONFIG_DIR`.

use std::path::PathBuf;

use serde_json::json;

const SESSION: &str = "6c0e8b86-8a24";

/// Writes the file of this process, at rest. Gives the path of its transcript.
pub(super) fn register() -> PathBuf {
    let folder = PathBuf::from(std::env::var_os("CLAUDE_CONFIG_DIR").unwrap());
    let here = std::env::current_dir().unwrap();
    let here = here.to_string_lossy();
    let name: String = here
        .chars()
        .map(|char| {
            if char.is_ascii_alphanumeric() {
                char
            } else {
                '-'
            }
        })
        .collect();
    let project = folder.join("projects").join(name);
    std::fs::create_dir_all(&project).unwrap();
    std::fs::create_dir_all(folder.join("sessions")).unwrap();
    let file = folder.join(format!("sessions/{}.json", std::process::id()));
    let words = json!({"sessionId": SESSION, "cwd": here, "status": "idle"});
    std::fs::write(file, words.to_string()).unwrap();
    project.join(format!("{SESSION}.jsonl"))
}

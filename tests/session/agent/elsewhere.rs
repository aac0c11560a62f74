//! Other processes of the fake agent: the one that its session moves to when the agents view is
//! opened, and a spare that waits for a task. Neither has a terminal; both end with their parent.
//!
//! Relies on this program's name, which makes it the agent.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use serde_json::json;

use super::Happening;
use super::hooks::Hooks;
use super::inbox::{Inbox, Manner};
use super::messages::unwrapped;
use super::plugin::Plugin;
use super::quirks::Quirks;

/// The session of the spare process: its transcript's name.
pub(super) const SPARE_SESSION: &str = "transcript-spare";
/// How often it is looked whether the test lets the process begin, or wait for messages.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// What the spare process reads when the session moves to it.
const CLAIM: u8 = b'!';

/// The process that the session moves to.
pub(super) fn move_session(stage: &Path, settings: &OsStr, transcript: &Path) -> Child {
    let mut moved = Command::new(stage.join("claude"));
    moved
        .args(["--session-id", "two", "--fork-session", "--resume"])
        .arg(transcript)
        .arg("--settings")
        .arg(settings);
    begin(&mut moved)
}

/// A process that waits for a task.
pub(super) fn begin_spare(stage: &Path, settings: &OsStr) -> Child {
    let mut spare = Command::new(stage.join("claude"));
    spare.args(["bg-spare", "--bg-spare", "/tmp/spare.sock"]);
    begin(spare.arg("--settings").arg(settings))
}

/// The session moves to this spare process.
pub(super) fn claim(mut spare: Child) -> Child {
    let stdin = spare.stdin.as_mut().unwrap();
    stdin.write_all(&[CLAIM]).unwrap();
    spare
}

fn begin(command: &mut Command) -> Child {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::null());
    command.spawn().unwrap()
}

/// Whether the arguments make such a process.
pub(super) fn is_meant(arguments: &[OsString]) -> bool {
    let mut words = arguments.iter();
    words.any(|word| word == "--fork-session" || word == "--bg-spare")
}

/// Runs until its parent has ended.
pub(super) fn run(arguments: &[OsString], stage: &Path, mut note: impl FnMut(&str)) -> ExitCode {
    let is_spare = arguments.iter().any(|word| word == "--bg-spare");
    let mut name = if is_spare { "spare" } else { "moved" };
    let quirks = Quirks::of_environment();
    if quirks.has("lingers") && !is_spare && !may_begin(stage) {
        return ExitCode::SUCCESS;
    }
    let (tell, hear) = sync_channel(64);
    let transcript = stage.join(format!("transcript-{name}.jsonl"));
    let mut hooks = Hooks::of(arguments, transcript, tell.clone(), &quirks);
    let mut inbox = None;
    if quirks.has("inbox") {
        let (made, path) = Inbox::listen(stage, Manner::Taking, tell.clone());
        hooks.name_inbox(path);
        inbox = Some(made);
    }
    let load = || Plugin::load(hooks.settings(), hooks.transcript(), tell.clone());
    let mut plugin = quirks.has("plugin").then(load).flatten();
    hooks.begin(is_spare);
    note(&format!("{name} started"));
    let closed = tell.clone();
    std::thread::spawn(move || {
        let mut order = [0; 1];
        while std::io::stdin().read(&mut order).unwrap_or(0) > 0 {
            let _nobody_hears = closed.send(Happening::Bytes(order.to_vec()));
        }
        let _nobody_hears = closed.send(Happening::Closed);
    });
    while let Ok(happening) = hear.recv() {
        match happening {
            Happening::Closed => break,
            Happening::Submit { key, text } => {
                hooks.transcribe_plugins(&text);
                note(&format!("{name} plugin {text}"));
                if let Some(plugin) = &mut plugin {
                    plugin.say(&json!({"is": "submitted", "key": key}));
                    plugin.say(&json!({"is": "turn"}));
                    plugin.say(&json!({"is": "rest", "why": "done"}));
                }
            }
            Happening::Inbox { text, .. } => {
                hooks.enqueue_from_inbox();
                hooks.dequeue();
                hooks.transcribe(&text);
                note(&format!("{name} inbox {}", unwrapped(&text)));
            }
            Happening::Reminder(text) => {
                hooks.enqueue(&text);
                hooks.transcribe(&text);
                note(&format!("{name} reminder {text}"));
            }
            Happening::Bytes(_) => {
                name = "claimed";
                begin_session(&hooks, stage, &quirks, &mut note);
            }
            Happening::Held(_) => {}
        }
    }
    drop(inbox);
    ExitCode::SUCCESS
}

/// Waits for the test's word; `false` when the parent ended before.
fn may_begin(stage: &Path) -> bool {
    let parent = std::os::unix::process::parent_id();
    while !stage.join("move").exists() {
        if std::os::unix::process::parent_id() != parent {
            return false;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    true
}

/// The session moved here: it begins, and where the test says so, no hook waits yet.
fn begin_session(hooks: &Hooks, stage: &Path, quirks: &Quirks, note: &mut impl FnMut(&str)) {
    hooks.run_plain("SessionStart");
    note("claimed started");
    while quirks.has("unarmed") && !stage.join("arm").exists() {
        std::thread::sleep(LOOK_EVERY);
    }
    hooks.run_waiting("SessionStart");
}

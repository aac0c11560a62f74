//! The fake agent's hooks: commands from `--settings`, run as the real one runs them.
//!
//! Relies on `sh` and on `serde_json`.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::SyncSender;

use serde_json::{Value, json};

use super::Happening;

/// What the settings say, and the transcript.
pub(crate) struct Hooks {
    settings: Value,
    transcript: PathBuf,
    tell: SyncSender<Happening>,
    are_on: bool,
    are_written_down: bool,
}

impl Hooks {
    pub(crate) fn of(
        arguments: &[OsString],
        transcript: PathBuf,
        tell: SyncSender<Happening>,
        quirks: &str,
    ) -> Self {
        let mut words = arguments.iter();
        let mut settings = Value::Null;
        while let Some(word) = words.next() {
            if word == "--settings" {
                settings = serde_json::from_str(&words.next().unwrap().to_string_lossy()).unwrap();
            }
        }
        Self {
            settings,
            transcript,
            tell,
            are_on: !quirks.contains("nohooks"),
            are_written_down: !quirks.contains("forgetful"),
        }
    }

    /// Runs the hooks of an event: the plain ones to their end, the waiters in the background.
    pub(crate) fn run(&self, event: &str, fields: &[(&str, &str)]) {
        if !self.are_on {
            return;
        }
        let mut input = json!({"hook_event_name": event, "transcript_path": self.transcript});
        for (name, value) in fields {
            input[*name] = json!(value);
        }
        let groups = self.settings["hooks"][event]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let calls = groups
            .iter()
            .flat_map(|group| group["hooks"].as_array().cloned().unwrap_or_default());
        for call in calls {
            let mut child = Command::new("sh")
                .args(["-c", call["command"].as_str().unwrap()])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            child
                .stdin
                .take()
                .unwrap()
                .write_all(input.to_string().as_bytes())
                .unwrap();
            if call["asyncRewake"] == true {
                let tell = self.tell.clone();
                std::thread::spawn(move || {
                    let output = child.wait_with_output().unwrap();
                    if output.status.code() == Some(2) {
                        let words = String::from_utf8_lossy(&output.stderr).into_owned();
                        let _agent_ended =
                            tell.send(Happening::Reminder(words.trim_end().to_owned()));
                    }
                });
            } else {
                child.wait().unwrap();
            }
        }
    }

    /// A prompt that the model reads from now on.
    pub(crate) fn transcribe(&self, words: &str) {
        self.write_row(&json!({"type": "user", "message": {"role": "user", "content": words}}));
    }

    /// A text that was accepted and that the model has not read.
    pub(crate) fn enqueue(&self, words: &str) {
        self.write_row(
            &json!({"type": "queue-operation", "operation": "enqueue", "content": words}),
        );
    }

    fn write_row(&self, row: &Value) {
        if !self.are_written_down {
            return;
        }
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&self.transcript)
            .unwrap();
        file.write_all(format!("{row}\n").as_bytes()).unwrap();
    }
}

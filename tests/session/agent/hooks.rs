//! The fake agent's hooks: commands from `--settings`, run as the real one runs them; and its
//! transcript.
//!
//! Relies on `sh` and on `serde_json`.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;

use serde_json::{Value, json};

use super::Happening;
use super::quirks::Quirks;

/// What the settings say, and the transcript.
pub(crate) struct Hooks {
    /// The value of `--settings`.
    given: OsString,
    settings: Value,
    transcript: PathBuf,
    /// Where messages are taken, for the hooks' environment.
    inbox: Option<PathBuf>,
    tell: SyncSender<Happening>,
    are_on: bool,
    are_written_down: bool,
    /// What they say of the permissions that are asked for.
    mode: &'static str,
}

impl Hooks {
    pub(crate) fn of(
        arguments: &[OsString],
        transcript: PathBuf,
        tell: SyncSender<Happening>,
        quirks: &Quirks,
    ) -> Self {
        let mut words = arguments.iter();
        let mut given = OsString::from("{}");
        while let Some(word) = words.next() {
            if word == "--settings" {
                given.clone_from(words.next().unwrap());
            }
        }
        let text = given.to_string_lossy();
        let settings = if text.starts_with('{') {
            serde_json::from_str(&text)
        } else {
            serde_json::from_str(&std::fs::read_to_string(&given).unwrap())
        };
        Self {
            settings: settings.unwrap(),
            given,
            transcript,
            inbox: None,
            tell,
            are_on: !quirks.has("nohooks"),
            are_written_down: !quirks.has("forgetful"),
            mode: if quirks.has("bypass") {
                "bypassPermissions"
            } else {
                "default"
            },
        }
    }

    /// The value of `--settings`, which the agent gives to its other processes.
    pub(crate) fn given(&self) -> &OsStr {
        &self.given
    }

    /// The settings that the agent was given.
    pub(crate) fn settings(&self) -> &Value {
        &self.settings
    }

    /// The transcript that is written.
    pub(crate) fn transcript(&self) -> &Path {
        &self.transcript
    }

    /// The hooks' environment names this inbox from now on.
    pub(crate) fn name_inbox(&mut self, socket: PathBuf) {
        self.inbox = Some(socket);
    }

    /// Runs the hooks of an event: the plain ones to their end, the waiters in the background.
    pub(crate) fn run(&self, event: &str, fields: &[(&str, &str)]) {
        let _they_go_on = self.run_some(event, fields, |_| true);
    }

    /// A process begins. What waits in a spare one is refused, and has ended when this returns: it
    /// could be heard late, when the session has moved there.
    pub(crate) fn begin(&self, is_spare: bool) {
        if is_spare {
            self.run_plain("SessionStart");
            let waits = self.run_some("SessionStart", &[], |call| call["asyncRewake"] == true);
            for wait in waits {
                wait.join().unwrap();
            }
        } else {
            self.run("SessionStart", &[]);
        }
    }

    /// The plain ones alone.
    pub(crate) fn run_plain(&self, event: &str) {
        let _none_waits = self.run_some(event, &[], |call| call["asyncRewake"] != true);
    }

    /// The waiters alone.
    pub(crate) fn run_waiting(&self, event: &str) {
        let _they_go_on = self.run_some(event, &[], |call| call["asyncRewake"] == true);
    }

    /// Those that wait go on in the threads that are returned.
    fn run_some(
        &self,
        event: &str,
        fields: &[(&str, &str)],
        is_meant: impl Fn(&Value) -> bool,
    ) -> Vec<JoinHandle<()>> {
        if !self.are_on {
            return Vec::new();
        }
        let mut input = json!({"hook_event_name": event, "transcript_path": self.transcript});
        if event != "SessionStart" {
            input["permission_mode"] = json!(self.mode);
        }
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
        calls
            .filter(is_meant)
            .filter_map(|call| self.call(&call, &input))
            .collect()
    }

    fn call(&self, call: &Value, input: &Value) -> Option<JoinHandle<()>> {
        let mut command = Command::new("sh");
        command
            .args(["-c", call["command"].as_str().unwrap()])
            .env("CLAUDE_PID", std::process::id().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        if let Some(socket) = &self.inbox {
            command
                .env("CLAUDE_CODE_MESSAGING_SOCKET", socket)
                .env("CLAUDE_CODE_MESSAGING_TOKEN", "a token");
        }
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.to_string().as_bytes()).unwrap();
        drop(stdin);
        if call["asyncRewake"] != true {
            child.wait().unwrap();
            return None;
        }
        let tell = self.tell.clone();
        Some(std::thread::spawn(move || {
            let output = child.wait_with_output().unwrap();
            if output.status.code() == Some(2) {
                let words = String::from_utf8_lossy(&output.stderr).into_owned();
                let _agent_ended = tell.send(Happening::Reminder(words.trim_end().to_owned()));
            }
        }))
    }

    /// A prompt that the model reads from now on.
    pub(crate) fn transcribe(&self, words: &str) {
        self.write_row(&json!({"type": "user", "message": {"role": "user", "content": words}}));
    }

    /// A prompt that the model reads from now on, and whose row is written once this file is there.
    pub(crate) fn transcribe_later(&self, words: &str, when: PathBuf) {
        let row = json!({"type": "user", "message": {"role": "user", "content": words}});
        let transcript = self.transcript.clone();
        std::thread::spawn(move || {
            while !when.exists() {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            append(&transcript, &row);
        });
    }

    /// A prompt of the plugin's that the model reads from now on.
    pub(crate) fn transcribe_plugins(&self, words: &str) {
        self.write_row(&json!({
            "type": "user", "origin": {"kind": "plugin"},
            "message": {"role": "user", "content": [{"type": "text", "text": words}]},
        }));
    }

    /// A prompt that a hook of the person's refused.
    pub(crate) fn transcribe_refusal(&self, words: &str) {
        let says =
            "UserPromptSubmit operation blocked by hook:\n[a hook]: no\n\n\nOriginal prompt: ";
        self.write_row(&json!({
            "type": "system", "subtype": "informational", "content": format!("{says}{words}"),
        }));
    }

    /// The session goes on in another one.
    pub(crate) fn go_on_in(&self, session: &str) {
        self.write_row(&json!({"type": "continued-in", "continuedInSessionId": session}));
    }

    /// A text that the model reads from now on in a running turn.
    pub(crate) fn transcribe_between_tools(&self, words: &str) {
        self.write_row(&json!({
            "type": "attachment",
            "attachment": {"type": "queued_command", "prompt": words},
        }));
    }

    /// A line of the inbox was accepted; the row does not say which.
    pub(crate) fn enqueue_from_inbox(&self) {
        self.write_row(&json!({"type": "queue-operation", "operation": "enqueue"}));
    }

    /// It left the queue.
    pub(crate) fn dequeue(&self) {
        self.write_row(&json!({"type": "queue-operation", "operation": "dequeue"}));
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
        append(&self.transcript, row);
    }
}

fn append(transcript: &Path, row: &Value) {
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(transcript)
        .unwrap();
    file.write_all(format!("{row}\n").as_bytes()).unwrap();
}

//! The fake agent's side of the plugin: what the module in a real one says and does.
//!
//! Relies on the settings that name the session's socket, and on `cbroker hook stream`.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::SyncSender;

use serde_json::{Value, json};

use super::Happening;

/// The plugin's module in one process.
pub(crate) struct Plugin {
    socket: PathBuf,
    token: String,
    instance: String,
    stream: Child,
}

impl Plugin {
    /// Says hello and listens; `None` where the settings name no plugin.
    pub(crate) fn load(
        settings: &Value,
        transcript: &Path,
        tell: SyncSender<Happening>,
    ) -> Option<Self> {
        let options = &settings["pluginConfigs"]["cbroker@inline"]["options"];
        let option = |name: &str| options[name].as_str().map(str::to_owned);
        let (program, socket, token) = (option("program")?, option("socket")?, option("token")?);
        let instance = format!("instance {}", std::process::id());
        let mut stream = Command::new(program)
            .args(["hook", "stream", "--socket", &socket])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let orders = stream.stdout.take().unwrap();
        let mut stdin = stream.stdin.take().unwrap();
        let mut plugin = Self {
            socket: socket.into(),
            token,
            instance,
            stream,
        };
        plugin.say(&json!({"is": "hello", "version": "2.1.332", "transcript": transcript}));
        let introduction = json!({"token": plugin.token, "instance": plugin.instance});
        stdin
            .write_all(introduction.to_string().as_bytes())
            .unwrap();
        drop(stdin);
        std::thread::spawn(move || {
            for line in BufReader::new(orders).lines().map_while(Result::ok) {
                let order: Value = serde_json::from_str(&line).unwrap();
                if order["do"] == "submit" {
                    let happening = Happening::Submit {
                        key: order["key"].as_u64().unwrap(),
                        text: order["text"].as_str().unwrap().to_owned(),
                    };
                    let _agent_ended = tell.send(happening);
                }
            }
        });
        Some(plugin)
    }

    /// Tells the session of an event.
    pub(crate) fn say(&mut self, event: &Value) {
        let (token, instance) = (&self.token, &self.instance);
        let body = json!({"token": token, "instance": instance, "events": [event]}).to_string();
        let request = format!(
            "POST /events HTTP/1.1\r\nhost: cbroker\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let Ok(mut session) = UnixStream::connect(&self.socket) else {
            return;
        };
        let _session_ended = session.write_all(request.as_bytes());
        let _answer = session.read_to_end(&mut Vec::new());
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        let _already_gone = self.stream.kill();
        let _status = self.stream.wait();
    }
}

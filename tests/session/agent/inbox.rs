//! The fake agent's inbox socket: it takes lines, answers nothing, and loses silently what the real
//! one loses.
//!
//! Relies on the standard library and on `serde_json`.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cbroker::wrap::ways::process::descends_from;
use serde_json::Value;

use super::Happening;

/// A longer line is lost.
const LINE_LIMIT: usize = 1_048_276;
/// The same body within this is lost.
const SAME_BODY: Duration = Duration::from_secs(30);
/// So many at once, then one in each [`AFTER_BURST`]. The real one takes 30: what comes without a
/// pause is lost here also where a turn takes long.
const BURST: f64 = 22.0;
const AFTER_BURST: Duration = Duration::from_secs(2);

/// What the socket does with what it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It takes it.
    Taking,
    /// It loses everything: the session moved to another process.
    Mute,
    /// The session asks for no permissions: what outside processes send is held behind a dialog.
    Holding,
}

/// The socket; its threads end with the process.
pub(crate) struct Inbox {
    manner: Arc<Mutex<Manner>>,
}

struct Guards {
    bodies: VecDeque<(Instant, String)>,
    /// What may come at once, as it was at a time.
    room: (f64, Instant),
}

impl Guards {
    fn new() -> Self {
        Self {
            bodies: VecDeque::new(),
            room: (BURST, Instant::now()),
        }
    }

    fn takes(&mut self, body: &str) -> bool {
        let now = Instant::now();
        let is_known = |(at, sent): &(Instant, String)| now < *at + SAME_BODY && sent == body;
        if self.bodies.iter().any(is_known) {
            return false;
        }
        let (room, at) = self.room;
        let passed = now.duration_since(at).as_secs_f64() / AFTER_BURST.as_secs_f64();
        let room = (room + passed).min(BURST);
        self.room = (room, now);
        if room < 1.0 {
            return false;
        }
        self.room.0 -= 1.0;
        self.bodies.push_back((now, body.to_owned()));
        true
    }
}

impl Inbox {
    /// Listens in a folder of `stage`. Gives the socket's path.
    pub(crate) fn listen(
        stage: &Path,
        manner: Manner,
        tell: SyncSender<Happening>,
    ) -> (Self, PathBuf) {
        let folder = stage.join("cc-socks");
        let _another_agent_made_it = std::fs::create_dir(&folder);
        let path = folder.join(format!("{}.sock", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let manner = Arc::new(Mutex::new(manner));
        let guards = Arc::new(Mutex::new(Guards::new()));
        let inbox = Self {
            manner: Arc::clone(&manner),
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (manner, guards) = (Arc::clone(&manner), Arc::clone(&guards));
                let tell = tell.clone();
                std::thread::spawn(move || serve(stream, &manner, &guards, &tell));
            }
        });
        (inbox, path)
    }

    /// From now on it does this.
    pub(crate) fn behave(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }
}

/// The process that wrote to the socket.
#[cfg(target_os = "linux")]
fn peer(stream: &UnixStream) -> Option<i32> {
    let peer = rustix::net::sockopt::socket_peercred(stream).ok()?;
    Some(peer.pid.as_raw_nonzero().get())
}

/// Not known here.
#[cfg(not(target_os = "linux"))]
fn peer(_stream: &UnixStream) -> Option<i32> {
    None
}

fn serve(
    stream: UnixStream,
    manner: &Mutex<Manner>,
    guards: &Mutex<Guards>,
    tell: &SyncSender<Happening>,
) {
    let us = i32::try_from(std::process::id()).unwrap();
    let is_child = peer(&stream).is_some_and(|pid| descends_from(pid, us));
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let Ok(line) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        let Some(text) = line["message"]["content"].as_str() else {
            continue;
        };
        let manner = *manner.lock().unwrap();
        let is_lost = manner == Manner::Mute || line.to_string().chars().count() > LINE_LIMIT;
        if line["type"] != "user" || is_lost || !guards.lock().unwrap().takes(text) {
            continue;
        }
        let happening = if manner == Manner::Holding && !is_child {
            Happening::Held(text.to_owned())
        } else {
            Happening::Inbox {
                text: text.to_owned(),
                is_next: line["priority"] == "next",
            }
        };
        let _agent_ended = tell.send(happening);
    }
}

//! The socket with which `cbroker screen` reads the screen of a session, and its client.
//!
//! The screen does not go through a broker: the socket is in a private folder, has mode 0600, and
//! both sides check that the peer runs as the same user. The client sends a session's name and a
//! line feed. A session of that name answers with one JSON object; any other closes the connection.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::config::Home;
use crate::name::SessionName;
use crate::panics;

/// The extension of a socket's file name, after the session's ULID.
pub(super) const SUFFIX: &str = "screen";
/// Time limit on either side.
const PATIENCE: Duration = Duration::from_secs(5);
/// Maximum bytes of a query: a name and a line feed.
const QUESTION_BYTES: u64 = 80;
/// Maximum bytes of an answer. A screen of 1000 by 1000 cells needs a fraction of this.
const ANSWER_BYTES: u64 = 64 << 20;
/// Delay before the next accept after an error.
const AGAIN: Duration = Duration::from_millis(100);

/// The screen of one session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionScreen {
    /// The session's name.
    pub name: String,
    /// Its ULID.
    pub session: String,
    /// The size of its window.
    pub rows: u16,
    /// The size of its window.
    pub columns: u16,
    /// Its lines, as the program drew them, without empty ones at the end.
    pub lines: Vec<String>,
}

/// The text of the screen, which only the session's loop can read.
#[derive(Debug)]
pub(super) struct ScreenText {
    pub(super) rows: u16,
    pub(super) columns: u16,
    pub(super) lines: Vec<String>,
}

/// A query to the session's loop: the sender of the answer.
pub(super) type ScreenQuestion = oneshot::Sender<ScreenText>;

/// The session that the screen belongs to.
#[derive(Debug, Clone)]
pub(super) struct ScreenOwner {
    pub(super) name: String,
    pub(super) session: String,
}

/// The socket. Removed when dropped.
#[derive(Debug)]
pub(super) struct ScreenSocket {
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl ScreenSocket {
    /// Listens on `path` for clients of this user.
    pub(super) fn listen(
        path: &Path,
        owner: ScreenOwner,
    ) -> io::Result<(Self, mpsc::Receiver<ScreenQuestion>)> {
        let _left_by_a_crash = std::fs::remove_file(path);
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        let (ask, asked) = mpsc::channel(1);
        let task = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    // One client at a time: an answer takes little time.
                    Ok((stream, _)) if is_own(&stream) => {
                        let answering = answer(stream, &owner, &ask);
                        let _slow_or_gone = tokio::time::timeout(PATIENCE, answering).await;
                    }
                    Ok(_) => {}
                    // Usually no file descriptor is free, which is temporary.
                    Err(_) => tokio::time::sleep(AGAIN).await,
                }
            }
        });
        let path = path.to_owned();
        Ok((Self { path, task }, asked))
    }
}

impl Drop for ScreenSocket {
    fn drop(&mut self) {
        self.task.abort();
        let _already_gone = std::fs::remove_file(&self.path);
    }
}

/// Whether the process at the other end runs as this user.
fn is_own(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own)
}

async fn answer(
    mut stream: UnixStream,
    owner: &ScreenOwner,
    ask: &mpsc::Sender<ScreenQuestion>,
) -> io::Result<()> {
    let mut name = Vec::new();
    let mut question = (&mut stream).take(QUESTION_BYTES);
    while name.last() != Some(&b'\n') {
        if question.read_buf(&mut name).await? == 0 {
            return Ok(());
        }
    }
    if name.trim_ascii_end() != owner.name.as_bytes() {
        return Ok(());
    }
    panics::panic_if_test_asks("screen");
    let (reply, text) = oneshot::channel();
    let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
    ask.send(reply).await.map_err(|_| gone())?;
    let ScreenText {
        rows,
        columns,
        lines,
    } = text.await.map_err(|_| gone())?;
    let ScreenOwner { name, session } = owner.clone();
    let shown = SessionScreen {
        name,
        session,
        rows,
        columns,
        lines,
    };
    stream.write_all(&serde_json::to_vec(&shown)?).await?;
    stream.shutdown().await
}

/// Requests the screen of every session with this name in this home.
pub async fn screens_of(name: &SessionName, home: &Home) -> Vec<SessionScreen> {
    let mut screens = Vec::new();
    for socket in home.session_sockets(SUFFIX) {
        // A session that does not answer has ended or has another name.
        let asked = tokio::time::timeout(PATIENCE, ask(&socket, name)).await;
        screens.extend(asked.ok().and_then(Result::ok).flatten());
    }
    screens.sort_by(|a, b| a.session.cmp(&b.session));
    screens
}

async fn ask(socket: &Path, name: &SessionName) -> io::Result<Option<SessionScreen>> {
    let mut stream = UnixStream::connect(socket).await?;
    if !is_own(&stream) {
        return Ok(None);
    }
    stream.write_all(format!("{name}\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut answer).await?;
    Ok(serde_json::from_slice(&answer).ok())
}

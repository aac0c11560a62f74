//! The socket of the agent's hooks. Hooks report the agent's events on it, and a waiting hook
//! delivers a message without the keyboard.
//!
//! A client must send the session's token first. The commands of its hooks name the private file
//! that holds it, because other users can read command lines. Programs that find the socket and do
//! not send the token get no message and are ignored.
//!
//! Relies on tokio for the socket and on `serde_json` for the hooks' input.

mod origin;
mod waiter;

use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::agent_state::HookEvent;
use super::hook::{self, AgentEnvironment};
use super::own_status;
use super::session_files::SettingsUsers;
use super::ways::claude_inbox::InboxAddress;
use super::ways::{HookOrigin, SubmissionNumber};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc};

use crate::config::write_private;
use origin::Origins;
pub(super) use waiter::Waiter;

/// Maximum bytes of a message, more than the client sends.
const INPUT_LIMIT: u32 = (1 << 20) + 256;
/// Time limit for a hook's message.
const PATIENCE: Duration = Duration::from_secs(2);
/// Delay before the next accept after an error.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Seconds until Claude Code ends a waiting hook. Its default is ten minutes. In milliseconds this
/// must fit into 31 bits, or the timer fires at once.
const WAITER_SECONDS: u32 = 20 * 24 * 3600;
const HOOK_SECONDS: u32 = 5;
/// The permission mode of a session that bypasses permissions.
const BYPASS_PERMISSIONS: &str = "bypassPermissions";

/// A report of the hooks to the session.
#[derive(Debug)]
pub(super) enum HookReport {
    /// An event of the agent, and the process and files that it came from.
    Event(HookEvent, HookOrigin),
    /// A waiting hook arrived, which can deliver a message.
    Waiter(Waiter),
    /// The waiting hook with this number ended without a message.
    WaiterGone(u64),
    /// The waiting hook has the submission.
    HandedOver(SubmissionNumber),
    /// The submission is in the model's context, according to the transcript.
    InContext(SubmissionNumber),
    /// A hook of the person refused the submission, for this reason.
    Refused(SubmissionNumber, String),
    /// The agent took the submission, and nothing shows that the model has it.
    Unread(SubmissionNumber),
    /// The waiting hook ended before it got the submission.
    NotTaken(SubmissionNumber),
    /// The waiting hook got the submission, and the transcript never showed that the agent accepted
    /// it.
    Unseen(SubmissionNumber),
    /// The agent's process that got the submission ended before the proof.
    Lost(SubmissionNumber),
}

/// Where a session's hooks report, and what they prove themselves with.
#[derive(Clone, Debug)]
pub(super) struct HookAddress {
    /// The socket.
    pub socket: PathBuf,
    /// The private file with the token.
    pub token_file: PathBuf,
}

/// The socket. Removed when dropped, with the token.
#[derive(Debug)]
pub(super) struct Hooks {
    address: HookAddress,
    task: tokio::task::JoinHandle<()>,
}

impl Hooks {
    /// Listens for hooks of this user, and writes the token that they must send. Records in `users`
    /// whether other processes run the hooks too.
    pub(super) fn listen(
        address: &HookAddress,
        users: SettingsUsers,
    ) -> io::Result<(Self, mpsc::Receiver<HookReport>)> {
        let token = token()?;
        write_private(&address.token_file, token.as_bytes())?;
        let path = &address.socket;
        let _left_by_a_crash = std::fs::remove_file(path);
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        let (reports, received) = mpsc::channel(256);
        let origins = Arc::new(Mutex::new(Origins::new(users)));
        let token = Arc::new(token);
        let task = tokio::spawn(async move {
            let mut number = 0;
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        number += 1;
                        let caller = HookCaller {
                            token: Arc::clone(&token),
                            origins: Arc::clone(&origins),
                            number,
                        };
                        tokio::spawn(serve(stream, caller, reports.clone()));
                    }
                    // Usually no file descriptor is free, which is temporary.
                    Err(_) => tokio::time::sleep(ACCEPT_RETRY).await,
                }
            }
        });
        Ok((
            Self {
                address: address.clone(),
                task,
            },
            received,
        ))
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        self.task.abort();
        for file in [&self.address.socket, &self.address.token_file] {
            let _already_gone = std::fs::remove_file(file);
        }
    }
}

/// Generates the token of a session: 128 random bits in hexadecimal digits.
fn token() -> io::Result<String> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    Ok(random.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    }))
}

/// Compares two tokens in constant time.
fn tokens_match(token: &[u8], claimed: &[u8]) -> bool {
    let differences = token
        .iter()
        .zip(claimed)
        .fold(0, |seen, (one, other)| seen | (one ^ other));
    token.len() == claimed.len() && std::hint::black_box(differences) == 0
}

/// The hooks for `--settings`, each a call of `program` (this binary) with this address.
pub(super) fn settings(program: &Path, address: &HookAddress) -> Value {
    let (socket, token) = (quoted(&address.socket), quoted(&address.token_file));
    let program = quoted(program);
    let call = |event: &str| {
        format!(
            "{program} {} {event} --socket {socket} --token-file {token}",
            hook::VERB
        )
    };
    let plain =
        |event: &str| json!({"type": "command", "command": call(event), "timeout": HOOK_SECONDS});
    let waiter = json!({
        "type": "command", "command": call(hook::WAIT), "timeout": WAITER_SECONDS,
        "asyncRewake": true,
        "rewakeMessage": "A message from a cbroker peer session:",
        "rewakeSummary": "cbroker peer message",
    });
    let mut hooks = json!({});
    for event in [
        "SessionStart",
        "UserPromptSubmit",
        "PreToolUse",
        "PostToolUse",
        "PermissionRequest",
        "Stop",
        "StopFailure",
        "SessionEnd",
    ] {
        let mut calls = vec![plain(event)];
        if matches!(event, "SessionStart" | "Stop") {
            calls.push(waiter.clone());
        }
        hooks[event] = json!([{"hooks": calls}]);
    }
    json!({"hooks": hooks})
}

/// Quotes a path for the shell that runs the hook.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"))
}

/// A connection of a hook, with the state that it is checked against.
struct HookCaller {
    token: Arc<String>,
    origins: Arc<Mutex<Origins>>,
    /// Its number in this session.
    number: u64,
}

impl HookCaller {
    /// Locks the origins for this hook, if its process holds the session. Hooks are handled in the
    /// order of their arrival: a hook sends its report before it drops the lock.
    async fn lock_origins(
        &self,
        pid: Option<i32>,
        transcript: Option<PathBuf>,
    ) -> Option<OwnedMutexGuard<Origins>> {
        let mut origins = Arc::clone(&self.origins).lock_owned().await;
        let asked = tokio::task::spawn_blocking(move || {
            let holds_it = origins.holds_session(pid, transcript.as_deref());
            holds_it.then_some(origins)
        });
        asked.await.ok()?
    }
}

async fn serve(mut stream: UnixStream, caller: HookCaller, reports: mpsc::Sender<HookReport>) {
    let Ok(Ok(message)) = tokio::time::timeout(PATIENCE, read_message(&mut stream)).await else {
        return;
    };
    let mut parts = message.splitn(4, |&byte| byte == b'\n');
    if !tokens_match(caller.token.as_bytes(), parts.next().unwrap_or_default()) {
        return;
    }
    let name = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let environment: AgentEnvironment = parts
        .next()
        .and_then(|json| serde_json::from_slice(json).ok())
        .unwrap_or_default();
    let input: Value = parts
        .next()
        .and_then(|input| serde_json::from_slice(input).ok())
        .unwrap_or_default();
    let pid = environment.pid.parse().ok();
    let Some(origins) = caller.lock_origins(pid, transcript_of(&input)).await else {
        return;
    };
    if name == hook::WAIT {
        drop(origins);
        let hook = waiter::WaitingHook {
            number: caller.number,
            pid,
            transcript: transcript_of(&input),
        };
        waiter::serve(stream, hook, reports).await;
    } else if let Some(event) = parse_event(&name, &input) {
        let origin = HookOrigin {
            pid,
            transcript: transcript_of(&input),
            status_file: own_status::path(&environment.folder, &environment.pid),
            inbox: InboxAddress::new(&environment.socket, &environment.token, &environment.pid),
            bypasses_permissions: input["permission_mode"]
                .as_str()
                .map(|mode| mode == BYPASS_PERMISSIONS),
        };
        let _session_ended = reports.send(HookReport::Event(event, origin)).await;
    }
}

async fn read_message(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u32().await?;
    if length > INPUT_LIMIT {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length as usize];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

fn transcript_of(input: &Value) -> Option<PathBuf> {
    let path = input.get("transcript_path")?.as_str()?;
    (!path.is_empty()).then(|| PathBuf::from(path))
}

/// Parses a hook's name and input; `None` if the event is not used.
fn parse_event(name: &str, input: &Value) -> Option<HookEvent> {
    let text = |key: &str| {
        input
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    Some(match name {
        "SessionStart" => HookEvent::SessionStart,
        "UserPromptSubmit" => HookEvent::PromptSubmitted(text("prompt")),
        "PreToolUse" => HookEvent::ToolStarted,
        "PostToolUse" => HookEvent::ToolEnded,
        "PermissionRequest" => HookEvent::PermissionAsked(text("tool_name")),
        "Stop" | "StopFailure" => HookEvent::TurnEnded,
        "SessionEnd" => HookEvent::SessionEnd,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::AsyncWriteExt;

    use super::*;

    fn address(folder: &Path) -> HookAddress {
        HookAddress {
            socket: folder.join("s.sock"),
            token_file: folder.join("s.token"),
        }
    }

    #[test]
    fn tokens_are_compared_completely() {
        let (one, other) = (token().unwrap(), token().unwrap());
        assert_eq!(one.len(), 32);
        assert!(tokens_match(one.as_bytes(), one.as_bytes()));
        for claimed in [other.as_str(), "", &one[1..], &format!("{one}0")] {
            assert!(
                !tokens_match(one.as_bytes(), claimed.as_bytes()),
                "{claimed}"
            );
        }
    }

    #[test]
    fn hooks_call_this_binary_with_quoted_paths() {
        let program = Path::new("/opt/it's here/cbroker");
        let settings = settings(program, &address(Path::new("/run")));
        let command = settings["hooks"]["Stop"][0]["hooks"][0]["command"]
            .as_str()
            .unwrap();
        assert_eq!(
            command,
            r"'/opt/it'\''s here/cbroker' hook Stop ".to_owned()
                + "--socket '/run/s.sock' --token-file '/run/s.token'"
        );
        assert_eq!(
            settings["hooks"]["Stop"][0]["hooks"][1]["asyncRewake"],
            true
        );
        assert_eq!(
            settings["hooks"]["PreToolUse"][0]["hooks"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
    }

    #[test]
    fn events_of_hooks_are_parsed() {
        let input = json!({"tool_name": "Bash", "prompt": "hello"});
        assert_eq!(
            parse_event("PermissionRequest", &input),
            Some(HookEvent::PermissionAsked("Bash".into()))
        );
        assert_eq!(
            parse_event("UserPromptSubmit", &input),
            Some(HookEvent::PromptSubmitted("hello".into()))
        );
        assert_eq!(
            parse_event("StopFailure", &input),
            Some(HookEvent::TurnEnded)
        );
        assert_eq!(parse_event("PreCompact", &input), None);
    }

    /// Connects as a hook with this event.
    async fn hook(address: &HookAddress, event: &str) -> UnixStream {
        let mut stream = UnixStream::connect(&address.socket).await.unwrap();
        let token = std::fs::read_to_string(&address.token_file).unwrap();
        let message = format!("{token}\n{event}\n{{}}\n{{}}");
        let length = u32::try_from(message.len()).unwrap();
        stream.write_u32(length).await.unwrap();
        stream.write_all(message.as_bytes()).await.unwrap();
        stream
    }

    #[tokio::test]
    async fn the_end_of_a_waiter_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let address = address(folder.path());
        let (_hooks, mut reports) = Hooks::listen(&address, SettingsUsers::default()).unwrap();
        let stream = hook(&address, hook::WAIT).await;
        let Some(HookReport::Waiter(waiter)) = reports.recv().await else {
            panic!("no waiter");
        };
        drop(stream);
        let gone = tokio::time::timeout(Duration::from_secs(10), reports.recv()).await;
        assert!(
            matches!(gone, Ok(Some(HookReport::WaiterGone(number))) if number == waiter.number)
        );
    }

    #[tokio::test]
    async fn a_dropped_waiter_is_released() {
        let folder = tempfile::tempdir().unwrap();
        let address = address(folder.path());
        let (_hooks, mut reports) = Hooks::listen(&address, SettingsUsers::default()).unwrap();
        let mut stream = hook(&address, hook::WAIT).await;
        drop(reports.recv().await);
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, [hook::RELEASE]);
    }

    #[test]
    fn the_settings_register_all_needed_events_and_waiters() {
        let settings = settings(Path::new("/c"), &address(Path::new("/s")));
        let hooks = settings["hooks"].as_object().unwrap();
        for (event, groups) in hooks {
            assert!(parse_event(event, &json!({})).is_some(), "{event}");
            let calls = groups[0]["hooks"].as_array().unwrap().len();
            let has_waiter = matches!(event.as_str(), "SessionStart" | "Stop");
            assert_eq!(calls, if has_waiter { 2 } else { 1 }, "{event}");
        }
        let events: Vec<&str> = hooks.keys().map(String::as_str).collect();
        for event in [
            "PermissionRequest",
            "PostToolUse",
            "StopFailure",
            "UserPromptSubmit",
        ] {
            assert!(events.contains(&event), "{event}");
        }
    }
}

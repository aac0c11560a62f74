//! A fake agent that looks and behaves like Claude Code where it was measured: an input box between
//! two rules, drafts, paste detection, shell mode, a permission dialog, busy turns, a title, hooks,
//! the views beside the main prompt, and the ways without a keyboard: a background hook, the
//! plugin, the inbox socket.
//!
//! What happens in it is written to `$STAGE/agent.log`, a line each. Words in a prompt script it:
//! `SLOWn` makes a turn of n tenths of a second, `TOOLn` one whose first n tenths are a tool,
//! `ASK{word}` opens a permission dialog whose approval is logged as `approved word`, and `PLAN`
//! the plan dialog, whose approval is `approved plan`. `/model` and `/resume` open menus, Ctrl-O
//! the transcript. The left arrow opens the agents view, twice the arrow downwards and Enter a
//! subagent's; Escape leads back.
//!
//! `AGENT` in the environment lists quirks:
//!
//! | quirk | what it does |
//! |---|---|
//! | `nohooks`, `notitle` | as it says |
//! | `slow`, `sluggish` | draws 0.4 s late, or 2.5 s after each key |
//! | `pause` | reads nothing for 3 s after the first paste |
//! | `lost`, `swallow` | swallows the first Enter of each prompt, or the first paste |
//! | `late` | starts after a second |
//! | `forgetful` | writes no transcript |
//! | `registers` | its own folder says which process and transcript it is |
//! | `deaf` | takes a prompt, or what came without a key, and does nothing with it |
//! | `refuse` | a hook of the person's refuses prompts with the word `REFUSE` |
//! | `untold` | the transcript does not say that a prompt was refused |
//! | `stops` | at a turn's end the frame says for a while "esc to interrupt" |
//! | `plugin` | loads the plugin; `spare`: a spare process loads it too |
//! | `inbox` | has an inbox socket |
//! | `belated` | what its inbox gets has no row, but for the first once `$STAGE/row` is there |
//! | `mute`, `bypass` | its inbox loses everything, or holds what is not from a child |
//! | `moves`, `claims` | the agents view moves the session to another process, or the spare one |
//! | `lingers` | the process that it moves to begins nothing before there is `$STAGE/move` |
//! | `stubborn` | neither a hang-up nor a polite signal ends it |
//! | `unarmed` | no hook waits in the spare process before there is `$STAGE/arm` |
//! | `vim` | the box has vim's keys, in INSERT mode: Escape leads to NORMAL, `i` back |
//! | `trust`, `plan` | begins with the trust dialog; a turn with `PLAN` ends at the plan dialog |
//!
//! Relies on the sink's terminal mode.

pub(crate) mod codex;
mod draw;
mod elsewhere;
pub(crate) mod gemini;
mod hooks;
mod inbox;
mod input;
mod key_actions;
mod messages;
mod modes;
pub(crate) mod opencode;
mod own_files;
mod plugin;
mod prompt_line;
mod quirks;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::{signals, sink};
use hooks::Hooks;
use inbox::{Inbox, Manner};
use input::Parser;
use messages::Source;
use plugin::Plugin;
use quirks::Quirks;

/// Between keys and what they do, where the agent is sluggish.
const SLUGGISH: Duration = Duration::from_millis(2500);
/// It reads nothing for so long after a paste, where it pauses.
const PAUSE: Duration = Duration::from_secs(3);
/// The frame after a turn's end says what was before.
const STOPS: Duration = Duration::from_millis(300);

/// What reaches the agent's one loop.
pub(crate) enum Happening {
    /// Bytes of one read.
    Bytes(Vec<u8>),
    /// A background hook ended with 2 and these words.
    Reminder(String),
    /// A line of the inbox.
    Inbox {
        /// Its content.
        text: String,
        /// Its priority is `next`.
        is_next: bool,
    },
    /// A line of the inbox that is held behind a dialog.
    Held(String),
    /// The plugin shall submit a prompt.
    Submit {
        /// The session's key for it.
        key: u64,
        /// The prompt.
        text: String,
    },
    /// No more input.
    Closed,
}

enum State {
    Idle,
    Turn {
        until: Instant,
        /// When its tool ends.
        tool: Option<Instant>,
    },
    Dialog {
        word: String,
    },
    /// A menu is open: what it shows first.
    Menu(&'static str),
    /// A message of another session is held; Enter denies it.
    Held,
    /// The folder is to be trusted; nothing else runs yet.
    Trust,
}

/// What has the focus.
#[derive(Clone, Copy, PartialEq, Eq)]
enum View {
    Main,
    Agents,
    Subagent,
    /// The whole transcript, until Ctrl-O or Escape.
    Transcript,
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one thing that is so or not"
)]
struct Agent {
    stage: PathBuf,
    box_text: String,
    is_shell: bool,
    /// vim's NORMAL mode: letters are commands.
    is_normal: bool,
    state: State,
    view: View,
    /// Arrows downwards since the last other key.
    downs: u8,
    history: Vec<String>,
    waiting: VecDeque<(Source, String)>,
    hooks: Hooks,
    plugin: Option<Plugin>,
    inbox: Option<Inbox>,
    /// The process that the session moved to.
    moved: Option<Child>,
    spare: Option<Child>,
    /// The person pressed Escape in a turn and has sent nothing since.
    is_stopped: bool,
    /// The last frame of a turn still stands.
    stops: bool,
    /// Rows and columns that were drawn last.
    window: (usize, usize),
    quirks: Quirks,
    swallowed: bool,
    /// A text of the inbox's has its row late.
    is_belated: bool,
    swallowed_paste: bool,
    log: std::fs::File,
}

/// Runs until `/exit`, Ctrl-D or the end of input.
pub(crate) fn run(arguments: &[OsString]) -> ExitCode {
    let stage = std::env::var_os("STAGE")
        .map(PathBuf::from)
        .unwrap_or_default();
    let mut log = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(stage.join("agent.log"))
        .unwrap();
    if elsewhere::is_meant(arguments) {
        return elsewhere::run(arguments, &stage, |what| write_line(&mut log, what));
    }
    let quirks = Quirks::of_environment();
    if quirks.has("stubborn") {
        signals::ignore_the_end();
    }
    let (tell, hear) = sync_channel(1024);
    let mut agent = Agent::new(arguments, &stage, &tell, quirks, log);
    agent.note(&format!("process {}", std::process::id()));
    agent.note(&format!("arguments {arguments:?}"));
    agent.note(&format!("settings {}", agent.hooks.settings()));
    sink::raw();
    let pause = agent.quirks.has("pause");
    read_keys(tell.clone(), pause);
    if agent.quirks.has("late") {
        std::thread::sleep(Duration::from_secs(1));
    }
    sink::say("\x1b[?2004h\x1b[?1004h\x1b[?25l");
    agent.draw();
    if agent.quirks.has("trust") {
        agent.ask_for_trust(&hear);
    }
    agent.open(&tell);
    agent.hooks.run("SessionStart", &[]);
    if agent.quirks.has("spare") {
        let settings = agent.hooks.given();
        agent.spare = Some(elsewhere::begin_spare(&agent.stage, settings));
    }
    agent.note("started");
    agent.live(&hear);
    sink::say("\x1b[?25h\x1b[?1004l\x1b[?2004l");
    agent.close();
    ExitCode::SUCCESS
}

/// Reads keys in the background, which no state of the agent stops.
fn read_keys(tell: SyncSender<Happening>, mut pauses: bool) {
    std::thread::spawn(move || {
        let mut piece = vec![0; 65536];
        loop {
            let count = std::io::stdin().read(&mut piece).unwrap_or(0);
            let happening = if count == 0 {
                Happening::Closed
            } else {
                Happening::Bytes(piece[..count].to_vec())
            };
            let is_paste = String::from_utf8_lossy(&piece[..count]).contains("\x1b[201~");
            if is_paste && std::mem::take(&mut pauses) {
                let _unseen = std::fs::write(stage_path("paused"), "");
                std::thread::sleep(PAUSE);
            }
            if tell.send(happening).is_err() || count == 0 {
                return;
            }
        }
    });
}

fn stage_path(name: &str) -> PathBuf {
    let stage = std::env::var_os("STAGE").map(PathBuf::from);
    stage.unwrap_or_default().join(name)
}

fn write_line(log: &mut std::fs::File, what: &str) {
    log.write_all(format!("{what}\n").as_bytes()).unwrap();
}

impl Agent {
    fn new(
        arguments: &[OsString],
        stage: &Path,
        tell: &SyncSender<Happening>,
        quirks: Quirks,
        log: std::fs::File,
    ) -> Self {
        let transcript = if quirks.has("registers") {
            own_files::register()
        } else {
            stage.join("transcript.jsonl")
        };
        Self {
            stage: stage.to_owned(),
            box_text: String::new(),
            is_shell: false,
            is_normal: false,
            state: State::Idle,
            view: View::Main,
            downs: 0,
            history: Vec::new(),
            waiting: VecDeque::new(),
            hooks: Hooks::of(arguments, transcript, tell.clone(), &quirks),
            plugin: None,
            inbox: None,
            moved: None,
            spare: None,
            is_stopped: false,
            stops: false,
            window: (0, 0),
            quirks,
            swallowed: false,
            is_belated: false,
            swallowed_paste: false,
            log,
        }
    }

    /// Opens the ways without a keyboard.
    fn open(&mut self, tell: &SyncSender<Happening>) {
        if self.quirks.has("inbox") {
            let manner = match () {
                () if self.quirks.has("mute") => Manner::Mute,
                () if self.quirks.has("bypass") => Manner::Holding,
                () => Manner::Taking,
            };
            let (inbox, path) = Inbox::listen(&self.stage, manner, tell.clone());
            self.hooks.name_inbox(path);
            self.inbox = Some(inbox);
        }
        if self.quirks.has("plugin") {
            let (settings, transcript) = (self.hooks.settings(), self.hooks.transcript());
            self.plugin = Plugin::load(settings, transcript, tell.clone());
        }
    }

    /// Ends the other processes.
    fn close(&mut self) {
        for mut child in [self.moved.take(), self.spare.take()].into_iter().flatten() {
            drop(child.stdin.take());
            let _status = child.wait();
        }
    }

    fn live(&mut self, hear: &Receiver<Happening>) {
        let mut parser = Parser::default();
        loop {
            let wait = self.due().map_or(Duration::from_hours(1), |due| {
                due.saturating_duration_since(Instant::now())
            });
            match hear.recv_timeout(wait) {
                Ok(Happening::Bytes(bytes)) => {
                    let keys = parser.read(&bytes);
                    for key in &keys {
                        if self.press(key) {
                            return;
                        }
                    }
                    if self.quirks.has("slow") {
                        std::thread::sleep(Duration::from_millis(400));
                    }
                    if self.quirks.has("sluggish") && !keys.is_empty() {
                        self.note("reads keys");
                        std::thread::sleep(SLUGGISH);
                    }
                }
                // Its terminal is gone.
                Ok(Happening::Closed) if self.quirks.has("stubborn") => {
                    self.note("stays");
                }
                Ok(Happening::Closed) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(happening) => self.receive(happening),
                Err(RecvTimeoutError::Timeout) => self.pass_time(),
            }
            self.take_waiting();
            self.draw();
        }
    }

    fn pass_time(&mut self) {
        let now = Instant::now();
        if let State::Turn { until, tool } = &mut self.state
            && now < *until
        {
            if tool.is_some_and(|tool| now >= tool) {
                *tool = None;
                self.hooks.run("PostToolUse", &[("tool_name", "Bash")]);
                self.take_between_tools();
            }
            return;
        }
        self.end_turn();
    }

    /// The person, or somebody at the keyboard, submitted a prompt.
    fn prompt(&mut self, text: &str) {
        self.is_stopped = false;
        self.tell(&json!({"is": "person"}));
        if self.refuses(text) {
            self.note(&format!("refused {text}"));
            self.history.push("a hook blocked the prompt".to_owned());
            self.transcribe_refusal(text);
            self.hooks.run("UserPromptSubmit", &[("prompt", text)]);
            return;
        }
        self.note(&format!("submitted {}", text.replace('\n', "\\n")));
        self.history.push(text.to_owned());
        self.hooks.transcribe(text);
        self.begin_turn(text);
    }

    fn begin_turn(&mut self, prompt: &str) {
        let tool = tenths(prompt, "TOOL");
        let rest = tenths(prompt, "SLOW").unwrap_or(Duration::from_millis(200));
        let begin = Instant::now();
        self.state = State::Turn {
            until: begin + tool.unwrap_or_default() + rest,
            tool: tool.map(|tool| begin + tool),
        };
        self.draw();
        self.tell(&json!({"is": "turn"}));
        self.hooks.run("UserPromptSubmit", &[("prompt", prompt)]);
        if tool.is_some() {
            self.hooks.run("PreToolUse", &[("tool_name", "Bash")]);
        }
        if prompt.contains("PLAN") {
            self.hooks
                .run("PermissionRequest", &[("tool_name", "ExitPlanMode")]);
            self.tell(&json!({"is": "ask", "call": "one", "tool": "ExitPlanMode"}));
            self.state = State::Dialog {
                word: "plan".to_owned(),
            };
        }
        if let Some(word) = prompt
            .split("ASK{")
            .nth(1)
            .and_then(|rest| rest.split('}').next())
        {
            self.hooks
                .run("PermissionRequest", &[("tool_name", "Bash")]);
            self.tell(&json!({"is": "ask", "call": "one", "tool": "Bash"}));
            self.state = State::Dialog {
                word: word.to_owned(),
            };
        }
    }

    fn end_turn(&mut self) {
        self.state = State::Idle;
        self.stops = self.quirks.has("stops");
        self.draw();
        self.tell(&json!({"is": "rest", "why": "done"}));
        self.hooks.run("Stop", &[]);
        if std::mem::take(&mut self.stops) {
            std::thread::sleep(STOPS);
            self.draw();
        }
        self.note("turn ended");
    }

    fn note(&mut self, what: &str) {
        write_line(&mut self.log, what);
    }
}

/// The number of tenths of a second behind a word.
fn tenths(prompt: &str, word: &str) -> Option<Duration> {
    let rest = prompt.split(word).nth(1)?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let tenths: u64 = digits.parse().ok()?;
    Some(Duration::from_millis(100 * tenths))
}

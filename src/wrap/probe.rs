//! `cbroker doctor --probe AGENT`: starts the installed agent in a hidden terminal and checks which
//! of the signs that the wrap relies on it shows on this machine. Nothing is submitted, and the
//! agent is ended by a hang-up.
//!
//! Relies on the same parts as a session.

mod sandbox;

use std::ffi::OsStr;
use std::time::{Duration, Instant};

use rustix::termios::Winsize;
use tokio::sync::mpsc::Receiver;

use super::agent_state::HookEvent;
use super::agents::Profile;
use super::agents::reading::{Input, ScreenReading};
use super::child_env;
use super::hooks::{self, HookAddress, HookReport, Hooks};
use super::modes::Modes;
use super::monitor::OnWrapExit;
use super::pty::{CommandLine, Program, ProgramSetup, find_program};
use super::screen::Screen;
use super::session_files::SessionFiles;
use crate::config::{Config, write_private};
use crate::error::Error;

/// Time limit for an agent to show all signs.
const WITHIN: Duration = Duration::from_secs(15);
const EVERY: Duration = Duration::from_millis(20);
const SIZE: Winsize = Winsize {
    ws_row: 40,
    ws_col: 120,
    ws_xpixel: 0,
    ws_ypixel: 0,
};

/// A sign of the agent, and whether it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeSign {
    /// What was looked for.
    pub what: &'static str,
    /// Whether it was seen.
    pub is_seen: bool,
    /// What was seen, or what its absence means.
    pub detail: String,
    /// What to do about its absence.
    pub mend: Option<&'static str>,
}

/// Starts `agent` and watches it for at most fifteen seconds.
///
/// # Errors
/// If the agent is not installed or cannot be started.
pub async fn probe(agent: &OsStr, config: &Config) -> Result<Vec<ProbeSign>, Error> {
    let profile = Profile::of(agent, &[]);
    let shown = agent.to_string_lossy();
    if find_program(agent, config.environment.get("PATH")).is_none() {
        return Err(Error::new(format!("{shown} cannot be run"))
            .caused_by("there is no such program on the PATH"));
    }
    let failed =
        |error: std::io::Error| Error::new(format!("{shown} cannot be probed")).caused_by(error);
    config.home.prepare().map_err(failed)?;
    let session = ulid::Ulid::generate().to_string();
    let files = SessionFiles::of(&config.home, &session);
    let address = HookAddress {
        socket: config.home.socket(&format!("{session}.sock")),
        token_file: config.home.session_token(&session),
    };
    let users = files.settings_users();
    let (hooks, reports) = Hooks::listen(&address, users).map_err(failed)?;
    let mut command = CommandLine {
        program: agent.to_owned(),
        arguments: Vec::new(),
        environment: child_env::changed(&config.environment),
    };
    if profile.has_hooks {
        let binary = std::env::current_exe().map_err(failed)?;
        let settings = hooks::settings(&binary, &address).to_string();
        let file = config.home.session_settings(&session);
        write_private(&file, settings.as_bytes()).map_err(failed)?;
        command.arguments = vec!["--settings".into(), file.into()];
    }
    let program = Program::start(
        &command,
        &ProgramSetup {
            modes: None,
            size: SIZE,
            on_wrap_exit: OnWrapExit::EndProgram,
        },
    )
    .map_err(failed)?;
    let mut watch = ProbeWatch {
        profile,
        modes: Modes::default(),
        screen: Screen::new(SIZE.ws_row, SIZE.ws_col),
        reports,
        began: false,
        waits: false,
        reading: ScreenReading::default(),
    };
    watch.run(&program).await;
    drop((program, hooks, files));
    let mut signs = watch.signs();
    signs.push(sandbox::send(profile, config).await);
    Ok(signs)
}

struct ProbeWatch {
    profile: &'static Profile,
    modes: Modes,
    screen: Screen,
    reports: Receiver<HookReport>,
    began: bool,
    waits: bool,
    reading: ScreenReading,
}

impl ProbeWatch {
    async fn run(&mut self, program: &Program) {
        let until = Instant::now() + WITHIN;
        let mut bytes = vec![0; 65536];
        while Instant::now() < until && !self.is_complete() {
            while let Ok(count) = rustix::io::read(program.master(), &mut bytes) {
                if count == 0 {
                    break;
                }
                self.modes.read(&bytes[..count]);
                self.screen.write(&bytes[..count], Instant::now());
            }
            while let Ok(report) = self.reports.try_recv() {
                self.began |= matches!(report, HookReport::Event(HookEvent::SessionStart, _));
                self.waits |= matches!(report, HookReport::Waiter(_));
            }
            self.reading = self.screen.read(self.profile, Instant::now());
            tokio::time::sleep(EVERY).await;
        }
    }

    fn is_complete(&self) -> bool {
        self.signs().iter().all(|sign| sign.is_seen)
    }

    /// Describes the agent's prompt on the screen.
    fn prompt(&self) -> String {
        match (&self.reading.input, &self.reading.dialog) {
            (Input::Absent, Some(dialog)) => format!("a dialog is open instead: {dialog}"),
            (Input::Absent, None) => {
                "the screen does not show the prompt that this version of cbroker knows".to_owned()
            }
            (input, _) => {
                let state = match input {
                    Input::Absent => "without the focus",
                    Input::Empty => "empty",
                    Input::Holds(_) => "holds a text",
                    Input::Shell => "in shell mode",
                    Input::Command => "keys are commands",
                };
                let Profile { name, seen, .. } = self.profile;
                format!("{state}, looks as in {name} {}", seen.join(", "))
            }
        }
    }

    fn signs(&self) -> Vec<ProbeSign> {
        let paste = ProbeSign {
            what: "paste",
            is_seen: self.modes.takes_paste(),
            detail: "bracketed paste".to_owned(),
            mend: Some(
                "without it, texts are typed letter by letter, or not at all into Claude Code",
            ),
        };
        if self.profile.prompt.is_none() && self.profile.line.is_none() {
            return vec![paste];
        }
        let prompt = ProbeSign {
            what: "prompt",
            is_seen: self.reading.input == Input::Empty,
            detail: self.prompt(),
            mend: Some(if self.profile.has_hooks {
                "start the agent once by itself and answer its first questions; otherwise \
                 messages go by the hook"
            } else {
                "start the agent once by itself and answer its first questions"
            }),
        };
        if !self.profile.has_hooks {
            return vec![paste, prompt];
        }
        vec![
            paste,
            prompt,
            ProbeSign {
                what: "title",
                is_seen: self.modes.title().is_some(),
                detail: match self.modes.title() {
                    Some(title) => format!("{title:?}"),
                    None => "none, so titles are not used".to_owned(),
                },
                mend: Some("nothing: the other signals decide"),
            },
            ProbeSign {
                what: "hooks",
                is_seen: self.began,
                detail: "the hook SessionStart".to_owned(),
                mend: Some(
                    "hooks are off (`disableAllHooks` or managed settings): only the screen is \
                     used, with longer pauses",
                ),
            },
            ProbeSign {
                what: "second way",
                is_seen: self.waits,
                detail: "a waiting hook can deliver messages without the keyboard".to_owned(),
                mend: Some("messages wait for a free prompt: drafts, dialogs and turns hold them"),
            },
        ]
    }
}

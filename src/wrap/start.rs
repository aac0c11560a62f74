//! The start and the end of a wrap: checks and prepares everything before the program starts, and
//! cleans up after it.
//!
//! The program runs even if cbroker fails. If the home cannot be used, or no pseudo-terminal can be
//! created, the program replaces this process and runs without messages, after one line on standard
//! error.
//!
//! Relies on all modules of this folder.

mod attach;
mod check;
mod delivery_mode;
mod ways;

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use chrono::Utc;
use tokio::sync::mpsc::Receiver;

use super::agents::{DefaultDelivery, Profile};
use super::brake::{Brake, Limits};
use super::child_env::{self, BrokerReach, HookListener, Identity};
use super::delivery::DeliveryMode;
use super::disk::{DiskPaths, DiskThread};
use super::hooks::{HookAddress, HookReport, Hooks};
use super::log::SessionLog;
use super::monitor::{ChildStatus, OnWrapExit};
use super::opened;
use super::options::{Fallback, WrapOptions};
use super::pty::{CommandLine, Program, ProgramSetup};
use super::screen_socket::{self, ScreenOwner, ScreenQuestion, ScreenSocket};
use super::session::{MessageParts, Parts, Session, SessionMessages};
use super::session_files::{SessionFiles, SettingsUsers};
use super::spill;
use super::terminal::Terminal;
use crate::config::{Config, Environment, Volume, write_session_address};
use crate::error::Error;
use crate::exit::Exit;
use crate::panics;
use crate::peer::{Peer, PeerState, Presence, this_host};
use attach::{Attachment, attach, attach_within, no_answer, without_broker};
use check::exit_of;
pub use check::{CheckedWrap, check};

/// Files of sessions that were killed are removed after this time, which is longer than any session
/// lasts.
const STALE_FILES_KEPT: Duration = Duration::from_hours(30 * 24);

/// Wraps a program and returns its exit code.
///
/// # Errors
/// Only before the program has started; after that its exit code is returned.
pub async fn run(checked: CheckedWrap, config: &Config) -> Result<Exit, Error> {
    let CheckedWrap {
        options,
        profile,
        mode,
    } = checked;
    let unwrapped = UnwrappedProgram::of(&options, config);
    let (identity, terminal) = match prepare(config) {
        Ok(prepared) => prepared,
        Err(why) => return run_without_messages(unwrapped, why),
    };
    match terminal {
        Some(terminal) if child_env::is_session(&options) => {
            let prepared = PreparedStart {
                options,
                mode,
                profile,
                identity,
                terminal,
                unwrapped,
            };
            session(prepared, config).await
        }
        terminal => exec_program(&options, config, &identity, terminal.is_some()).await,
    }
}

/// Creates the files of a session, and opens its terminal if there is one.
fn prepare(config: &Config) -> Result<(Identity, Option<Terminal>), Error> {
    let cannot = |error: std::io::Error| Error::new("the session cannot start").caused_by(error);
    let home_cannot = |error: std::io::Error| {
        Error::new(format!("{} cannot be used", config.home.folder().display())).caused_by(error)
    };
    config.home.prepare().map_err(home_cannot)?;
    let now = SystemTime::now();
    spill::sweep(&config.home.spill(), &["txt"], spill::KEPT, now);
    spill::sweep(
        &config.home.sessions(),
        &[
            "bodies",
            "cred",
            "hops",
            "json",
            "sock",
            "token",
            screen_socket::SUFFIX,
            opened::SUFFIX,
        ],
        STALE_FILES_KEPT,
        now,
    );
    let identity = identity(config).map_err(cannot)?;
    // This also checks whether the home is writable.
    write_session_address(config, &identity.session).map_err(home_cannot)?;
    Ok((identity, Terminal::of_this_process().map_err(cannot)?))
}

/// A program that runs without a wrap, because cbroker fails.
#[derive(Clone, Debug)]
pub struct UnwrappedProgram {
    /// The program.
    pub program: OsString,
    /// Its arguments, unchanged.
    pub arguments: Vec<OsString>,
    /// The environment of this process.
    pub environment: Environment,
    /// Whether it may run without messages.
    pub fallback: Fallback,
}

impl UnwrappedProgram {
    fn of(options: &WrapOptions, config: &Config) -> Self {
        Self {
            program: options.program.clone(),
            arguments: options.arguments.clone(),
            environment: config.environment.clone(),
            fallback: options.fallback,
        }
    }
}

/// Replaces this process by the program, and prints why it gets no messages.
///
/// # Errors
/// `why` if the program must not run without messages; otherwise the error of running it.
pub fn run_without_messages(unwrapped: UnwrappedProgram, why: Error) -> Result<Exit, Error> {
    if unwrapped.fallback == Fallback::Fail {
        return Err(why);
    }
    eprintln!(
        "cbroker: {} (the program runs without messages)",
        why.summary()
    );
    let command = child_env::bare_command(
        unwrapped.program,
        unwrapped.arguments,
        &unwrapped.environment,
    );
    match exec(&command) {
        Ok(never) => match never {},
        Err(error) => Err(error),
    }
}

/// Replaces this process by the program.
fn exec(command: &CommandLine) -> Result<Infallible, Error> {
    let error = command
        .to_command(&command.program)
        .args(&command.arguments)
        .exec();
    let program = command.program.to_string_lossy();
    let exit = exit_of(&error);
    Err(Error::new(format!("{program} cannot be run"))
        .caused_by(error)
        .exit_with(exit))
}

struct PreparedStart {
    options: WrapOptions,
    mode: DeliveryMode,
    profile: &'static Profile,
    identity: Identity,
    terminal: Terminal,
    unwrapped: UnwrappedProgram,
}

fn identity(config: &Config) -> std::io::Result<Identity> {
    let session = ulid::Ulid::generate().to_string();
    Ok(Identity {
        hooks: HookAddress {
            socket: config.home.session_socket(&session, "sock"),
            token_file: config.home.session_token(&session),
        },
        settings_file: config.home.session_settings(&session),
        session,
        binary: std::env::current_exe()?,
        plugin: None,
        arguments: Vec::new(),
        environment: Vec::new(),
    })
}

/// Replaces this process by a program without an interactive terminal. The queue is created, so
/// that messages wait there for a session of this name.
async fn exec_program(
    options: &WrapOptions,
    config: &Config,
    identity: &Identity,
    has_terminal: bool,
) -> Result<Exit, Error> {
    let made = async {
        let mut peer = Peer::connect(&config.endpoint, &format!("run {}", options.name)).await?;
        let mut made = peer
            .ensure_queue(&options.name, options.ttl_ms)
            .await
            .map(drop);
        for group in &options.groups {
            made = made.and(peer.join(&options.name, group).await);
        }
        peer.close().await;
        made
    };
    let reach = match tokio::time::timeout(attach_within(options), made).await {
        Ok(Ok(())) => {
            print_messages_stay_queued(options, config, has_terminal);
            BrokerReach::Attached
        }
        Ok(Err(error)) => without_broker(options, config, error.into())?,
        Err(_) => without_broker(options, config, no_answer(options, config))?,
    };
    let (command, _) = child_env::command(options, config, identity, reach, HookListener::Nobody);
    match exec(&command)? {}
}

fn print_messages_stay_queued(options: &WrapOptions, config: &Config, has_terminal: bool) {
    if config.volume == Volume::Quiet {
        return;
    }
    let why = if has_terminal {
        "the arguments make no interactive session"
    } else {
        "there is no terminal to type into"
    };
    eprintln!(
        "cbroker: messages for `{}` stay queued: {why}",
        options.name
    );
}

/// Records how the session was opened, for `list` and the page.
fn record_command(config: &Config, options: &WrapOptions, log: &mut SessionLog) {
    if let Err(error) = opened::remember(&config.home, options) {
        log.write(&format!("cannot record this session's command: {error}"));
    }
}

async fn session(prepared: PreparedStart, config: &Config) -> Result<Exit, Error> {
    let PreparedStart {
        options,
        mode,
        profile,
        mut identity,
        terminal,
        unwrapped,
    } = prepared;
    let mut log = SessionLog::open(&config.home.session_log(options.name.as_str()));
    let planned = ways::PlannedWays::new(&options, mode, config);
    let attachment = attach(&options, config, &identity).await?;
    let session_files = SessionFiles::of(&config.home, &identity.session);
    let users = session_files.settings_users();
    let hooks = listen_for_hooks(profile, &identity, users, &mut log);
    let screen_socket = show_screen(&options, config, &identity, &mut log);
    let ways = ways::open(planned, config, &mut identity, &mut log).await;
    let (reach, listener) = (attachment.reach, HookListener::Session);
    let (command, remarks) = child_env::command(&options, config, &identity, reach, listener);
    log.write(&format!(
        "session {} of {}: {}, --delivery {mode}",
        identity.session, options.name, profile.name
    ));
    if profile.has_hooks && !options.may_send {
        log.write("with `--allow-send` the agent may call `cbroker send` without asking each time");
    }
    for remark in remarks {
        log.write(&remark);
    }
    let presence = initial_presence(&options, profile, &identity);
    let parts = session_messages(attachment, &options, config, presence)
        .and_then(|messages| Ok((messages, start(&command, profile, &terminal)?)));
    let (messages, program) = match parts {
        Ok(parts) => parts,
        Err(why) => {
            // The program replaces this process, which then drops nothing.
            drop((session_files, hooks));
            return run_without_messages(unwrapped, why);
        }
    };
    record_command(config, &options, &mut log);
    log_panics(config.home.session_log(options.name.as_str()));
    let parts = Parts {
        terminal,
        program,
        profile,
        mode,
        batch: options.batch,
        hooks,
        ways,
        messages,
        screen_socket,
        log,
    };
    let folder = child_env::claude_folder(profile, config);
    let is_bare = child_env::is_bare(&options);
    let end = panics::caught(run_session(parts, folder, is_bare)).await??;
    exit(end, &command.program.to_string_lossy())
}

async fn run_session(
    parts: Parts,
    folder: Option<PathBuf>,
    is_bare: bool,
) -> Result<ChildStatus, Error> {
    let mut session = Session::new(parts)?;
    session.expect_agent(folder, is_bare);
    Box::pin(session.run()).await
}

/// Listens for the agent's hooks, if it has any.
fn listen_for_hooks(
    profile: &Profile,
    identity: &Identity,
    users: SettingsUsers,
    log: &mut SessionLog,
) -> Option<(Hooks, Receiver<HookReport>)> {
    if !profile.has_hooks {
        return None;
    }
    let hooks = Hooks::listen(&identity.hooks, users);
    if let Err(error) = &hooks {
        let path = identity.hooks.socket.display();
        log.write(&format!("no socket for hooks at {path}: {error}"));
    }
    hooks.ok()
}

/// Listens for `cbroker screen`. An error is only logged.
fn show_screen(
    options: &WrapOptions,
    config: &Config,
    identity: &Identity,
    log: &mut SessionLog,
) -> Option<(ScreenSocket, Receiver<ScreenQuestion>)> {
    let owner = ScreenOwner {
        name: options.name.to_string(),
        session: identity.session.clone(),
    };
    let home = &config.home;
    let path = home.session_socket(&identity.session, screen_socket::SUFFIX);
    let screen_socket = ScreenSocket::listen(&path, owner);
    screen_socket
        .map_err(|error| log.write(&format!("`cbroker screen` shows nothing: {error}")))
        .ok()
}

/// Creates the handling of messages, and the disk thread.
fn session_messages(
    attachment: Attachment,
    options: &WrapOptions,
    config: &Config,
    presence: Presence,
) -> Result<SessionMessages, Error> {
    let queue = options.name.as_str();
    let paths = DiskPaths::of(&config.home, queue, &presence.session);
    let (disk, disk_events) = DiskThread::start(paths)
        .map_err(|error| Error::new("the session cannot start").caused_by(error))?;
    let limits = Limits {
        hops: config.settings.max_hops,
        per_minute: config.settings.max_messages_per_minute,
    };
    let mut brake = Brake::new(limits);
    brake.expect_backlog(attachment.waiting);
    Ok(SessionMessages::new(MessageParts {
        inbox: attachment.inbox,
        disk,
        disk_events,
        brake,
        breaks: options.breaks,
        body_limit_bytes: config.settings.body_limit_bytes,
        presence,
    }))
}

/// Starts the program with the terminal's modes, before the session makes the terminal raw.
fn start(command: &CommandLine, profile: &Profile, terminal: &Terminal) -> Result<Program, Error> {
    let failed = |error: std::io::Error| {
        Error::new(format!(
            "{} cannot be started",
            command.program.to_string_lossy()
        ))
        .caused_by(error)
    };
    let size = terminal.size().map_err(failed)?;
    let setup = ProgramSetup {
        modes: Some(terminal.original().clone()),
        size,
        on_wrap_exit: match profile.default_delivery {
            DefaultDelivery::Typing => OnWrapExit::EndProgram,
            DefaultDelivery::Notice | DefaultDelivery::NoticeOnly => OnWrapExit::KeepRunning,
        },
    };
    Program::start(command, &setup).map_err(failed)
}

fn exit(end: ChildStatus, program: &str) -> Result<Exit, Error> {
    match end {
        ChildStatus::Exited(code) => Ok(Exit::Child(u8::try_from(code & 0xff).unwrap_or(1))),
        ChildStatus::Killed(signal) => {
            Ok(Exit::Child(u8::try_from(128 + signal).unwrap_or(u8::MAX)))
        }
        ChildStatus::Failed(error) => {
            let error = std::io::Error::from_raw_os_error(error);
            let exit = exit_of(&error);
            Err(Error::new(format!("{program} cannot be started"))
                .caused_by(error)
                .exit_with(exit))
        }
        ChildStatus::Started(_) | ChildStatus::Stopped(_) | ChildStatus::Continued => {
            Ok(Exit::Failed)
        }
    }
}

fn initial_presence(options: &WrapOptions, profile: &Profile, identity: &Identity) -> Presence {
    let program = Path::new(&options.program)
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    Presence {
        name: options.name.as_str().to_owned(),
        session: identity.session.clone(),
        agent: if profile.default_delivery == DefaultDelivery::Typing {
            profile.name.to_owned()
        } else {
            program
        },
        state: PeerState::Starting,
        detail: None,
        reason: None,
        paused: false,
        held: 0,
        since: Utc::now(),
        pid: std::process::id(),
        host: this_host(),
    }
}

/// Writes panics to the session's log instead of the program's screen. A panic in a task other than
/// the session's loop ends only that task.
fn log_panics(log: PathBuf) {
    panics::send_to(move |said| SessionLog::open(&log).write(&format!("internal error: {said}")));
}

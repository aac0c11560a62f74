//! The beginning and the end of a wrap: what is checked, made and told before the program starts,
//! and what is taken away after it.
//!
//! The program runs whatever happens to what is ours. Where the home cannot be used, or no
//! terminal can be made, it takes this process's place, without messages, and one line says so.
//!
//! Relies on everything in this folder.

mod attach;
mod ways;

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use chrono::Utc;
use tokio::sync::mpsc::Receiver;

use super::agents::{DefaultDelivery, Profile};
use super::brake::{Brake, Limits};
use super::child_env::{self, Identity, Reach};
use super::delivery::Mode;
use super::disk::{Disk, DiskPaths};
use super::hooks::{self, HookReport, Hooks};
use super::log::Log;
use super::monitor::{ChildStatus, OnWrapExit};
use super::opened;
use super::options::{Fallback, WrapOptions};
use super::pty::{CommandLine, Program, ProgramSetup, find_program};
use super::screen_socket::{self, ScreenOwner, ScreenQuestion, ScreenSocket};
use super::session::{Parts, Post, PostParts, Session};
use super::spill;
use super::terminal::{self, Terminal};
use crate::config::{Config, DeliveryWay, Environment, Volume, write_session_address};
use crate::error::Error;
use crate::exit::Exit;
use crate::message_history::MessageHistory;
use crate::peer::{Inbox, Peer, PeerState, Presence, this_host};
use attach::{attach, attach_within, silent, without_broker};

/// Traces of sessions that were killed are removed after this; longer than any session lasts.
const TRACES_KEPT: Duration = Duration::from_hours(30 * 24);
/// What a shell answers for a program that it cannot find.
const NOT_FOUND: Exit = Exit::Child(127);
/// The longest path of a socket.
const SOCKET_PATH: usize = 104;

/// Wraps a program and returns its exit code.
///
/// # Errors
/// Only before the program has started; from then on its own exit code is the answer.
pub async fn run(options: WrapOptions, config: &Config) -> Result<Exit, Error> {
    let profile = Profile::of(&options.program, &options.arguments);
    let mode = mode(&options, profile, config)?;
    let shown = options.program.to_string_lossy();
    if find_program(&options.program, config.environment.get("PATH")).is_none() {
        return Err(Error::new(format!("{shown} cannot be run"))
            .because("there is no such program on the PATH")
            .exit_with(NOT_FOUND));
    }
    let alone = Alone::of(&options, config);
    let (identity, terminal) = match prepare(config) {
        Ok(prepared) => prepared,
        Err(why) => return run_without_messages(alone, why),
    };
    match terminal {
        Some(terminal) if child_env::is_session(&options) => {
            let prepared = Prepared {
                options,
                mode,
                profile,
                identity,
                terminal,
                alone,
            };
            session(prepared, config).await
        }
        terminal => become_program(&options, config, &identity, terminal.is_some()).await,
    }
}

/// Makes what a session needs on disk, and finds its terminal where it has one.
fn prepare(config: &Config) -> Result<(Identity, Option<Terminal>), Error> {
    let cannot = |error: std::io::Error| Error::new("the session cannot start").because(error);
    let home_cannot = |error: std::io::Error| {
        Error::new(format!("{} cannot be used", config.home.folder().display())).because(error)
    };
    config.home.prepare().map_err(home_cannot)?;
    let now = SystemTime::now();
    spill::sweep(&config.home.spill(), &["txt"], spill::KEPT, now);
    spill::sweep(
        &config.home.sessions(),
        &[
            "cred",
            "hops",
            "sock",
            screen_socket::SUFFIX,
            opened::SUFFIX,
        ],
        TRACES_KEPT,
        now,
    );
    let identity = identity(config).map_err(cannot)?;
    // Also shows whether anything can be written at all.
    write_session_address(&config.home, &identity.session, &config.endpoint)
        .map_err(home_cannot)?;
    Ok((identity, Terminal::of_this_process().map_err(cannot)?))
}

/// A program that has to run though nothing of ours works.
#[derive(Clone, Debug)]
pub struct Alone {
    /// The program.
    pub program: OsString,
    /// Its arguments, untouched.
    pub arguments: Vec<OsString>,
    /// The environment of this process.
    pub environment: Environment,
    /// Whether it may run without messages.
    pub fallback: Fallback,
}

impl Alone {
    fn of(options: &WrapOptions, config: &Config) -> Self {
        Self {
            program: options.program.clone(),
            arguments: options.arguments.clone(),
            environment: config.environment.clone(),
            fallback: options.fallback,
        }
    }
}

/// Gives this process to the program, and says on standard error why it gets no messages.
///
/// # Errors
/// `why`, where the program is not wanted without messages; else that it cannot be run.
pub fn run_without_messages(alone: Alone, why: Error) -> Result<Exit, Error> {
    if alone.fallback == Fallback::Fail {
        return Err(why);
    }
    eprintln!(
        "cbroker: {} (the program runs without messages)",
        why.summary()
    );
    let command = child_env::bare_command(alone.program, alone.arguments, &alone.environment);
    match exec(&command) {
        Ok(never) => match never {},
        Err(error) => Err(error),
    }
}

/// The program takes this process's place, descriptors and all.
fn exec(command: &CommandLine) -> Result<Infallible, Error> {
    let error = command
        .to_command(&command.program)
        .args(&command.arguments)
        .exec();
    let program = command.program.to_string_lossy();
    Err(Error::new(format!("{program} cannot be run"))
        .because(error)
        .exit_with(NOT_FOUND))
}

struct Prepared {
    options: WrapOptions,
    mode: Mode,
    profile: &'static Profile,
    identity: Identity,
    terminal: Terminal,
    alone: Alone,
}

/// What `--delivery` means for this program.
fn mode(options: &WrapOptions, profile: &Profile, config: &Config) -> Result<Mode, Error> {
    let program = options.program.to_string_lossy();
    let configured = match config.settings.delivery {
        DeliveryWay::Plugin => Some(Mode::Plugin),
        DeliveryWay::Inbox => Some(Mode::Inbox),
        DeliveryWay::Api => Some(Mode::Api),
        DeliveryWay::Pty => Some(Mode::Keyboard),
        DeliveryWay::Hook => Some(Mode::Hook),
        DeliveryWay::Notify => Some(Mode::Notify),
        DeliveryWay::Auto => None,
    };
    let has_way = |mode: Mode| match mode {
        Mode::Plugin | Mode::Inbox | Mode::Hook => profile.has_hooks,
        Mode::Api => matches!(profile.name, "codex" | "opencode"),
        Mode::Auto | Mode::Keyboard | Mode::Notify => true,
    };
    let asked = options.delivery.filter(|&mode| mode != Mode::Auto);
    match (asked, profile.default_delivery) {
        (Some(Mode::Keyboard), DefaultDelivery::NoticeOnly) => Err(Error::usage(format!(
            "nothing is typed into {program}"
        ))
        .because("it executes what is typed into it")
        .hint("leave `--delivery` out: messages are announced, and `cbroker inbox` reads them")),
        (Some(mode), _) if !has_way(mode) => Err(Error::usage(format!(
            "`--delivery {}` does not work with {program}",
            mode.word()
        ))
        .because("it has no such way in that cbroker knows")),
        (Some(mode), _) => Ok(mode),
        (None, DefaultDelivery::NoticeOnly | DefaultDelivery::Notice) => Ok(Mode::Notify),
        (None, DefaultDelivery::Typing) => Ok(configured
            .filter(|&mode| has_way(mode))
            .unwrap_or(Mode::Auto)),
    }
}

fn identity(config: &Config) -> std::io::Result<Identity> {
    let session = ulid::Ulid::generate().to_string();
    let socket = socket(config, &session, "sock");
    Ok(Identity {
        session,
        socket,
        token: hooks::token()?,
        binary: std::env::current_exe()?,
        plugin: None,
        arguments: Vec::new(),
        environment: Vec::new(),
    })
}

/// Returns the path of a session's socket, beside its other files where that is short enough.
fn socket(config: &Config, session: &str, kind: &str) -> PathBuf {
    let file_name = format!("{session}.{kind}");
    let near = config.home.sessions().join(&file_name);
    if near.as_os_str().len() < SOCKET_PATH {
        near
    } else {
        config.home.socket(&file_name)
    }
}

/// No terminal, no pseudo-terminal: the program takes this process's place, descriptors and all.
/// Its queue is made, so that messages wait for a session of this name; none consumes them now.
async fn become_program(
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
            say_that_messages_stay(options, config, has_terminal);
            Reach::Attached
        }
        Ok(Err(error)) => without_broker(options, config, error.into())?,
        Err(_) => without_broker(options, config, silent(options, config))?,
    };
    let (command, _) = child_env::command(options, config, identity, reach);
    match exec(&command)? {}
}

fn say_that_messages_stay(options: &WrapOptions, config: &Config, has_terminal: bool) {
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
fn record_command(config: &Config, options: &WrapOptions, log: &mut Log) {
    if let Err(error) = opened::remember(&config.home, options) {
        log.write(&format!("cannot record this session's command: {error}"));
    }
}

async fn session(prepared: Prepared, config: &Config) -> Result<Exit, Error> {
    let Prepared {
        options,
        mode,
        profile,
        mut identity,
        terminal,
        alone,
    } = prepared;
    let mut log = Log::open(&config.home.session_log(options.name.as_str()));
    let planned = ways::Planned::new(&options, mode, config);
    let (inbox, reach) = attach(&options, config, &identity).await?;
    let _traces = Traces {
        files: vec![
            config.home.session_credentials(&identity.session),
            config.home.session_hops(&identity.session),
        ],
    };
    let hooks = listen_for_hooks(profile, &identity, &mut log);
    let screen_socket = show_screen(&options, config, &identity, &mut log);
    let ways = ways::open(planned, config, &mut identity, &mut log).await;
    let (command, remarks) = child_env::command(&options, config, &identity, reach);
    let word = mode.word();
    log.write(&format!(
        "session {} of {}: {}, --delivery {word}",
        identity.session, options.name, profile.name
    ));
    if profile.has_hooks && !options.may_send {
        log.write("with `--allow-send` the agent may call `cbroker send` without asking each time");
    }
    for remark in remarks {
        log.write(&remark);
    }
    let parts = post(
        inbox,
        &options,
        config,
        initial_presence(&options, profile, &identity),
    )
    .and_then(|post| Ok((post, start(&command, profile, &terminal)?)));
    let (post, program) = match parts {
        Ok(parts) => parts,
        Err(why) => return run_without_messages(alone, why),
    };
    record_command(config, &options, &mut log);
    restore_on_panic();
    let parts = Parts {
        terminal,
        program,
        profile,
        mode,
        batch: options.batch,
        hooks,
        ways,
        post,
        screen_socket,
        log,
    };
    let mut session = Session::new(parts)?;
    let folder = child_env::claude_folder(profile, config);
    session.expect_agent(folder, child_env::is_bare(&options));
    let end = Box::pin(session.run()).await;
    exit(end, &command.program.to_string_lossy())
}

/// Listens for the hooks of an agent that has some.
fn listen_for_hooks(
    profile: &Profile,
    identity: &Identity,
    log: &mut Log,
) -> Option<(Hooks, Receiver<HookReport>)> {
    let path = &identity.socket;
    let hooks = Hooks::listen(path, identity.token.clone());
    if let Err(error) = &hooks {
        log.write(&format!(
            "no socket for hooks at {}: {error}",
            path.display()
        ));
    }
    hooks.ok().filter(|_| profile.has_hooks)
}

/// Listens for `cbroker screen`; a session that cannot does without.
fn show_screen(
    options: &WrapOptions,
    config: &Config,
    identity: &Identity,
    log: &mut Log,
) -> Option<(ScreenSocket, Receiver<ScreenQuestion>)> {
    let owner = ScreenOwner {
        name: options.name.to_string(),
        session: identity.session.clone(),
    };
    let path = socket(config, &identity.session, screen_socket::SUFFIX);
    let screen_socket = ScreenSocket::listen(&path, owner);
    screen_socket
        .map_err(|error| log.write(&format!("`cbroker screen` shows nothing: {error}")))
        .ok()
}

/// The session's messages, and the disk behind them.
fn post(
    inbox: Option<Inbox>,
    options: &WrapOptions,
    config: &Config,
    presence: Presence,
) -> Result<Post, Error> {
    let queue = options.name.as_str();
    let paths = DiskPaths {
        queue: queue.to_owned(),
        sessions: config.home.sessions(),
        dead_letters: config.home.dead_letters(queue),
        hops: config.home.session_hops(&presence.session),
        history: MessageHistory::of(&config.home),
    };
    let (disk, disk_events) = Disk::start(paths)
        .map_err(|error| Error::new("the session cannot start").because(error))?;
    let limits = Limits {
        hops: config.settings.max_hops,
        per_minute: config.settings.max_messages_per_minute,
    };
    Ok(Post::new(PostParts {
        inbox,
        disk,
        disk_events,
        brake: Brake::new(limits),
        breaks: options.breaks,
        body_limit_bytes: config.settings.body_limit_bytes,
        spill: config.home.spill(),
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
        .because(error)
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
        ChildStatus::Failed(error) => Err(Error::new(format!("{program} cannot be started"))
            .because(std::io::Error::from_raw_os_error(error))
            .exit_with(NOT_FOUND)),
        ChildStatus::Started(_) | ChildStatus::Stopped(_) | ChildStatus::Continued => {
            Ok(Exit::Failed)
        }
    }
}

fn initial_presence(options: &WrapOptions, profile: &Profile, identity: &Identity) -> Presence {
    let program = std::path::Path::new(&options.program)
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
        held: 0,
        since: Utc::now(),
        pid: std::process::id(),
        host: this_host(),
    }
}

/// A panic must not leave a raw terminal, and its message must be readable.
fn restore_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        terminal::restore_after_panic();
        before(panic);
    }));
}

/// Files that live as long as the session.
struct Traces {
    files: Vec<PathBuf>,
}

impl Drop for Traces {
    fn drop(&mut self) {
        for file in &self.files {
            let _was_never_made = std::fs::remove_file(file);
        }
    }
}

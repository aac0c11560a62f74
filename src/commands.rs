//! The verbs, most of them in a file of their own name with a function `run(…) -> Result<Exit,
//! Error>`. ARCHITECTURE.md lists the verbs whose file has another name, and the files that are not
//! verbs. This file selects the verb and its runtime.

mod answerer;
mod ask;
mod brief;
mod completions;
mod compose;
mod config;
mod connect;
mod dead;
mod delete;
mod demo;
mod doctor;
mod fate;
mod group;
mod groups;
mod history;
mod inbox;
mod interrupt;
mod list;
mod local;
mod logs;
mod man;
mod mcp;
mod move_queues;
mod nuke;
mod page_host;
mod pause;
mod purge;
mod removal;
mod restart;
mod rotate;
mod screen;
mod send;
mod serve;
mod service;
mod sessions;
mod start;
mod status;
mod stop;
mod tail;
mod toy_agent;
mod ui;
mod wait;
mod why;
mod wrap;

pub use completions::complete;

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::cli::{Action, Invocation, ServiceVerb, Verb};
use crate::config::{Config, Environment, Flags, LeftOut, Volume};
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;
use crate::platform;

/// How long a stopped broker waits for its threads that may block.
const WORK_ENDS_WITHIN: Duration = Duration::from_secs(2);

/// Resolves the configuration and runs the command.
pub fn execute(invocation: Invocation, environment: Environment) -> Result<Exit, Error> {
    let flags = &invocation.flags;
    let (config, action) = match (
        Config::resolve(flags, environment.clone()),
        invocation.action,
    ) {
        (Ok(config), action) => (config, action),
        (Err(error), Action::Wrap(args, program)) => {
            return wrap::without_configuration(&args, program, flags, environment, error);
        }
        (Err(error), Action::Verb(Verb::Doctor(args))) => {
            return doctor::without_configuration(&args, flags, environment, error);
        }
        (Err(error), Action::Verb(Verb::Config)) => {
            let (config, error) = without_file(flags, environment, error)?;
            return config::run_without_file(&config, error);
        }
        (Err(error), action) if ignores_configuration(&action) => {
            let Ok((config, _)) = Config::salvage(flags, environment) else {
                return Err(error);
            };
            (config, action)
        }
        (Err(error), action) if works_without_file(&action) => {
            let (mut config, error) = without_file(flags, environment, error)?;
            let problem = error.summary();
            let warning = format!("{problem}; this command goes on without the file");
            config.warnings.push(warning);
            (config, action)
        }
        (Err(error), _) => return Err(error),
    };
    let output = Output::new(&config);
    for warning in &config.warnings {
        output.notice(warning);
    }
    if let Volume::Verbose(2..) = config.volume {
        log_to_stderr();
    }
    let serves = matches!(action, Action::Verb(Verb::Serve(_)));
    let runtime = runtime(&action)?;
    let outcome = runtime.block_on(act(action, &config, &output));
    if serves {
        // The store is closed already. Work for a request could go on for any time.
        runtime.shutdown_timeout(WORK_ENDS_WITHIN);
    }
    outcome
}

/// Whether the command prints the same with and without the home and its `config.toml`.
fn ignores_configuration(action: &Action) -> bool {
    let Action::Verb(verb) = action else {
        return false;
    };
    matches!(
        verb,
        Verb::Version | Verb::Man | Verb::Completions(_) | Verb::Brief(_)
    )
}

/// Whether the command uses only files of the home and what the home's local broker runs as: it
/// does its work without `config.toml`, which may name another broker.
fn works_without_file(action: &Action) -> bool {
    let Action::Verb(verb) = action else {
        return false;
    };
    match verb {
        Verb::Dead(args) => args.resend.is_none(),
        Verb::Service(verb) => !matches!(verb, ServiceVerb::Install),
        Verb::Logs(_) | Verb::History(_) | Verb::Why(_) | Verb::Screen(_) | Verb::Stop => true,
        Verb::Send(_)
        | Verb::Ask(_)
        | Verb::List(_)
        | Verb::Group(_)
        | Verb::Wait(_)
        | Verb::Inbox(_)
        | Verb::Tail(_)
        | Verb::Purge(_)
        | Verb::Delete(_)
        | Verb::Pause(_)
        | Verb::Resume(_)
        | Verb::Start(_)
        | Verb::Restart
        | Verb::Status(_)
        | Verb::Rotate
        | Verb::Ui
        | Verb::Nuke(_)
        | Verb::Serve(_)
        | Verb::Move(_)
        | Verb::Doctor(_)
        | Verb::Config
        | Verb::Brief(_)
        | Verb::Demo
        | Verb::Mcp(_)
        | Verb::Completions(_)
        | Verb::Man
        | Verb::Version => false,
    }
}

/// The configuration without a broken `config.toml`, and `error`, which says what is wrong with it.
/// Fails with `error` if more is wrong.
fn without_file(
    flags: &Flags,
    environment: Environment,
    error: Error,
) -> Result<(Config, Error), Error> {
    match Config::salvage(flags, environment) {
        Ok((config, LeftOut { no_home: None, .. })) => Ok((config, error)),
        _ => Err(error),
    }
}

/// Creates the runtime: one thread for each core for a broker, and a single thread, which starts
/// fastest, for everything else.
fn runtime(action: &Action) -> Result<Runtime, Error> {
    let mut builder = match action {
        Action::Verb(Verb::Serve(_)) => {
            platform::be_frugal();
            Builder::new_multi_thread()
        }
        _ => Builder::new_current_thread(),
    };
    builder
        .enable_all()
        .build()
        .map_err(|error| Error::new("cannot start").caused_by(error))
}

async fn act(action: Action, config: &Config, output: &Output) -> Result<Exit, Error> {
    let adopted;
    let config = if adopts_container(&action) {
        adopted = local::adopt_container(config, output).await;
        &adopted
    } else {
        config
    };
    let verb = match action {
        Action::Wrap(args, program) => {
            return Box::pin(wrap::run(args, program, config, output)).await;
        }
        Action::Toy(record) => return toy_agent::run(record.as_deref()),
        Action::Verb(verb) => verb,
    };
    match verb {
        Verb::Send(args) => send::run(args, config, output).await,
        Verb::Ask(args) => ask::run(args, config, output).await,
        Verb::Group(verb) => group::run(verb, config, output).await,
        Verb::List(args) => list::run(args, config, output).await,
        Verb::Wait(args) => wait::run(args, config, output).await,
        Verb::Screen(args) => screen::run(args, config, output).await,
        Verb::Inbox(args) => inbox::run(args, config, output).await,
        Verb::Dead(args) => dead::run(args, config, output).await,
        Verb::Why(args) => why::run(&args, config, output),
        Verb::History(args) => history::run(&args, config, output),
        Verb::Tail(args) => tail::run(args, config, output).await,
        Verb::Purge(args) => purge::run(args, config, output).await,
        Verb::Delete(args) => delete::run(args, config, output).await,
        Verb::Pause(args) => pause::run(pause::PauseCommand::Pause, args, config, output).await,
        Verb::Resume(args) => pause::run(pause::PauseCommand::Resume, args, config, output).await,
        Verb::Start(args) => start::run(args, config, output).await,
        Verb::Stop => stop::run(config, output).await,
        Verb::Restart => restart::run(config, output).await,
        Verb::Rotate => rotate::run(config, output).await,
        Verb::Status(args) => status::run(args, config, output).await,
        Verb::Logs(args) => logs::run(args, config, output).await,
        Verb::Ui => ui::run(config, output).await,
        Verb::Nuke(args) => nuke::run(args, config, output).await,
        Verb::Move(args) => move_queues::run(args, config, output).await,
        Verb::Service(verb) => service::run(&verb, config, output),
        Verb::Doctor(args) => doctor::run(&args, config, output).await,
        Verb::Brief(args) => brief::run(&args, config, output),
        Verb::Demo => demo::run(config, output),
        Verb::Serve(args) => serve::run(args, config, output).await,
        Verb::Config => config::run(config, output),
        Verb::Completions(args) => completions::run(&args),
        Verb::Mcp(args) => mcp::run(args, config, output).await,
        Verb::Man => man::run(),
        Verb::Version => version(output),
    }
}

/// Whether the command may take a container for the local broker.
fn adopts_container(action: &Action) -> bool {
    match action {
        Action::Wrap(..) => true,
        Action::Toy(_) => false,
        Action::Verb(verb) => matches!(
            verb,
            Verb::Send(_)
                | Verb::Ask(_)
                | Verb::Group(_)
                | Verb::List(_)
                | Verb::Wait(_)
                | Verb::Inbox(_)
                | Verb::Dead(_)
                | Verb::Tail(_)
                | Verb::Purge(_)
                | Verb::Delete(_)
                | Verb::Pause(_)
                | Verb::Resume(_)
                | Verb::Status(_)
                | Verb::Ui
                | Verb::Doctor(_)
                | Verb::Mcp(_)
        ),
    }
}

fn version(output: &Output) -> Result<Exit, Error> {
    let version = env!("CARGO_PKG_VERSION");
    output.json(&serde_json::json!({ "version": version }))?;
    output.line(format!("cbroker {version}"))?;
    Ok(Exit::Done)
}

fn log_to_stderr() {
    // If a subscriber is installed already, it serves as well.
    let _ = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
        .with_writer(crate::daemon::clean_lines(std::io::stderr))
        .try_init();
}

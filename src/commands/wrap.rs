//! `cbroker --name NAME … claude|run`: starts a wrapped session from the options.

use std::ffi::OsString;
use std::time::Duration;

use super::compose::{group_name, session_name};
use super::connect::{Autostart, may_start};
use super::start;
use crate::cli::{ProgramArgs, TimeToLive, WrapArgs};
use crate::config::{Config, Environment, Flags, LocalBroker};
use crate::envelope::LineBreaks;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;
use crate::peer::{Peer, PeerError, Sharing};
use crate::wrap::{self, BrokerStart, Fallback, UnwrappedProgram, WrapOptions};

/// The longest time that the program waits for the broker's start.
const START_WITHIN: Duration = Duration::from_secs(2);

/// Wraps the program and returns its exit code.
pub(super) async fn run(
    args: WrapArgs,
    program: ProgramArgs,
    config: &Config,
    output: &Output,
) -> Result<Exit, Error> {
    for complaint in wrap::profile_complaints() {
        output.notice(complaint);
    }
    if let Some(remark) = args.ttl.and_then(TimeToLive::remark) {
        output.notice(remark);
    }
    let autostart = Autostart::unless(args.no_start);
    // What is wrong with the command line starts no broker.
    let mut checked = wrap::check(options(&args, program, config)?, config)?;
    if !may_start(config, autostart) {
        return wrap::run(checked, config).await;
    }
    // A separate task, so that a slow start continues while the session runs.
    let mut starting = tokio::spawn(start_broker(config.clone()));
    let started = match checked.fallback() {
        Fallback::RunAnyway => tokio::time::timeout(START_WITHIN, &mut starting).await,
        Fallback::Fail => Ok(starting.await),
    };
    let Ok(started) = started else {
        checked.without_waiting();
        return wrap::run(checked, config).await;
    };
    let started = started
        .map_err(|error| Error::new("the broker did not start").caused_by(error))
        .flatten();
    match started {
        Ok(Started { config, local }) => {
            if let Some(local) = local {
                output.notice(start::started_quietly(&local));
            }
            wrap::run(checked, &config).await
        }
        // The wrap reports that it runs without a broker, or refuses to.
        Err(error) if checked.fallback() == Fallback::RunAnyway => {
            output.error(&error);
            wrap::run(checked, config).await
        }
        Err(error) => Err(error.exit_with(Exit::Unreachable)),
    }
}

/// Runs the program even if the configuration is invalid, because that must not keep a person from
/// working. An invalid command line is still an error.
pub(super) fn without_configuration(
    args: &WrapArgs,
    program: ProgramArgs,
    flags: &Flags,
    environment: Environment,
    error: Error,
) -> Result<Exit, Error> {
    let empty = Environment::from_iter([("CBROKER_HOME", "/nonexistent")]);
    Config::resolve(flags, empty)?;
    let (program, arguments) = command_line(program)?;
    let unwrapped = UnwrappedProgram {
        program,
        arguments,
        environment,
        fallback: fallback(args),
    };
    wrap::run_without_messages(unwrapped, error)
}

/// A broker that answers.
struct Started {
    /// The configuration, resolved again if the broker was started.
    config: Config,
    /// The broker, if it was started now.
    local: Option<LocalBroker>,
}

/// Starts the local broker if none answers.
async fn start_broker(config: Config) -> Result<Started, Error> {
    match Peer::connect(&config.endpoint, "wrap").await {
        Ok(peer) => peer.close().await,
        Err(PeerError::Unreachable { .. }) => {
            let started = start::chosen(&config).await?;
            return Ok(Started {
                config: config.again()?,
                local: (!started.was_running).then_some(started.local),
            });
        }
        // Any other error is not solved by a second broker.
        Err(_) => {}
    }
    Ok(Started {
        config,
        local: None,
    })
}

fn fallback(args: &WrapArgs) -> Fallback {
    if args.no_fallback {
        Fallback::Fail
    } else {
        Fallback::RunAnyway
    }
}

fn command_line(program: ProgramArgs) -> Result<(OsString, Vec<OsString>), Error> {
    match program {
        ProgramArgs::Claude(arguments) => Ok((OsString::from("claude"), arguments)),
        ProgramArgs::Agent(mut words) | ProgramArgs::Other(mut words) if !words.is_empty() => {
            Ok((words.remove(0), words))
        }
        ProgramArgs::Agent(_) | ProgramArgs::Other(_) => Err(Error::usage("nothing to run")),
    }
}

fn options(args: &WrapArgs, program: ProgramArgs, config: &Config) -> Result<WrapOptions, Error> {
    let settings = &config.settings;
    let name = session_name(args.name.as_deref().unwrap_or_default(), "--name")?;
    if name.is_answer_queue() {
        return Err(Error::usage(format!("`{name}` is a name of `cbroker ask`")));
    }
    let groups = args.groups.iter();
    let groups = groups.map(|group| group_name(group, "--group"));
    let groups = groups.collect::<Result<_, _>>()?;
    let (program, arguments) = command_line(program)?;
    Ok(WrapOptions {
        name,
        groups,
        ttl_ms: args.ttl.map_or(settings.ttl_ms, |ttl| ttl.milliseconds),
        fallback: fallback(args),
        broker_start: BrokerStart::Over,
        sharing: if args.exclusive {
            Sharing::Exclusive
        } else {
            Sharing::Shared
        },
        is_briefed: !args.no_brief && settings.brief,
        may_send: args.allow_send,
        delivery: args.delivery,
        breaks: if args.multiline || settings.multiline {
            LineBreaks::Keep
        } else {
            LineBreaks::Flatten
        },
        batch: args.batch.unwrap_or(settings.batch).max(1) as usize,
        program,
        arguments,
    })
}

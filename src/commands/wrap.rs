//! `cbroker --name NAME … claude|run`: from the options to a wrapped session.

use std::ffi::OsString;

use super::letter::session_name;
use super::reach::{Autostart, may_start};
use crate::cli::{Delivery, Program, WrapArgs};
use crate::config::Config;
use crate::daemon;
use crate::envelope::Breaks;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;
use crate::peer::{Peer, PeerError, Sharing};
use crate::wrap::{self, Fallback, WrapOptions, inject};

/// Wraps the program and ends with its exit code.
pub(super) async fn run(
    args: WrapArgs,
    program: Program,
    config: &Config,
    output: &Output,
) -> Result<Exit, Error> {
    let autostart = Autostart::unless(args.no_start);
    let options = options(&args, program, config)?;
    let started = start_broker(autostart, config, output).await;
    match started {
        Ok(config) => wrap::run(options, &config).await,
        // The wrap itself says that it goes on without a broker, or refuses to.
        Err(error) if options.fallback == Fallback::RunAnyway => {
            output.error(&error);
            wrap::run(options, config).await
        }
        Err(error) => Err(error.exit_with(Exit::Unreachable)),
    }
}

/// Starts the local broker where none answers and that is allowed. The configuration may be another one afterwards.
async fn start_broker(
    autostart: Autostart,
    config: &Config,
    output: &Output,
) -> Result<Config, Error> {
    if !may_start(config, autostart) {
        return Ok(config.clone());
    }
    match Peer::connect(&config.endpoint, "wrap").await {
        Ok(peer) => {
            peer.close().await;
            Ok(config.clone())
        }
        Err(PeerError::Unreachable { .. }) => daemon::start_quietly(config, output).await,
        Err(_) => Ok(config.clone()),
    }
}

fn options(args: &WrapArgs, program: Program, config: &Config) -> Result<WrapOptions, Error> {
    let settings = &config.settings;
    let name = session_name(args.name.as_deref().unwrap_or_default(), "--name")?;
    if name.waits_for_answer() {
        return Err(Error::usage(format!("`{name}` is a name of `cbroker ask`")));
    }
    let (program, arguments) = match program {
        Program::Claude(arguments) => (OsString::from("claude"), arguments),
        Program::Other(mut arguments) if !arguments.is_empty() => (arguments.remove(0), arguments),
        Program::Other(_) => return Err(Error::usage("nothing to run")),
    };
    Ok(WrapOptions {
        name,
        ttl_ms: args.ttl.unwrap_or(settings.ttl_ms),
        fallback: if args.no_fallback {
            Fallback::Fail
        } else {
            Fallback::RunAnyway
        },
        sharing: if args.exclusive {
            Sharing::Exclusive
        } else {
            Sharing::Shared
        },
        is_briefed: !args.no_brief && settings.brief,
        may_send: args.allow_send,
        delivery: args.delivery.map(|delivery| match delivery {
            Delivery::Auto => inject::Delivery::Auto,
            Delivery::Pty => inject::Delivery::Pty,
            Delivery::Hook => inject::Delivery::Hook,
            Delivery::Notify => inject::Delivery::Notify,
        }),
        breaks: if args.multiline || settings.multiline {
            Breaks::Keep
        } else {
            Breaks::Flatten
        },
        batch: args.batch.unwrap_or(settings.batch).max(1) as usize,
        program,
        arguments,
    })
}

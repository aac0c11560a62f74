//! `cbroker mcp`: the commands that an agent needs, as tools of an MCP server over stdio.
//!
//! A tool builds the command line of its command and runs it, so rules, defaults and texts are the
//! command's own. What it prints is collected and becomes the tool's result. Only this folder uses
//! `rmcp`.

mod install;
mod tools;
mod written;

use std::io;
use std::os::unix::net::UnixStream as BlockingStream;
use std::pin::pin;
use std::thread;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rmcp::ServiceExt;
use rmcp::transport::async_rw::AsyncRwTransport;
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::inbox::TakenMessages;
use crate::cli::{McpArgs, McpVerb};
use crate::config::Config;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::{self, Output};
use tools::ToolServer;
use written::{ReportingTransport, WrittenResponses};

/// The number of calls that may wait for the task that runs them.
const CALLS: usize = 16;

/// Serves until the client closes the input or a signal ends it; or configures an agent.
pub(super) async fn run(args: McpArgs, config: &Config, output: &Output) -> Result<Exit, Error> {
    match args.verb {
        Some(McpVerb::Install(args)) => install::run(&args, config, output),
        None => serve(config).await,
    }
}

async fn serve(config: &Config) -> Result<Exit, Error> {
    let cannot = |error: io::Error| Error::new("the MCP server cannot start").caused_by(error);
    let input = input().map_err(cannot)?;
    let mut terminated = signal(SignalKind::terminate()).map_err(cannot)?;
    let (calls, mut called) = mpsc::channel(CALLS);
    let responses = WrittenResponses::default();
    let server = ToolServer::new(calls, responses.clone());
    let transport = AsyncRwTransport::new_server(input, output::stdout());
    let serving = async {
        match server
            .serve(ReportingTransport::new(transport, responses))
            .await
        {
            Ok(service) => drop(service.waiting().await),
            // The client closed the input before it initialised the session, or sent something
            // else.
            Err(error) => {
                return Err(
                    Error::new("no MCP client is connected to the standard input").caused_by(error),
                );
            }
        }
        Ok(Exit::Done)
    };
    let mut serving = pin!(serving);
    let mut running = FuturesUnordered::new();
    let mut confirming = FuturesUnordered::new();
    let served = loop {
        tokio::select! {
            // A client may leave once it has read a response.
            biased;
            Some(taken) = running.next() => {
                let taken: Option<TakenMessages> = taken;
                confirming.extend(taken.map(TakenMessages::confirm));
            }
            // If it fails, the messages come again.
            Some(_confirmed) = confirming.next() => {}
            served = &mut serving => break served,
            Some(call) = called.recv() => running.push(call.run(config)),
            // Commands that ran as tools may have taken the signals from their defaults.
            _ = tokio::signal::ctrl_c() => break Ok(Exit::Done),
            _ = terminated.recv() => break Ok(Exit::Done),
        }
    };
    while confirming.next().await.is_some() {}
    served
}

/// The standard input as a stream that can be dropped: a blocking read would keep the process until
/// the client writes again.
fn input() -> io::Result<UnixStream> {
    let (mut ours, theirs) = BlockingStream::pair()?;
    theirs.set_nonblocking(true)?;
    thread::spawn(move || {
        // Dropping this end ends the input.
        let _closed = io::copy(&mut io::stdin().lock(), &mut ours);
    });
    UnixStream::from_std(theirs)
}

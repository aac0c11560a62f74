//! `cbroker logs`: prints the log of the local broker or of a session. With `-f` it follows the
//! log, across rotations.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;

use super::compose::session_name;
use super::local::{self, RunsAs};
use crate::cli::LogsArgs;
use crate::config::Config;
use crate::container::DockerEngine;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;

const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Prints the last lines, and follows the log until Ctrl-C.
pub(super) async fn run(args: LogsArgs, config: &Config, output: &Output) -> Result<Exit, Error> {
    let session = args.session.as_deref();
    let session = session.map(|name| session_name(name, "--session"));
    let session = session.transpose()?;
    if session.is_none() {
        local::is_ours(config)?;
    }
    let show = async {
        if let Some(name) = &session {
            let none = Error::new(format!("there is no log of `{name}`"))
                .caused_by("no session of this name ran on this machine")
                .with_hint("`cbroker list` shows the sessions");
            return file(&config.home.session_log(name.as_str()), none, &args, output).await;
        }
        match local::find(config).await? {
            RunsAs::Container(engine, _) => container(&engine, &args, output).await,
            RunsAs::Embedded(..) | RunsAs::Nothing => {
                let none = Error::new("there is no log yet")
                    .caused_by("no broker was started in the background")
                    .with_hint(
                        "run `cbroker start`; a `cbroker serve` in the foreground logs to its \
                         terminal",
                    );
                file(&config.home.broker_log(), none, &args, output).await
            }
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => Ok(Exit::Done),
        shown = show => shown.map(|()| Exit::Done),
    }
}

async fn container(engine: &DockerEngine, args: &LogsArgs, output: &Output) -> Result<(), Error> {
    let mut parts = Box::pin(engine.logs(args.lines, args.follow));
    while let Some(part) = parts.next().await {
        output.foreign(&part?)?;
    }
    Ok(())
}

/// Prints a file; `none` is the error where there is no such file.
async fn file(path: &Path, none: Error, args: &LogsArgs, output: &Output) -> Result<(), Error> {
    let cannot = |error: std::io::Error| {
        Error::new(format!("cannot read {}", path.display())).caused_by(error)
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(none),
        Err(error) => return Err(cannot(error)),
    };
    let mut reader = BufReader::new(file);
    for line in last_lines(&mut reader, args.lines).map_err(cannot)? {
        output.foreign(&line)?;
    }
    if !args.follow {
        return Ok(());
    }
    output.notice(format!("following {}; Ctrl-C ends this", path.display()));
    loop {
        let mut grown = String::new();
        reader.read_to_string(&mut grown).map_err(cannot)?;
        if grown.is_empty() {
            if is_another(&reader, path) {
                reader = BufReader::new(File::open(path).map_err(cannot)?);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        } else {
            output.foreign(&grown)?;
        }
    }
}

fn last_lines(reader: &mut BufReader<File>, count: usize) -> std::io::Result<VecDeque<String>> {
    reader.seek(SeekFrom::Start(0))?;
    let mut lines = VecDeque::with_capacity(count.min(10_000));
    loop {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(lines);
        }
        if lines.len() == count {
            lines.pop_front();
        }
        if count > 0 {
            lines.push_back(String::from_utf8_lossy(&line).into_owned());
        }
    }
}

/// Whether the path now names another file, because the log was rotated.
fn is_another(reader: &BufReader<File>, path: &Path) -> bool {
    let (Ok(open), Ok(named)) = (reader.get_ref().metadata(), std::fs::metadata(path)) else {
        return false;
    };
    open.ino() != named.ino() || open.dev() != named.dev()
}

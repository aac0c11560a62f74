//! Drives AMQP brokers through the same work, one after the other, and sets their figures side by
//! side.
//!
//! `cbroker-compare [--only TEXT] [--seconds S] [--rounds N] [--growth] [--fanout] [--programs
//! CBROKER] [--management HOST:PORT] [--sink] LABEL=FOLDER|URL[,PID]…`; the first broker is ours,
//! the others its peers. `run.sh` beside this crate starts them. Every body and sequence number
//! that comes back is checked: a fast wrong answer is a failure.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures for people, far below 2^53"
)]

mod backlog;
mod churn;
mod client;
mod confirms;
mod fanout;
mod growth;
mod handoff;
mod histogram;
mod load;
mod management;
mod message;
mod peer;
mod process;
mod programs;
mod report;
mod rows;
mod sink;
mod startup;
mod terminal;
mod wire;
mod wraps;

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use peer::Peer;
use report::{Outcome, short};
use rows::{Figures, ROWS, Row};

/// What was asked for.
struct Options {
    only: Option<String>,
    seconds: f64,
    rounds: usize,
    growth: bool,
    fanout: bool,
    programs: Option<PathBuf>,
    management: Option<String>,
    peers: Vec<Peer>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("--relay", command)) = arguments
        .split_first()
        .map(|(first, rest)| (first.as_str(), rest))
    {
        return report_failure(terminal::relay(command));
    }
    let options = match parse(arguments.into_iter()) {
        Ok(options) => options,
        Err(what) => {
            eprintln!("cbroker-compare: {what}");
            return ExitCode::from(2);
        }
    };
    if let (Some(cbroker), Some(peer)) = (&options.programs, options.peers.first()) {
        return report_failure(measure_programs(cbroker, peer));
    }
    if let (Some(address), Some(peer)) = (&options.management, options.peers.first()) {
        return report_failure(management::measure(peer, address));
    }
    if options.fanout {
        return report_failure(fanout::measure(&options.peers, options.seconds));
    }
    let all_went_well = if options.growth {
        grow(&options)
    } else {
        compare(&options)
    };
    if all_went_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn measure_programs(cbroker: &Path, peer: &Peer) -> io::Result<()> {
    let bench = programs::Bench::new(cbroker, peer)?;
    programs::measure(&bench)?;
    wraps::measure(&bench)?;
    bench.end()
}

fn report_failure(outcome: io::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cbroker-compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, Box<dyn Error>> {
    let mut options = Options {
        only: None,
        seconds: 3.0,
        rounds: 1,
        growth: false,
        fanout: false,
        programs: None,
        management: None,
        peers: Vec::new(),
    };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--only" => options.only = Some(value()?),
            "--seconds" => {
                options.seconds = value()?.parse().map_err(|_| "--seconds needs a number")?;
            }
            "--rounds" => {
                options.rounds = value()?.parse().map_err(|_| "--rounds needs a number")?;
            }
            "--programs" => options.programs = Some(value()?.into()),
            "--management" => options.management = Some(value()?),
            "--growth" => options.growth = true,
            "--fanout" => options.fanout = true,
            "--sink" => options.peers.push(start_sink()?),
            other => options
                .peers
                .push(Peer::parse(other).ok_or(format!("cannot use {other}"))?),
        }
    }
    if options.peers.is_empty() {
        Err("name at least one broker".into())
    } else {
        Ok(options)
    }
}

fn start_sink() -> io::Result<Peer> {
    sink::start().map(|address| Peer::here("sink", address))
}

fn compare(options: &Options) -> bool {
    let chosen = |row: &&Row| {
        options
            .only
            .as_ref()
            .is_none_or(|only| row.name.contains(only.as_str()))
    };
    let mut outcomes = Vec::new();
    for row in ROWS.iter().filter(chosen) {
        let mut rounds: Vec<Vec<Figures>> = vec![Vec::new(); options.peers.len()];
        for _ in 0..options.rounds {
            for (peer, figures) in options.peers.iter().zip(&mut rounds) {
                figures.extend(measure(peer, row, options.seconds));
            }
        }
        outcomes.push(Outcome {
            row,
            figures: rounds.into_iter().map(median).collect(),
        });
    }
    let labels: Vec<String> = options
        .peers
        .iter()
        .map(|peer| peer.label.clone())
        .collect();
    report::figures(&labels, &outcomes);
    report::ratios(&labels, &outcomes);
    outcomes
        .iter()
        .all(|outcome| outcome.figures.first().is_some_and(Option::is_some))
}

fn measure(peer: &Peer, row: &Row, seconds: f64) -> Option<Figures> {
    match (row.measure)(peer, seconds) {
        Ok(figures) => {
            let cpu = figures
                .cpu_us
                .map_or(String::new(), |cpu| format!(", {cpu:.2} µs"));
            eprintln!(
                "{}: {}: {} {}{cpu}",
                row.name,
                peer.label,
                short(figures.value),
                row.unit
            );
            Some(figures)
        }
        Err(error) => {
            eprintln!("{}: {}: failed: {error}", row.name, peer.label);
            None
        }
    }
}

/// The round in the middle by the row's own figure.
fn median(mut rounds: Vec<Figures>) -> Option<Figures> {
    rounds.sort_by(|a, b| a.value.total_cmp(&b.value));
    let middle = rounds.len() / 2;
    rounds.into_iter().nth(middle)
}

fn grow(options: &Options) -> bool {
    let mut all_went_well = true;
    println!("| as it grows | broker | figure |\n|---|---|---|");
    for curve in &growth::CURVES {
        if options
            .only
            .as_ref()
            .is_some_and(|only| !curve.name.contains(only.as_str()))
        {
            continue;
        }
        for peer in &options.peers {
            let points: io::Result<Vec<growth::Point>> = (curve.measure)(peer);
            let shown = match points {
                Ok(points) => {
                    let each = points
                        .iter()
                        .map(|(count, figure)| format!("{count}: {}", short(*figure)));
                    each.collect::<Vec<_>>().join(", ")
                }
                Err(error) => {
                    all_went_well = false;
                    format!("failed: {error}")
                }
            };
            println!(
                "| {} ({}) | {} | {shown} |",
                curve.name, curve.unit, peer.label
            );
        }
    }
    all_went_well
}

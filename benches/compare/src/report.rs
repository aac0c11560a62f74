//! The tables: all figures of all brokers, then ours beside the aim.

use crate::rows::{Aim, Figures, Row};

/// The figures of one row, one for each broker, in the order of the peers; `None` if it failed.
pub(crate) struct Outcome<'a> {
    pub(crate) row: &'a Row,
    pub(crate) figures: Vec<Option<Figures>>,
}

/// Prints all figures.
pub(crate) fn figures(labels: &[String], outcomes: &[Outcome<'_>]) {
    println!(
        "\n| work | broker | figure | CPU µs a message | median / p99 ms | \
         peak MiB | bytes written a message | |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for outcome in outcomes {
        for (label, figures) in labels.iter().zip(&outcome.figures) {
            let Row { name, unit, .. } = outcome.row;
            let Some(figures) = figures else {
                println!("| {name} | {label} | failed | | | | | |");
                continue;
            };
            let latency = figures
                .latency_ms
                .map_or(String::new(), |(p50, p99)| format!("{p50:.3} / {p99:.3}"));
            println!(
                "| {name} | {label} | {} {unit} | {} | {latency} | {} | {} | {} |",
                short(figures.value),
                optional(figures.cpu_us),
                optional(figures.peak_mib),
                optional(figures.written),
                figures.note
            );
        }
    }
}

/// Prints the first broker's figures beside each other broker's, and whether the aim holds.
pub(crate) fn ratios(labels: &[String], outcomes: &[Outcome<'_>]) {
    println!("\n| work | {} | aim | holds |", labels.join(" | "));
    println!("|---|{}---|---|", "---|".repeat(labels.len()));
    for outcome in outcomes {
        let Row {
            name, unit, aim, ..
        } = outcome.row;
        let Some(Some(ours)) = outcome.figures.first() else {
            println!("| {name} | failed | | |");
            continue;
        };
        let cells = outcome
            .figures
            .iter()
            .enumerate()
            .map(|(index, figures)| match figures {
                Some(figures) if index == 0 => format!("{} {unit}", short(figures.value)),
                Some(figures) => format!(
                    "{} ({:.2}×)",
                    short(figures.value),
                    ours.value / figures.value
                ),
                None => "failed".to_owned(),
            });
        let cells: Vec<String> = cells.collect();
        let (wanted, holds) = judge(labels, outcome, ours, *aim);
        println!(
            "| {name} | {} | {wanted} | {} |",
            cells.join(" | "),
            if holds { "yes" } else { "**no**" }
        );
    }
}

/// The aim in words, and whether `ours` reaches it.
fn judge(labels: &[String], outcome: &Outcome<'_>, ours: &Figures, aim: Aim) -> (String, bool) {
    let of = |wanted: &str| {
        let index = labels
            .iter()
            .position(|label| label.to_lowercase().starts_with(wanted))?;
        outcome
            .figures
            .get(index)?
            .as_ref()
            .map(|figures| figures.value)
    };
    let (mut words, mut holds) = match aim {
        Aim::AtMost(most) => (
            format!("at most {most} {}", outcome.row.unit),
            ours.value <= most,
        ),
        Aim::Ahead => {
            let best = outcome
                .figures
                .iter()
                .skip(1)
                .flatten()
                .map(|figures| figures.value)
                .fold(0.0, f64::max);
            (format!("above {}", short(best)), ours.value > best)
        }
        Aim::Rate {
            factor,
            lavinmq,
            rabbitmq,
        } => {
            let derived =
                of("rabbitmq").map(|rate| (rate * lavinmq / rabbitmq, "LavinMQ, *derived*"));
            match of("lavinmq").map(|rate| (rate, "LavinMQ")).or(derived) {
                Some((rate, whose)) => (
                    format!("{factor} × {} ({whose})", short(rate)),
                    ours.value >= factor * rate,
                ),
                None => (format!("{factor} × LavinMQ, none at hand"), false),
            }
        }
    };
    if let (Some(most), Some(cpu)) = (outcome.row.cpu_at_most, ours.cpu_us) {
        words = format!("{words}; CPU at most {most} µs (here {cpu:.2})");
        holds &= cpu <= most;
    }
    (words, holds)
}

fn optional(value: Option<f64>) -> String {
    value.map(short).unwrap_or_default()
}

/// A figure with its significant digits.
pub(crate) fn short(value: f64) -> String {
    match value {
        v if v >= 10_000.0 => format!("{:.0} k", v / 1000.0),
        v if v >= 1_000.0 => format!("{:.1} k", v / 1000.0),
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v if v >= 1.0 => format!("{v:.2}"),
        v => format!("{v:.3}"),
    }
}

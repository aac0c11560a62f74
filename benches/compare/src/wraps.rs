//! What the wrap adds to a terminal: bytes a second, a key's way there and back, memory and idle
//! time, beside no wrap at all, the smallest relay and `script`.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::process;
use crate::programs::{Bench, words};
use crate::report::short;
use crate::terminal::Terminal;
use crate::wire::fault;

const KEYS: usize = 2_000;
const LINE: &[u8] = b"0123456789abcdef\x1b[31mred\x1b[0m text\r\n";
const FLOOD_BYTES: usize = 200 * 1024 * 1024 / LINE.len() * LINE.len();
/// Floods through each terminal, one after the other in turn: a machine that slows down slows all
/// of them.
const FLOODS: usize = 9;

/// A terminal and what was measured of it.
struct Wrap {
    name: &'static str,
    command: Vec<String>,
    rates: Vec<f64>,
}

struct Figures {
    name: &'static str,
    mb_per_second: f64,
    echo_ms: f64,
    echo_p99_ms: f64,
    idle: Idle,
}

struct Idle {
    peak_mib: f64,
    /// What a helper of its own does not share with it.
    helper_mib: Option<f64>,
    cpu_seconds: f64,
}

/// Prints all figures, then ours beside the aims.
pub(crate) fn measure(bench: &Bench) -> io::Result<()> {
    let flood = bench.folder.join("flood");
    File::create(&flood)?.write_all(&LINE.repeat(FLOOD_BYTES / LINE.len()))?;
    make_agent(&bench.folder)?;
    let mut wraps = wraps(bench)?;
    for _ in 0..FLOODS {
        for wrap in &mut wraps {
            let rate = throughput(bench, &wrap.command, &flood)?;
            wrap.rates.push(rate);
        }
    }
    println!(
        "\n| terminal | MB/s, median of {FLOODS} | key echo, median ms | p99 ms | peak MiB | \
         its monitor adds | CPU in 3 idle s |\n\
         |---|---|---|---|---|---|---|"
    );
    let mut figures = Vec::new();
    for mut wrap in wraps {
        wrap.rates.sort_by(f64::total_cmp);
        let (echo_ms, echo_p99_ms) = echo(bench, &wrap.command)?;
        let one = Figures {
            name: wrap.name,
            mb_per_second: wrap.rates[FLOODS / 2],
            echo_ms,
            echo_p99_ms,
            idle: idle(bench, &wrap.command)?,
        };
        print(&one);
        figures.push(one);
    }
    if let [bare, relay, _, ours @ ..] = figures.as_slice() {
        print_aims(bare, relay, ours);
    }
    Ok(())
}

fn wraps(bench: &Bench) -> io::Result<[Wrap; 5]> {
    let relay = std::env::current_exe()?.to_string_lossy().into_owned();
    let wrap = |name, command: &[&str]| Wrap {
        name,
        command: words(command),
        rates: Vec::new(),
    };
    let ours = bench.cbroker.as_str();
    let notify = ["--name", "benchWrap", "--delivery", "notify", "run", "--"];
    Ok([
        wrap("nothing between", &[]),
        wrap("smallest relay", &[&relay, "--relay"]),
        wrap("script -qfc", &["script", "-qfc"]),
        wrap("cbroker run", &[&[ours], notify.as_slice()].concat()),
        wrap("cbroker claude", &[ours, "--name", "benchAgent", "claude"]),
    ])
}

fn print(figures: &Figures) {
    let Figures { name, idle, .. } = figures;
    println!(
        "| {name} | {} | {:.3} | {:.3} | {:.1} | {} | {:.2} s |",
        short(figures.mb_per_second),
        figures.echo_ms,
        figures.echo_p99_ms,
        idle.peak_mib,
        idle.helper_mib
            .map_or_else(String::new, |mib| format!("{mib:.1}")),
        idle.cpu_seconds
    );
}

fn print_aims(bare: &Figures, relay: &Figures, ours: &[Figures]) {
    println!("\n| the wrap | figure | aim | holds |\n|---|---|---|---|");
    let row = |what: &str, figure: String, aim: &str, holds: bool| {
        let holds = if holds { "yes" } else { "**no**" };
        println!("| {what} | {figure} | {aim} | {holds} |");
    };
    for one in ours {
        let share = one.mb_per_second / relay.mb_per_second * 100.0;
        let added_ms = one.echo_ms - bare.echo_ms;
        let mib = one.idle.peak_mib + one.idle.helper_mib.unwrap_or_default();
        let cpu = one.idle.cpu_seconds;
        row(
            &format!("{}, throughput beside the smallest relay", one.name),
            format!("{share:.0} %"),
            "at least 95 %",
            share >= 95.0,
        );
        row(
            &format!("{}, added to a key's echo, median", one.name),
            format!("{added_ms:.3} ms"),
            "under 0.1 ms",
            added_ms < 0.1,
        );
        row(
            &format!("{}, memory with its monitor, peak", one.name),
            format!("{mib:.1} MiB"),
            "under 10 MiB",
            mib < 10.0,
        );
        row(
            &format!("{}, CPU while idle", one.name),
            format!("{cpu:.2} s"),
            "0",
            cpu == 0.0,
        );
    }
}

fn start(bench: &Bench, wrap: &[String], script: &str) -> io::Result<Terminal> {
    let inner = if wrap.first().is_some_and(|program| program == "script") {
        words(&[script, "/dev/null"])
    } else if wrap.last().is_some_and(|program| program == "claude") {
        Vec::new()
    } else {
        words(&["sh", "-c", script])
    };
    let path = std::env::var("PATH").unwrap_or_default();
    let agent = vec![
        ("PATH", format!("{}:{path}", bench.folder.display())),
        ("BENCH_SCRIPT", script.to_owned()),
    ];
    Terminal::start(
        &[wrap, &inner].concat(),
        &[bench.environment(), agent].concat(),
    )
}

/// A `claude` that does what it is told: its name alone makes the wrap follow its screen.
fn make_agent(folder: &Path) -> io::Result<()> {
    let agent = folder.join("claude");
    fs::write(&agent, "#!/bin/sh\nexec sh -c \"$BENCH_SCRIPT\"\n")?;
    fs::set_permissions(agent, fs::Permissions::from_mode(0o755))
}

fn throughput(bench: &Bench, wrap: &[String], flood: &Path) -> io::Result<f64> {
    let began = Instant::now();
    let bytes = start(bench, wrap, &format!("cat {}", flood.display()))?.drain()?;
    if (bytes as usize) < FLOOD_BYTES {
        return Err(fault(format!("{bytes} bytes came through")));
    }
    Ok(bytes as f64 / 1e6 / began.elapsed().as_secs_f64())
}

fn echo(bench: &Bench, wrap: &[String]) -> io::Result<(f64, f64)> {
    let mut terminal = start(bench, wrap, "stty raw -echo; echo READY; exec cat")?;
    terminal.wait_for(b"READY")?;
    thread::sleep(Duration::from_millis(300));
    let mut times = Vec::new();
    let mut key = [0];
    for _ in 0..KEYS {
        let began = Instant::now();
        terminal.master.write_all(b"k")?;
        while key[0] != b'k' {
            terminal.master.read_exact(&mut key)?;
        }
        key[0] = 0;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    end(terminal)?;
    times.sort_by(f64::total_cmp);
    Ok((times[KEYS / 2], times[KEYS * 99 / 100]))
}

/// What the wrap itself, and a helper of its own, take while nothing happens.
fn idle(bench: &Bench, wrap: &[String]) -> io::Result<Idle> {
    let mut terminal = start(bench, wrap, "echo READY; exec sleep 60")?;
    terminal.wait_for(b"READY")?;
    thread::sleep(Duration::from_millis(1500));
    let own = process::own(terminal.child.id());
    let usage = || own.iter().copied().map(process::usage_of_one);
    let cpu_seconds = || usage().map(|usage| usage.cpu_seconds).sum::<f64>();
    let before = cpu_seconds();
    thread::sleep(Duration::from_secs(3));
    let idle = Idle {
        peak_mib: usage().next().map_or(0.0, |usage| usage.peak_mib),
        helper_mib: own.get(1).copied().map(process::private_mib),
        cpu_seconds: cpu_seconds() - before,
    };
    end(terminal)?;
    Ok(idle)
}

fn end(mut terminal: Terminal) -> io::Result<()> {
    for pid in process::tree(terminal.child.id()).into_iter().rev() {
        process::kill(pid);
    }
    terminal.child.wait().map(drop)
}

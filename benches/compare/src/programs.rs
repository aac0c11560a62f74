//! Whole processes: what a person waits for when a command is typed, and what the wrap adds to a terminal.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::peer::Peer;
use crate::process;
use crate::report::short;
use crate::terminal::{Terminal, run_quietly};
use crate::wire::fault;

const RUNS: usize = 41;
const KEYS: usize = 2_000;
const FLOOD_BYTES: usize = 200 * 1024 * 1024;
/// Floods through each terminal, one after the other in turn: a machine that slows down slows all of them.
const FLOODS: usize = 5;

/// Prints the table for the binary `cbroker`, with `peer` as the broker that it talks to.
pub(crate) fn measure(cbroker: &Path, peer: &Peer) -> io::Result<()> {
    let bench = Bench::new(cbroker, peer)?;
    println!("| whole process | median ms | slowest of {RUNS} |\n|---|---|---|");
    let own = |arguments: &[&str]| words(&[&[bench.cbroker.as_str()], arguments].concat());
    bench.time("true (fork and exec alone)", &words(&["true"]))?;
    bench.time("cbroker --version", &own(&["--version"]))?;
    bench.time(
        "cbroker send",
        &own(&[
            "send",
            "--to",
            "benchTarget",
            "-m",
            "hello",
            "--drop-oldest",
        ]),
    )?;
    bench.time("cbroker list", &own(&["list"]))?;
    let url = format!("{}/%2F", bench.url);
    bench.time(
        "amqp-publish (rabbitmq-c)",
        &words(&[
            "amqp-publish",
            "--url",
            &url,
            "-r",
            "benchTarget",
            "-b",
            "hello",
        ]),
    )?;
    bench.hook()?;
    bench.terminals()
}

struct Bench {
    cbroker: String,
    url: String,
    folder: PathBuf,
}

impl Bench {
    fn new(cbroker: &Path, peer: &Peer) -> io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("cbroker-programs.{}", std::process::id()));
        fs::create_dir_all(folder.join("home"))?;
        let place = &peer.address;
        let url = format!(
            "amqp://{}:{}@{}:{}",
            place.user, place.password, place.host, place.port
        );
        let cbroker = fs::canonicalize(cbroker)?.to_string_lossy().into_owned();
        Ok(Self {
            cbroker,
            url,
            folder,
        })
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        let home = self.folder.join("home").to_string_lossy().into_owned();
        vec![("CBROKER_URL", self.url.clone()), ("CBROKER_HOME", home)]
    }

    fn time(&self, name: &str, command: &[String]) -> io::Result<()> {
        let mut times = Vec::new();
        for _ in 0..RUNS {
            let began = Instant::now();
            if !run_quietly(command, &self.environment())? {
                println!("| {name} | failed | |");
                return Ok(());
            }
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        println!(
            "| {name} | {:.2} | {:.2} |",
            times[RUNS / 2],
            times[RUNS - 1]
        );
        Ok(())
    }

    /// What each hook of a wrapped agent costs it, with somebody who listens as the wrap does.
    fn hook(&self) -> io::Result<()> {
        let socket = self.folder.join("hook.sock");
        let listener = UnixListener::bind(&socket)?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _the_hook_is_gone = io::copy(&mut &stream, &mut io::sink());
            }
        });
        let socket = socket.to_string_lossy().into_owned();
        self.time(
            "cbroker hook",
            &words(&[&self.cbroker, "hook", "PreToolUse", "--socket", &socket]),
        )
    }

    /// The wrap beside the smallest relay and `script`; as an agent, its screen is followed too.
    fn terminals(&self) -> io::Result<()> {
        let flood = self.folder.join("flood");
        File::create(&flood)?
            .write_all(&b"0123456789abcdef\x1b[31mred\x1b[0m text\r\n".repeat(FLOOD_BYTES / 35))?;
        let relay = std::env::current_exe()?.to_string_lossy().into_owned();
        self.make_agent()?;
        let wraps: [(&str, Vec<String>); 5] = [
            ("nothing between", Vec::new()),
            ("smallest relay", words(&[&relay, "--relay"])),
            ("script -qfc", words(&["script", "-qfc"])),
            (
                "cbroker run",
                words(&[
                    &self.cbroker,
                    "--name",
                    "benchWrap",
                    "--delivery",
                    "notify",
                    "run",
                    "--",
                ]),
            ),
            (
                "cbroker claude",
                words(&[&self.cbroker, "--name", "benchAgent", "claude"]),
            ),
        ];
        println!(
            "\n| terminal | MB/s, median of {FLOODS} | key echo, median ms | p99 ms | peak MiB | its monitor adds | CPU in 3 idle s |\n|---|---|---|---|---|---|---|"
        );
        let mut rates = vec![Vec::new(); wraps.len()];
        for _ in 0..FLOODS {
            for ((_, wrap), rates) in wraps.iter().zip(&mut rates) {
                rates.push(self.throughput(wrap, &flood)?);
            }
        }
        for ((name, wrap), mut rates) in wraps.iter().zip(rates) {
            rates.sort_by(f64::total_cmp);
            let rate = rates[FLOODS / 2];
            let echo = self.echo(wrap)?;
            let idle = self.idle(wrap)?;
            println!(
                "| {name} | {} | {:.3} | {:.3} | {:.1} | {} | {:.2} s |",
                short(rate),
                echo.0,
                echo.1,
                idle.peak_mib,
                idle.helper_mib
                    .map_or_else(String::new, |mib| format!("{mib:.1}")),
                idle.cpu_seconds
            );
        }
        fs::remove_dir_all(&self.folder)
    }

    fn start(&self, wrap: &[String], script: &str) -> io::Result<Terminal> {
        let inner = if wrap.first().is_some_and(|program| program == "script") {
            words(&[script, "/dev/null"])
        } else if wrap.last().is_some_and(|program| program == "claude") {
            Vec::new()
        } else {
            words(&["sh", "-c", script])
        };
        let path = std::env::var("PATH").unwrap_or_default();
        let agent = vec![
            ("PATH", format!("{}:{path}", self.folder.display())),
            ("BENCH_SCRIPT", script.to_owned()),
        ];
        Terminal::start(
            &[wrap, &inner].concat(),
            &[self.environment(), agent].concat(),
        )
    }

    /// A `claude` that does what it is told: its name alone makes the wrap follow its screen.
    fn make_agent(&self) -> io::Result<()> {
        let agent = self.folder.join("claude");
        fs::write(&agent, "#!/bin/sh\nexec sh -c \"$BENCH_SCRIPT\"\n")?;
        fs::set_permissions(agent, fs::Permissions::from_mode(0o755))
    }

    fn throughput(&self, wrap: &[String], flood: &Path) -> io::Result<f64> {
        let began = Instant::now();
        let bytes = self
            .start(wrap, &format!("cat {}", flood.display()))?
            .drain()?;
        if (bytes as usize) < FLOOD_BYTES / 35 * 35 {
            return Err(fault(format!("{bytes} bytes came through")));
        }
        Ok(bytes as f64 / 1e6 / began.elapsed().as_secs_f64())
    }

    fn echo(&self, wrap: &[String]) -> io::Result<(f64, f64)> {
        let mut terminal = self.start(wrap, "stty raw -echo; echo READY; exec cat")?;
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
    fn idle(&self, wrap: &[String]) -> io::Result<Idle> {
        let mut terminal = self.start(wrap, "echo READY; exec sleep 60")?;
        terminal.wait_for(b"READY")?;
        thread::sleep(Duration::from_millis(1500));
        let own = process::own(terminal.child.id());
        let usage = || own.iter().copied().map(process::usage_of_one);
        let cpu_seconds = || usage().map(|usage| usage.cpu_seconds).sum::<f64>();
        let before = cpu_seconds();
        thread::sleep(Duration::from_secs(3));
        let cpu_seconds = cpu_seconds() - before;
        let peak_mib = usage().next().map_or(0.0, |usage| usage.peak_mib);
        let idle = Idle {
            peak_mib,
            helper_mib: own.get(1).copied().map(process::private_mib),
            cpu_seconds,
        };
        end(terminal)?;
        Ok(idle)
    }
}

struct Idle {
    peak_mib: f64,
    helper_mib: Option<f64>,
    cpu_seconds: f64,
}

fn end(mut terminal: Terminal) -> io::Result<()> {
    for pid in process::tree(terminal.child.id()).into_iter().rev() {
        process::kill(pid);
    }
    terminal.child.wait().map(drop)
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

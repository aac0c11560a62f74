//! Whole processes: what a person waits for when a command is typed, and what a hook costs an
//! agent.

use std::fs;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use crate::peer::Peer;
use crate::terminal::run_quietly;

const RUNS: usize = 41;

/// Prints the table.
pub(crate) fn measure(bench: &Bench) -> io::Result<()> {
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
    bench.hook()
}

/// The binary, its broker and a folder for what is measured.
pub(crate) struct Bench {
    pub(crate) cbroker: String,
    url: String,
    pub(crate) folder: PathBuf,
}

impl Bench {
    /// For the binary `cbroker`, with `peer` as the broker that it talks to.
    pub(crate) fn new(cbroker: &Path, peer: &Peer) -> io::Result<Self> {
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

    /// Takes the folder away.
    pub(crate) fn end(self) -> io::Result<()> {
        fs::remove_dir_all(self.folder)
    }

    /// What makes the binary use this broker, and a home of its own.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
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
}

pub(crate) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

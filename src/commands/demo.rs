//! `cbroker demo`: shows cbroker at work in a few seconds, without an agent.
//!
//! It starts a broker on free ports with a temporary store, wraps two toy sessions, sends a message
//! each way, and kills the broker with `kill -9` while one message waits. Everything runs through
//! this program's own commands in separate processes, so the output is what a user would get.

mod frame;
mod sandbox;
mod session;

use std::time::{Duration, Instant};

use serde_json::json;

use crate::config::Config;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::{Output, Style};
use sandbox::Sandbox;
use session::DemoSession;

/// A step that takes longer has failed. All steps together take much less on any machine.
const STEP_WITHIN: Duration = Duration::from_secs(10);

const TO_BOB: &str = "GET /users is live. Please point the client at it.";
const TO_ALICE: &str = "Done. All 42 tests pass.";

/// Plays the demo. Returns 0 if both messages arrived.
pub(super) fn run(config: &Config, output: &Output) -> Result<Exit, Error> {
    let show = DemoPrinter {
        output,
        began: Instant::now(),
    };
    show.line("Two terminal programs talk to each other through a durable broker.")?;
    show.line("All of it lives in a temporary folder and is gone in a few seconds.")?;
    let mut sandbox = Sandbox::set(config)?;

    show.heading("1. A message is typed into a running session")?;
    let starting = Instant::now();
    sandbox.start_broker(STEP_WITHIN)?;
    show.step(&format!(
        "the broker starts on a free port ({} ms)",
        starting.elapsed().as_millis()
    ))?;
    let alice = DemoSession::open(&sandbox, "alice")?;
    let bob = DemoSession::open(&sandbox, "bob")?;
    show.step("two sessions open: cbroker --name alice run -- …, cbroker --name bob run -- …")?;
    sandbox.wait_until_attached(&["alice", "bob"], STEP_WITHIN)?;
    let first = show.send(&sandbox, "alice", "bob", TO_BOB)?;
    let live = bob.wait_for(TO_BOB, STEP_WITHIN)?;
    show.step(&format!(
        "typed into bob's input and submitted {} later, at a quiet moment",
        seconds(first.elapsed())
    ))?;
    show.screens(&alice, &bob)?;

    show.heading("2. A message to a closed session waits, and survives a crash")?;
    alice.close(STEP_WITHIN)?;
    show.step("alice closes")?;
    show.send(&sandbox, "bob", "alice", TO_ALICE)?;
    sandbox.kill_broker()?;
    show.step("the broker is killed with kill -9 while the message waits")?;
    let starting = Instant::now();
    sandbox.start_broker(STEP_WITHIN)?;
    show.step(&format!(
        "the broker starts again on the same store ({} ms)",
        starting.elapsed().as_millis()
    ))?;
    let opened = Instant::now();
    let alice = DemoSession::open(&sandbox, "alice")?;
    let waited = alice.wait_for(TO_ALICE, STEP_WITHIN)?;
    show.step(&format!(
        "alice opens again: the message is there after {}",
        seconds(opened.elapsed())
    ))?;
    show.screens(&alice, &bob)?;

    alice.close(STEP_WITHIN)?;
    bob.close(STEP_WITHIN)?;
    let took = seconds(show.began.elapsed());
    show.line(&format!(
        "\nThat was all, in {took}. Now with your own agents, in two terminals:"
    ))?;
    show.line("  cbroker --name backend claude")?;
    show.line("  cbroker --name frontend claude")?;
    output.json(&json!({
        "ok": true,
        "live_ms": live.as_millis(),
        "after_crash_ms": waited.as_millis(),
        "total_ms": show.began.elapsed().as_millis(),
    }))?;
    Ok(Exit::Done)
}

/// Prints the steps of the demo.
struct DemoPrinter<'a> {
    output: &'a Output,
    began: Instant,
}

impl DemoPrinter<'_> {
    fn line(&self, text: &str) -> Result<(), Error> {
        self.output.line(text)
    }

    fn heading(&self, text: &str) -> Result<(), Error> {
        self.line("")?;
        self.line(&self.output.paint(Style::Bold, text))
    }

    fn step(&self, text: &str) -> Result<(), Error> {
        let at = format!("{:>5.1} s", self.began.elapsed().as_secs_f64());
        self.line(&format!("  {}  {text}", self.output.paint(Style::Dim, &at)))
    }

    /// Sends with the command that a user would type, and prints both. Returns the time of the
    /// confirm.
    fn send(&self, sandbox: &Sandbox, from: &str, to: &str, text: &str) -> Result<Instant, Error> {
        let command = format!("$ cbroker send --from {from} --to {to} -m \"{text}\"");
        self.step(&self.output.paint(Style::Bold, &command))?;
        let began = Instant::now();
        let said = sandbox.send(from, to, text)?;
        let took = began.elapsed().as_millis();
        self.step(&format!("{said}  confirmed on disk, {took} ms in all"))?;
        Ok(Instant::now())
    }

    fn screens(&self, left: &DemoSession, right: &DemoSession) -> Result<(), Error> {
        for line in frame::side_by_side(&left.screen(), &right.screen()) {
            self.line(&format!("  {line}"))?;
        }
        Ok(())
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

//! The one loop of a session: bytes, messages and time.
//!
//! It owns every part and decides nothing itself: bytes go where they always go, everything that was seen is told to
//! [`Attention`] and [`Injection`], and what the injection says is done. The parts that deal with messages are in
//! `post`, those that deal with signals and stops in `stops`.
//!
//! # Cost
//! While no message waits, output is passed on and scanned for escape sequences; nothing is drawn, no timer runs.

mod post;
mod stops;

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::net::UnixStream;
use tokio::sync::mpsc::Receiver;

use super::agents::Profile;
use super::attention::{Attention, Event};
use super::foreground;
use super::hooks::{Hooks, Told, Waiter};
use super::inject::{Delivery, Handover, Injection, Step, Ticket};
use super::keys::{Keys, Press};
use super::log::Log;
use super::modes::Modes;
use super::monitor::Report;
use super::pty::Program;
use super::relay::{Moved, Relay};
use super::screen::Screen;
use super::terminal::Terminal;
use crate::error::Error;

pub(super) use post::{Post, PostParts};
use stops::Signals;

/// The screen is drawn at most this often.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// A frame that is never ended, or a flood, must not blind us.
const BLIND_LIMIT: Duration = Duration::from_millis(200);
/// What was heard of the agent's hooks, as far as the log says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Nothing,
    Hooks,
    /// None, for so long that none is waited for.
    Silence,
}

/// What a session is made of.
pub(super) struct Parts {
    pub(super) terminal: Terminal,
    pub(super) program: Program,
    pub(super) profile: &'static Profile,
    pub(super) delivery: Delivery,
    pub(super) batch: usize,
    pub(super) hooks: Option<(Hooks, Receiver<Told>)>,
    pub(super) post: Post,
    pub(super) log: Log,
}

/// A running session.
pub(super) struct Session {
    terminal: Terminal,
    program: Program,
    relay: Relay,
    reports: UnixStream,
    signals: Signals,
    /// Signals that came before there was a program to send them to.
    early: Vec<Signal>,
    modes: Modes,
    keys: Keys,
    screen: Option<Screen>,
    attention: Attention,
    injection: Injection,
    delivery: Delivery,
    hooks: Option<(Hooks, Receiver<Told>)>,
    waiter: Option<Waiter>,
    post: Post,
    log: Log,
    end: Option<Report>,
    /// The program's side of the terminal is closed; the monitor will say why.
    is_program_silent: bool,
    /// The screen has changed since it was looked at.
    is_stale: bool,
    last_look: Instant,
    heard: Heard,
    /// Ways in that failed too often, as far as the log knows.
    ways_off: Vec<&'static str>,
}

impl Session {
    /// Puts the parts together; the program runs already. From here on the terminal is raw: no signal may end us before it
    /// is given back.
    pub(super) fn new(parts: Parts) -> Result<Self, Error> {
        let cannot =
            |error: std::io::Error| Error::new("the terminal cannot be watched").because(error);
        let Parts {
            terminal,
            program,
            profile,
            delivery,
            batch,
            hooks,
            post,
            log,
        } = parts;
        let now = Instant::now();
        let signals = Signals::new().map_err(cannot)?;
        terminal.enter_raw().map_err(cannot)?;
        let size = terminal.size().map_err(cannot)?;
        let is_drawn = delivery != Delivery::Notify
            && (profile.prompt.is_some()
                || !profile.dialogs.is_empty()
                || !profile.busy.is_empty());
        let relay =
            Relay::new(terminal.input(), terminal.output(), program.master()).map_err(cannot)?;
        let reports = program
            .report_socket()
            .and_then(UnixStream::from_std)
            .map_err(cannot)?;
        Ok(Self {
            relay,
            reports,
            signals,
            early: Vec::new(),
            modes: Modes::default(),
            keys: Keys::default(),
            screen: is_drawn.then(|| Screen::new(size.ws_row, size.ws_col)),
            attention: Attention::new(profile, now),
            injection: Injection::new(delivery, batch),
            delivery,
            hooks,
            waiter: None,
            post,
            log,
            end: None,
            is_program_silent: false,
            is_stale: false,
            last_look: now,
            heard: Heard::Nothing,
            ways_off: Vec::new(),
            terminal,
            program,
        })
    }

    /// Runs until the program has ended; what ended it.
    pub(super) async fn run(mut self) -> Report {
        let end = loop {
            let again = self.turn(Instant::now());
            if let Some(end) = self.end {
                break end;
            }
            let wake = again.map_or_else(far_away, tokio::time::Instant::from_std);
            tokio::select! {
                moved = self.relay.next(), if !self.is_program_silent => self.moved(moved),
                _ = self.reports.readable() => self.hear_monitor().await,
                signal = self.signals.next() => self.signalled(signal),
                news = self.post.next() => self.post_arrived(news),
                told = next_told(&mut self.hooks) => self.told(told),
                () = tokio::time::sleep_until(wake), if again.is_some() => {}
            }
        };
        // What is typed from here on is for the shell.
        self.relay.leave_keys();
        self.log.say(&format!("the program ended: {end:?}"));
        self.finish().await;
        end
    }

    fn moved(&mut self, moved: Moved) {
        let now = Instant::now();
        match moved {
            Moved::Output => {
                self.modes.read(self.relay.seen());
                if let Some(screen) = &mut self.screen {
                    screen.write(self.relay.seen(), now);
                    self.is_stale = true;
                }
                self.attention.output(&self.modes, now);
            }
            Moved::Input(bytes) => {
                let passed = if self.keys.are_the_terminals(&bytes) {
                    self.injection.reports(&bytes)
                } else {
                    self.injection.keys(&bytes, now)
                };
                if passed.is_some() {
                    self.pass_on(&bytes, now);
                }
            }
            Moved::Written => self.injection.written(now),
            Moved::ProgramGone => self.is_program_silent = true,
            Moved::PersonGone => self.person_gone(),
        }
    }

    /// A person's bytes, on their way to the program.
    fn pass_on(&mut self, bytes: &[u8], now: Instant) {
        self.relay.send(bytes);
        for press in self.keys.read(bytes) {
            if press == Press::Enter {
                self.post.person_spoke();
            }
            self.attention.press(press, now);
        }
    }

    fn told(&mut self, told: Told) {
        let now = Instant::now();
        match told {
            Told::Event(event) => {
                if self.heard != Heard::Hooks {
                    self.heard = Heard::Hooks;
                    self.log.say("the agent's hooks work");
                }
                // A look at each event: what is seen while nothing waits explains what is seen later.
                self.look(now);
                self.attention.event(&event, now);
                self.injection.event(&event);
                if matches!(event, Event::SessionEnd) {
                    self.disarm();
                }
            }
            Told::Waiter(waiter) => {
                // One at a time: dropping the other lets it go.
                self.waiter = Some(waiter);
                self.injection.arm();
            }
            Told::WaiterGone(number) => {
                if self
                    .waiter
                    .as_ref()
                    .is_some_and(|waiter| waiter.number == number)
                {
                    self.disarm();
                }
            }
            Told::Handed(handover) => {
                self.log.say(&format!("by the hook: {handover:?}"));
                self.injection.handed(handover);
                self.tell_of_ways();
            }
        }
    }

    fn disarm(&mut self) {
        self.waiter = None;
        self.injection.disarm();
    }

    /// Does all that can be done at `now`; when to look again though nothing happens.
    fn turn(&mut self, now: Instant) -> Option<Instant> {
        if self.injection.is_idle() {
            self.announce(now);
            return None;
        }
        let look = self.look(now);
        self.miss_hooks(now);
        let step = loop {
            self.look_at_foreground(now);
            match self.injection.step(&self.attention, now) {
                Step::Note(tickets) => self.post.intend(&tickets),
                Step::Write(bytes) => self.relay.send_and_tell(&bytes),
                Step::Entered(tickets) => self.post.entered(&tickets),
                Step::Begun(tickets) => self.post.begun(&tickets),
                Step::Ended(tickets) => self.post.ended(&tickets),
                Step::Stuck(tickets, hold) => {
                    self.log.say(&format!(
                        "gave up on {}: {hold}",
                        self.post.describe(&tickets)
                    ));
                    self.post.held(&tickets, &hold);
                    self.tell_of_ways();
                }
                Step::Hand(tickets, text) => self.hand(&tickets, text),
                Step::Replay(bytes) => self.pass_on(&bytes, now),
                Step::Wait(again) => break again,
            }
        };
        let news = self.tell_holds(now);
        self.announce(now);
        [look, step, news].into_iter().flatten().min()
    }

    fn hand(&mut self, tickets: &[Ticket], text: String) {
        match self.waiter.take() {
            Some(waiter) => {
                self.log
                    .say(&format!("by the hook: {}", self.post.describe(tickets)));
                self.post.by_hook(tickets);
                waiter.give(text, self.post.ids(tickets));
            }
            None => self.injection.handed(Handover::Refused),
        }
    }

    /// Draws the screen and reads it, if that is due; otherwise when it will be.
    fn look(&mut self, now: Instant) -> Option<Instant> {
        let screen = self.screen.as_mut().filter(|_| self.is_stale)?;
        let is_moving = self.modes.is_within_frame() || screen.is_flooded();
        let pause = if is_moving { BLIND_LIMIT } else { LOOK_EVERY };
        let due = self.last_look + pause;
        if now < due {
            return Some(due.min(now + LOOK_EVERY));
        }
        let reading = screen.read(self.attention.profile(), now);
        self.attention.screen(reading, now);
        self.is_stale = false;
        self.last_look = now;
        None
    }

    /// What executes its input may be in the foreground by now, whatever was started.
    fn look_at_foreground(&mut self, now: Instant) {
        if self.injection.may_type(&self.attention, now) {
            let executes = foreground::look(self.program.master());
            self.attention.foreground(executes, now);
        }
    }

    fn miss_hooks(&mut self, now: Instant) {
        let has_hooks = self.attention.profile().has_hooks;
        if has_hooks && self.heard == Heard::Nothing && self.attention.is_screen_only(now) {
            self.heard = Heard::Silence;
            self.log.say(
                "no hook came within 10 s of the prompt: the screen alone decides, with more quiet",
            );
        }
    }

    fn tell_of_ways(&mut self) {
        let off = self.injection.ways_off();
        if off != self.ways_off {
            self.log
                .say(&format!("switched off after failures: {}", off.join(", ")));
            self.ways_off = off;
        }
    }

    fn tell_holds(&mut self, now: Instant) -> Option<Instant> {
        let waiting: Vec<_> = self
            .injection
            .waiting()
            .filter_map(|(item, hold)| Some((item.ticket, hold?)))
            .collect();
        for (ticket, hold) in waiting {
            if let Some(id) = self.post.hold(ticket, &hold, now) {
                self.log.say(&format!("holds {id}: {hold}"));
            }
        }
        self.post.next_news(now)
    }
}

async fn next_told(hooks: &mut Option<(Hooks, Receiver<Told>)>) -> Told {
    match hooks {
        Some((_, told)) => match told.recv().await {
            Some(told) => told,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// A timer that is never waited for still needs a time.
fn far_away() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_hours(1)
}

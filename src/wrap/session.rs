//! The one loop of a session: bytes, messages and time.
//!
//! It owns every part and decides nothing itself: bytes go where they always go, everything that
//! was seen is told to [`AgentState`] and [`Deliveries`], and what the deliveries say is done. The
//! parts that deal with messages are in `post`, those that deal with the ways in in `ways_in`,
//! those that deal with signals and stops in `stops`.
//!
//! # Cost
//! While no message waits, output is passed on and scanned for escape sequences; the screen is read
//! and a timer runs only around a hook's event.

mod post;
mod stops;
mod ways_in;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::net::UnixStream;
use tokio::sync::mpsc::Receiver;

use super::agent_state::{AgentState, HookEvent};
use super::agents::Profile;
use super::delivery::{Deliveries, Mode, Step};
use super::foreground;
use super::hooks::{HookReport, Hooks, Waiter};
use super::keys::{Keys, Press};
use super::log::Log;
use super::modes::Modes;
use super::monitor::ChildStatus;
use super::pty::Program;
use super::relay::{Moved, Relay};
use super::screen::Screen;
use super::screen_socket::{ScreenQuestion, ScreenSocket};
use super::terminal::Terminal;
use super::ways::{Way, WaysIn};
use crate::error::Error;
use crate::panics;

pub(super) use post::{Post, PostParts};
use stops::Signals;
use ways_in::Proofs;

/// How long the screen is not believed after a hook: Claude Code still shows "esc to interrupt" for
/// a while after its turn ended.
const SETTLED: Duration = Duration::from_millis(400);
/// The screen is drawn at most this often.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// The screen is read after this long, also in an unfinished frame or a flood of output.
const BLIND_LIMIT: Duration = Duration::from_millis(200);
/// Whether hooks have reported, as logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HooksHeard {
    Nothing,
    Hooks,
    /// None for so long that the session does not expect any.
    Silence,
}

/// What a session is made of.
pub(super) struct Parts {
    pub(super) terminal: Terminal,
    pub(super) program: Program,
    pub(super) profile: &'static Profile,
    pub(super) mode: Mode,
    pub(super) batch: usize,
    pub(super) hooks: Option<(Hooks, Receiver<HookReport>)>,
    /// Ways in that report through one channel.
    pub(super) ways: WaysIn,
    pub(super) post: Post,
    /// Where the screen is shown.
    pub(super) shows: Option<(ScreenSocket, Receiver<ScreenQuestion>)>,
    pub(super) log: Log,
}

/// A running session.
pub(super) struct Session {
    terminal: Terminal,
    program: Program,
    relay: Relay,
    monitor: UnixStream,
    signals: Signals,
    /// Signals that came before there was a program to send them to.
    early: Vec<Signal>,
    modes: Modes,
    keys: Keys,
    screen: Screen,
    shows: Option<(ScreenSocket, Receiver<ScreenQuestion>)>,
    /// Whether the screen is read, to know what the agent does.
    reads_screen: bool,
    agent: AgentState,
    deliveries: Deliveries,
    hooks: Option<(Hooks, Receiver<HookReport>)>,
    waiter: Option<Waiter>,
    ways: WaysIn,
    proofs: Proofs,
    post: Post,
    log: Log,
    end: Option<ChildStatus>,
    /// The program's side of the terminal is closed; the monitor will say why.
    is_program_silent: bool,
    /// The screen has changed since it was looked at.
    is_stale: bool,
    last_look: Instant,
    /// When to look at the screen though no message waits: what a hook said is drawn by then.
    state_look: Option<Instant>,
    heard: HooksHeard,
    /// Ways in that failed too often, as far as the log knows.
    ways_off: Vec<Way>,
}

impl Session {
    /// Puts the parts together; the program runs already. From here on the terminal is raw: no
    /// signal may end us before it is given back.
    pub(super) fn new(parts: Parts) -> Result<Self, Error> {
        let cannot =
            |error: std::io::Error| Error::new("the terminal cannot be watched").because(error);
        let Parts {
            terminal,
            program,
            profile,
            mode,
            batch,
            hooks,
            ways,
            post,
            shows,
            log,
        } = parts;
        let now = Instant::now();
        let signals = Signals::new().map_err(cannot)?;
        terminal.enter_raw().map_err(cannot)?;
        let size = terminal.size().map_err(cannot)?;
        let reads_screen = mode != Mode::Notify && profile.has_looks();
        let relay =
            Relay::new(terminal.input(), terminal.output(), program.master()).map_err(cannot)?;
        let mut deliveries = Deliveries::new(mode, batch);
        for way in &ways.ways {
            deliveries.expect(way.way());
        }
        if profile.knows_its_prompt() {
            deliveries.resized(size.ws_row, size.ws_col);
        }
        let monitor = program
            .monitor_socket()
            .and_then(UnixStream::from_std)
            .map_err(cannot)?;
        Ok(Self {
            relay,
            monitor,
            signals,
            early: Vec::new(),
            modes: Modes::default(),
            keys: Keys::default(),
            screen: Screen::new(size.ws_row, size.ws_col),
            shows,
            reads_screen,
            agent: AgentState::new(profile, now),
            deliveries,
            hooks,
            waiter: None,
            ways,
            proofs: Proofs::default(),
            post,
            log,
            end: None,
            is_program_silent: false,
            is_stale: false,
            last_look: now,
            state_look: None,
            heard: HooksHeard::Nothing,
            ways_off: Vec::new(),
            terminal,
            program,
        })
    }

    /// What is known of the agent before it says anything: its own folder, where it writes down
    /// what it does, and whether its arguments keep hooks from running.
    pub(super) fn expect_agent(&mut self, folder: Option<PathBuf>, is_bare: bool) {
        self.proofs = Proofs::new(folder);
        if is_bare {
            self.agent.runs_no_hooks();
            self.heard = HooksHeard::Silence;
            self.log
                .say("with these arguments no hook runs: the screen alone decides");
        }
    }

    /// Runs until the program has ended; what ended it.
    ///
    /// # Errors
    /// The session panicked. The terminal is given back.
    pub(super) async fn run(mut self) -> Result<ChildStatus, Error> {
        match panics::caught(self.serve()).await {
            Ok(end) => {
                self.finish().await;
                Ok(end)
            }
            Err(error) => {
                self.give_back();
                Err(error)
            }
        }
    }

    async fn serve(&mut self) -> ChildStatus {
        let end = loop {
            let again = self.turn(Instant::now());
            if let Some(end) = self.end {
                break end;
            }
            let wake = again.map_or_else(far_away, tokio::time::Instant::from_std);
            tokio::select! {
                moved = self.relay.next(), if !self.is_program_silent => self.moved(moved),
                _ = self.monitor.readable() => self.handle_child_statuses().await,
                signal = self.signals.next() => self.signalled(signal),
                news = self.post.next() => self.post_arrived(news),
                told = next_of(&mut self.hooks) => self.handle_hook(told),
                question = next_of(&mut self.shows) => self.show_screen(question),
                Some((way, report)) = self.ways.reports.recv() => self.handle_way(way, report),
                seen = self.proofs.next() => {
                    for (number, stage) in seen {
                        self.handle_proof(number, &stage);
                    }
                }
                () = tokio::time::sleep_until(wake), if again.is_some() => {}
            }
        };
        // What is typed from here on is for the shell.
        self.relay.leave_keys();
        self.log.say(&format!("the program {end}"));
        end
    }

    fn moved(&mut self, moved: Moved) {
        let now = Instant::now();
        match moved {
            Moved::Output => {
                self.modes.read(self.relay.seen());
                self.screen.write(self.relay.seen(), now);
                self.is_stale = self.reads_screen;
                self.agent.output(&self.modes, now);
                if let Some(title) = self.modes.title() {
                    self.ways.ways.iter().for_each(|way| way.titled(title));
                }
            }
            Moved::Input(bytes) => {
                panics::where_asked("key");
                let passed = if self.keys.are_the_terminals(&bytes) {
                    self.deliveries.reports(&bytes)
                } else {
                    self.deliveries.keys(&bytes, now)
                };
                if passed.is_some() {
                    self.pass_on(&bytes, now);
                }
            }
            Moved::Written => self.deliveries.written(now),
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
            self.agent.press(press, now);
        }
    }

    /// Does all that can be done at `now`; when to look again though nothing happens.
    fn turn(&mut self, now: Instant) -> Option<Instant> {
        let look = if self.deliveries.is_idle() {
            self.look_at_state(now)
        } else {
            self.look(now)
        };
        self.miss_hooks(now);
        let late = self.deliveries.late_until();
        if self.deliveries.is_idle() && late.is_none_or(|until| now < until) {
            self.announce(now);
            return [look, late].into_iter().flatten().min();
        }
        let profile = self.agent.profile();
        if profile.knows_its_prompt() || profile.line.is_some() {
            let is_read = self.program.has_read_input();
            self.agent.input_is_read(is_read, now);
        }
        let step = loop {
            self.look_at_foreground(now);
            match self.deliveries.step(&self.agent, now) {
                Step::Wait(again) => break again,
                step => self.carry_out(step, now),
            }
        };
        let news = self.tell_holds(now);
        self.announce(now);
        [look, step, news].into_iter().flatten().min()
    }

    /// Looks at the screen though no message waits, when what a hook said must be drawn by now.
    fn look_at_state(&mut self, now: Instant) -> Option<Instant> {
        let due = self.state_look?;
        if now < due {
            return Some(due);
        }
        let again = self.look(now);
        if again.is_none() {
            self.state_look = None;
        }
        again
    }

    /// Draws the screen and reads it, if that is due; otherwise when it will be.
    fn look(&mut self, now: Instant) -> Option<Instant> {
        if !self.is_stale {
            return None;
        }
        let is_moving = self.modes.is_within_frame() || self.screen.is_flooded();
        let pause = if is_moving { BLIND_LIMIT } else { LOOK_EVERY };
        let due = self.last_look + pause;
        if now < due {
            return Some(due.min(now + LOOK_EVERY));
        }
        let reading = self.screen.read(self.agent.profile(), now);
        self.agent.screen(reading, now);
        self.is_stale = false;
        self.last_look = now;
        None
    }

    /// What executes its input may be in the foreground by now, whatever was started.
    fn look_at_foreground(&mut self, now: Instant) {
        if self.deliveries.may_type(&self.agent, now) {
            let executes = foreground::look(self.program.master());
            self.agent.foreground(executes, now);
            let words = self.own_words();
            self.agent.own_status(words.status, now);
        }
    }

    fn show_screen(&mut self, question: ScreenQuestion) {
        // The one who asked may have gone.
        let _gone = question.send(self.screen.text(Instant::now()));
    }

    fn miss_hooks(&mut self, now: Instant) {
        let has_hooks = self.agent.profile().has_hooks;
        if has_hooks && self.heard == HooksHeard::Nothing && self.agent.is_screen_only(now) {
            self.heard = HooksHeard::Silence;
            self.log.say(
                "no hook came within 10 s of the prompt: using the screen only, with longer pauses",
            );
        }
    }

    fn tell_of_ways(&mut self) {
        let off = self.deliveries.ways_off();
        if off != self.ways_off {
            let names: Vec<String> = off.iter().map(ToString::to_string).collect();
            self.log.say(&match names.as_slice() {
                [] => "ways that were switched off are tried again".to_owned(),
                names => format!("switched off after failures: {}", names.join(", ")),
            });
            self.ways_off = off;
        }
    }

    fn tell_holds(&mut self, now: Instant) -> Option<Instant> {
        for (key, hold) in self.deliveries.waiting(&self.agent, now) {
            if self.deliveries.table.is_news(key, &hold, now) {
                self.post.held(&self.deliveries.table, &[key], &hold);
                let ids = self.deliveries.table.ids(&[key]).join(", ");
                self.log.say(&format!("holds {ids}: {hold}"));
            }
        }
        let news = self.deliveries.table.next_news(now);
        news.into_iter().chain(self.post.release_at()).min()
    }
}

/// The next thing that a socket of the session's brings; never, where it has none.
async fn next_of<S, T>(socket: &mut Option<(S, Receiver<T>)>) -> T {
    if let Some((_, brought)) = socket
        && let Some(next) = brought.recv().await
    {
        return next;
    }
    std::future::pending().await
}

/// A timer that is never waited for still needs a time.
fn far_away() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_hours(1)
}

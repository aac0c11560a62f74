//! The event loop of a session: terminal bytes, messages and timers.
//!
//! The loop owns all parts of a session and makes no decisions itself. It relays bytes between the
//! two terminals, passes every observation to [`AgentState`] and [`Deliveries`], and carries out
//! the steps that [`Deliveries`] returns. `messages` handles messages, `ways_in` the ways in, and
//! `stops` signals and job control.
//!
//! # Cost
//! While no message waits, output is relayed and scanned for escape sequences only. The screen is
//! read, and a timer set, only after a hook's event.

mod messages;
mod stops;
mod ways_in;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustix::termios::Winsize;
use tokio::net::UnixStream;
use tokio::sync::mpsc::Receiver;

use super::agent_state::{AgentState, HookEvent};
use super::agents::Profile;
use super::delivery::{Deliveries, DeliveryMode, Step};
use super::foreground;
use super::hooks::{HookReport, Hooks, Waiter};
use super::keys::{KeyPress, Keys};
use super::log::SessionLog;
use super::modes::Modes;
use super::monitor::ChildStatus;
use super::pty::Program;
use super::relay::{Relay, RelayEvent};
use super::screen::Screen;
use super::screen_socket::{ScreenQuestion, ScreenSocket};
use super::terminal::Terminal;
use super::ways::{Way, WayActors};
use crate::error::Error;
use crate::panics;

pub(super) use messages::{MessageParts, SessionMessages};
use stops::Signals;
use ways_in::Proofs;

/// Delay between a hook's event and the reading of the screen: Claude Code still shows "esc to
/// interrupt" for a while after its turn ended.
const AFTER_HOOK_EVENT: Duration = Duration::from_millis(400);
/// Minimum interval between two readings of the screen.
const READ_EVERY: Duration = Duration::from_millis(10);
/// Maximum time without a reading of the screen, even during an unfinished frame or a flood of
/// output.
const BLIND_LIMIT: Duration = Duration::from_millis(200);

/// Whether the agent's hooks report to this session, as far as the log says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HookReporting {
    Unknown,
    Reporting,
    /// No hook reported for so long that the session does not expect any.
    Silent,
}

/// The parts from which a session is built.
pub(super) struct Parts {
    pub(super) terminal: Terminal,
    pub(super) program: Program,
    pub(super) profile: &'static Profile,
    pub(super) mode: DeliveryMode,
    pub(super) batch: usize,
    pub(super) hooks: Option<(Hooks, Receiver<HookReport>)>,
    /// The ways in that report through one channel.
    pub(super) ways: WayActors,
    pub(super) messages: SessionMessages,
    /// The socket of `cbroker screen`.
    pub(super) screen_socket: Option<(ScreenSocket, Receiver<ScreenQuestion>)>,
    pub(super) log: SessionLog,
}

/// A running session.
pub(super) struct Session {
    terminal: Terminal,
    program: Program,
    relay: Relay,
    monitor: UnixStream,
    signals: Signals,
    /// Signals that arrived before the program had started.
    early_signals: Vec<Signal>,
    modes: Modes,
    keys: Keys,
    screen: Screen,
    screen_socket: Option<(ScreenSocket, Receiver<ScreenQuestion>)>,
    /// Whether the screen is read to find out what the agent does.
    reads_screen: bool,
    agent: AgentState,
    deliveries: Deliveries,
    hooks: Option<(Hooks, Receiver<HookReport>)>,
    waiter: Option<Waiter>,
    ways: WayActors,
    proofs: Proofs,
    messages: SessionMessages,
    log: SessionLog,
    end: Option<ChildStatus>,
    /// The program's side of the terminal is closed; the monitor will report why.
    is_program_silent: bool,
    /// The screen has changed since it was last read.
    is_stale: bool,
    last_reading: Instant,
    /// When to read the screen although no message waits: by then the agent has drawn the state
    /// that its hook reported.
    read_state_at: Option<Instant>,
    hook_reporting: HookReporting,
    /// The disabled ways in that were last logged.
    disabled_ways: Vec<Way>,
}

impl Session {
    /// Builds the session of a program that is already running, and puts the terminal into raw
    /// mode. From here on no signal may end this process before the terminal is restored.
    pub(super) fn new(parts: Parts) -> Result<Self, Error> {
        let cannot =
            |error: std::io::Error| Error::new("the terminal cannot be watched").caused_by(error);
        let Parts {
            terminal,
            program,
            profile,
            mode,
            batch,
            hooks,
            ways,
            messages,
            screen_socket,
            log,
        } = parts;
        let now = Instant::now();
        let signals = Signals::new().map_err(cannot)?;
        terminal.enter_raw().map_err(cannot)?;
        let size = adopt_size(&terminal, &program).map_err(cannot)?;
        let reads_screen = mode != DeliveryMode::Notify && profile.has_looks();
        let relay =
            Relay::new(terminal.input(), terminal.output(), program.master()).map_err(cannot)?;
        let mut deliveries = Deliveries::new(mode, batch);
        for way in &ways.actors {
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
            early_signals: Vec::new(),
            modes: Modes::default(),
            keys: Keys::default(),
            screen: Screen::new(size.ws_row, size.ws_col),
            screen_socket,
            reads_screen,
            agent: AgentState::new(profile, now),
            deliveries,
            hooks,
            waiter: None,
            ways,
            proofs: Proofs::default(),
            messages,
            log,
            end: None,
            is_program_silent: false,
            is_stale: false,
            last_reading: now,
            read_state_at: None,
            hook_reporting: HookReporting::Unknown,
            disabled_ways: Vec::new(),
            terminal,
            program,
        })
    }

    /// Records what is known of the agent before it reports anything. `folder` is the agent's own
    /// folder, which holds its status files; `is_bare` says that its arguments disable hooks.
    pub(super) fn expect_agent(&mut self, folder: Option<PathBuf>, is_bare: bool) {
        self.proofs = Proofs::new(folder);
        if is_bare {
            self.agent.disable_hooks();
            self.hook_reporting = HookReporting::Silent;
            self.log
                .write("these arguments disable hooks: using the screen only");
        }
    }

    /// Runs until the program has ended, and returns how it ended.
    ///
    /// # Errors
    /// The session panicked. The terminal has been restored.
    pub(super) async fn run(mut self) -> Result<ChildStatus, Error> {
        match panics::caught(self.serve()).await {
            Ok(end) => {
                self.finish().await;
                Ok(end)
            }
            Err(error) => {
                self.restore_terminal();
                Err(error)
            }
        }
    }

    async fn serve(&mut self) -> ChildStatus {
        let end = loop {
            let again = self.do_due_work(Instant::now());
            if let Some(end) = self.end {
                break end;
            }
            let wake = again.map_or_else(distant_deadline, tokio::time::Instant::from_std);
            tokio::select! {
                event = self.relay.next(), if !self.is_program_silent => self.handle_io(event),
                _ = self.monitor.readable() => self.handle_child_statuses().await,
                signal = self.signals.next() => self.handle_signal(signal).await,
                event = self.messages.next() => self.handle_message_event(event),
                report = recv_or_pending(&mut self.hooks) => self.handle_hook_report(report),
                question = recv_or_pending(&mut self.screen_socket) => self.show_screen(question),
                Some((way, report)) = self.ways.reports.recv() => {
                    self.handle_way_report(way, report);
                }
                seen = self.proofs.next() => {
                    for (number, stage) in seen {
                        self.handle_proof(number, &stage);
                    }
                }
                () = tokio::time::sleep_until(wake), if again.is_some() => {}
            }
        };
        // Keys typed from here on are left for the shell.
        self.relay.stop_reading_input();
        self.log.write(&format!("the program {end}"));
        end
    }

    fn handle_io(&mut self, event: RelayEvent) {
        let now = Instant::now();
        match event {
            RelayEvent::Output => {
                self.modes.read(self.relay.seen());
                self.screen.write(self.relay.seen(), now);
                self.is_stale = self.reads_screen;
                self.agent.record_output(&self.modes, now);
                if let Some(title) = self.modes.title() {
                    self.ways
                        .actors
                        .iter()
                        .for_each(|way| way.title_changed(title));
                }
            }
            RelayEvent::Input(bytes) => {
                panics::panic_if_test_asks("key");
                let passed = if self.keys.are_only_reports(&bytes) {
                    self.deliveries.filter_reports(&bytes)
                } else {
                    self.deliveries.filter_keys(&bytes, now)
                };
                if passed.is_some() {
                    self.forward_input(&bytes, now);
                }
            }
            RelayEvent::Written => self.deliveries.written(now),
            RelayEvent::ProgramClosed => self.is_program_silent = true,
            RelayEvent::TerminalClosed => self.handle_terminal_closed(),
        }
    }

    /// Sends input of the person to the program, and records the keys in it.
    fn forward_input(&mut self, bytes: &[u8], now: Instant) {
        self.check_unread_text(now);
        if self.deliveries.may_be_flushed() && self.program.discards_input_at(bytes) {
            self.deliveries.note_flush();
        }
        self.relay.send(bytes);
        for press in self.keys.read(bytes) {
            if press == KeyPress::Enter {
                self.messages.person_spoke();
            }
            self.agent.record_press(press, now);
        }
    }

    /// Does everything that is due at `now`. Returns when to call it again if nothing happens
    /// before.
    fn do_due_work(&mut self, now: Instant) -> Option<Instant> {
        let next_reading = if self.deliveries.is_idle() {
            self.read_screen_for_state(now)
        } else {
            self.read_screen_if_due(now)
        };
        self.note_missing_hooks(now);
        let late = self.deliveries.late_until();
        if self.deliveries.is_idle() && late.is_none_or(|until| now < until) {
            self.announce(now);
            return [next_reading, late].into_iter().flatten().min();
        }
        self.check_input(now);
        let step = loop {
            let is_behind = self.is_stale || self.relay.has_unread_output();
            self.agent.set_screen_behind(is_behind);
            self.check_foreground(now);
            match self.deliveries.step(&self.agent, now) {
                Step::Wait(again) => break again,
                step => self.carry_out(step, now),
            }
        };
        let report = self.report_holds(now);
        self.announce(now);
        [next_reading, step, report].into_iter().flatten().min()
    }

    /// Checks whether the program has read a typed text, before it gets a key or signal that may
    /// end it: this cannot be found out afterwards.
    pub(super) fn check_unread_text(&mut self, now: Instant) {
        if self.deliveries.may_be_flushed() {
            self.check_input(now);
            self.deliveries.input_checked(&self.agent);
        }
    }

    /// Checks whether the program has read its input, if that decides anything.
    fn check_input(&mut self, now: Instant) {
        let profile = self.agent.profile();
        let is_typed = self.deliveries.typed_number().is_some();
        if !profile.knows_its_prompt() && profile.line.is_none() && !is_typed {
            return;
        }
        let is_read = self.program.has_read_input();
        if !self.program.is_hung_up() {
            self.agent.record_input_read(is_read, now);
        }
    }

    /// Reads the screen after a hook's event although no message waits. Returns when to try again.
    fn read_screen_for_state(&mut self, now: Instant) -> Option<Instant> {
        let due = self.read_state_at?;
        if now < due {
            return Some(due);
        }
        let again = self.read_screen_if_due(now);
        if again.is_none() {
            self.read_state_at = None;
        }
        again
    }

    /// Reads the screen if that is due; otherwise returns when it will be.
    fn read_screen_if_due(&mut self, now: Instant) -> Option<Instant> {
        if !self.is_stale {
            return None;
        }
        let is_moving = self.modes.is_within_frame() || self.screen.is_flooded();
        let pause = if is_moving { BLIND_LIMIT } else { READ_EVERY };
        let due = self.last_reading + pause;
        if now < due {
            return Some(due.min(now + READ_EVERY));
        }
        let reading = self.screen.read(self.agent.profile(), now);
        self.agent.record_screen(reading, now);
        self.is_stale = false;
        self.last_reading = now;
        None
    }

    /// Checks the foreground processes and the agent's status file, if the next step depends on
    /// them. A program that executes its input may have come to the foreground since the start.
    fn check_foreground(&mut self, now: Instant) {
        if self.deliveries.needs_process_check(&self.agent, now) {
            let executes = foreground::executing_program(self.program.master());
            self.agent.record_foreground(executes, now);
            let file = self.check_status_file();
            self.agent.record_own_status(file.status, now);
        }
    }

    fn show_screen(&mut self, question: ScreenQuestion) {
        // The client may have disconnected.
        let _disconnected = question.send(self.screen.text(Instant::now()));
    }

    fn note_missing_hooks(&mut self, now: Instant) {
        let has_hooks = self.agent.profile().has_hooks;
        if has_hooks
            && self.hook_reporting == HookReporting::Unknown
            && self.agent.is_screen_only(now)
        {
            self.hook_reporting = HookReporting::Silent;
            self.log.write(
                "no hook came within 10 s of the prompt: using the screen only, with longer pauses",
            );
        }
    }

    fn log_disabled_ways(&mut self) {
        let off = self.deliveries.disabled_ways();
        if off != self.disabled_ways {
            let names: Vec<String> = off.iter().map(ToString::to_string).collect();
            self.log.write(&match names.as_slice() {
                [] => "ways in that were switched off are tried again".to_owned(),
                names => format!("switched off after failures: {}", names.join(", ")),
            });
            self.disabled_ways = off;
        }
    }

    fn report_holds(&mut self, now: Instant) -> Option<Instant> {
        for (key, hold) in self.deliveries.waiting(&self.agent, now) {
            if self.deliveries.table.should_report_hold(key, &hold, now) {
                self.messages.held(&self.deliveries.table, &[key], &hold);
                let ids = self.deliveries.table.ids(&[key]).join(", ");
                self.log.write(&format!("holds {ids}: {hold}"));
            }
        }
        let next = self.deliveries.table.next_hold_report(now);
        next.into_iter().chain(self.messages.release_at()).min()
    }
}

/// Receives the next item of a socket; waits forever without one.
async fn recv_or_pending<S, T>(socket: &mut Option<(S, Receiver<T>)>) -> T {
    if let Some((_, receiver)) = socket
        && let Some(item) = receiver.recv().await
    {
        return item;
    }
    std::future::pending().await
}

/// The deadline of a disabled timer, which is never awaited.
fn distant_deadline() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_hours(1)
}

/// Gives the program the size of the window, which may have changed since the program was started.
fn adopt_size(terminal: &Terminal, program: &Program) -> std::io::Result<Winsize> {
    let size = terminal.size()?;
    // An error means that the program has ended, which is noticed later.
    let _ended = program.resize(size);
    Ok(size)
}

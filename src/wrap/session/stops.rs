//! Signals, stops and ends: those of the wrap are passed on to the program, and the program's stop
//! and end become the wrap's.
//!
//! When the program stops, the terminal is given back and the wrap stops too, so that the shell
//! takes over; when the shell continues the wrap, it continues the program.

use std::io;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::Interest;
use tokio::signal::unix::{self, SignalKind};

use super::Session;
use crate::wrap::monitor::ChildStatus;
use crate::wrap::relay::Moved;

/// How soon our own continuation is heard after a stop; without one the system did not stop us.
const CONTINUED_WITHIN: Duration = Duration::from_millis(50);
/// How long the last acks and the close of the connection may take after the program's end.
const GOODBYE: Duration = Duration::from_secs(2);
/// What the program wrote last is shown before the session ends; a background process that holds
/// the terminal, and is silent for this long, does not delay the end. Nor does one that writes
/// more than the system can have buffered of the program's output.
const SILENCE: Duration = Duration::from_secs(1);
const TERMINAL_HOLDS: usize = 128 * 1024;
/// A terminal that has not taken one piece in this time takes none.
const STUCK: Duration = Duration::from_secs(5);

/// The signals that a session answers to.
pub(super) struct Signals {
    resized: unix::Signal,
    continued: unix::Signal,
    hang_up: unix::Signal,
    terminate: unix::Signal,
    interrupt: unix::Signal,
    quit: unix::Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            resized: unix::signal(SignalKind::window_change())?,
            continued: unix::signal(SignalKind::from_raw(Signal::CONT.as_raw()))?,
            hang_up: unix::signal(SignalKind::hangup())?,
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
            quit: unix::signal(SignalKind::quit())?,
        })
    }

    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.resized.recv() => Signal::WINCH,
            _ = self.continued.recv() => Signal::CONT,
            _ = self.hang_up.recv() => Signal::HUP,
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.quit.recv() => Signal::QUIT,
        }
    }
}

impl Session {
    pub(super) fn signalled(&mut self, signal: Signal) {
        match signal {
            Signal::WINCH => self.fit(),
            Signal::CONT => self.come_back(),
            other if self.program.has_started() => self.program.signal(other),
            other => self.early.push(other),
        }
    }

    /// The program's window is as large as the person's.
    fn fit(&mut self) {
        if let Ok(size) = self.terminal.size() {
            let _ends_soon = self.program.resize(size);
            self.screen.resize(size.ws_row, size.ws_col);
            self.is_stale = self.reads_screen;
            if self.agent.profile().knows_its_prompt() {
                self.deliveries.resized(size.ws_row, size.ws_col);
            }
        }
    }

    /// The wrap runs again: the terminal is ours, and the program goes on.
    fn come_back(&mut self) {
        if self.terminal.enter_raw().is_err() {
            return self.person_gone();
        }
        self.fit();
        self.agent.resume();
        self.program.continue_group();
    }

    pub(super) async fn handle_child_statuses(&mut self) {
        match self
            .monitor
            .try_io(Interest::READABLE, || self.program.child_statuses())
        {
            Ok(Some(statuses)) => {
                for status in statuses {
                    self.handle_child_status(status).await;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // A monitor that ended without a report was killed, and the hang-up ends the program.
            Ok(None) | Err(_) => {
                self.end
                    .get_or_insert(ChildStatus::Killed(Signal::HUP.as_raw()));
            }
        }
    }

    async fn handle_child_status(&mut self, status: ChildStatus) {
        match status {
            ChildStatus::Started(_) => {
                for signal in std::mem::take(&mut self.early) {
                    self.program.signal(signal);
                }
            }
            ChildStatus::Continued => self.agent.resume(),
            ChildStatus::Stopped(signal) => self.stop_too(signal).await,
            ChildStatus::Exited(_) | ChildStatus::Killed(_) | ChildStatus::Failed(_) => {
                self.end = Some(status);
            }
        }
    }

    async fn stop_too(&mut self, signal: i32) {
        self.agent.suspend();
        self.show_all_output().await;
        self.terminal.leave_raw();
        if rustix::process::kill_current_process_group(Signal::TSTP).is_err() {
            return self.come_back();
        }
        // Stopped here, until a shell continues us; or not at all, if none could (an orphaned
        // group).
        let heard = tokio::time::timeout(CONTINUED_WITHIN, self.signals.continued.recv()).await;
        if heard.is_ok() || signal != Signal::STOP.as_raw() {
            self.come_back();
        } else if self.terminal.enter_raw().is_err() {
            // The program was stopped on purpose, and can be continued the same way.
            self.person_gone();
        }
    }

    /// What the program wrote before it stopped belongs before the shell's prompt; what others in
    /// the background write on does not.
    async fn show_all_output(&mut self) {
        let quiet = Duration::from_millis(20);
        let mut left = TERMINAL_HOLDS;
        while left > 0
            && let Ok(moved) = tokio::time::timeout(quiet, self.relay.next()).await
        {
            if matches!(moved, Moved::Output) {
                left = left.saturating_sub(self.relay.seen().len());
            }
            let is_over = matches!(moved, Moved::ProgramGone | Moved::PersonGone);
            self.moved(moved);
            if is_over {
                break;
            }
        }
    }

    /// The person's terminal is gone, and the program's goes with it: it hears of that as it would
    /// without us.
    pub(super) fn person_gone(&mut self) {
        self.program.signal(Signal::HUP);
        self.end
            .get_or_insert(ChildStatus::Killed(Signal::HUP.as_raw()));
    }

    /// After a panic: the terminal as it was, and nothing that waits.
    pub(super) fn give_back(&mut self) {
        let resets = self.modes.resets();
        let _terminal_is_stuck = rustix::io::write(self.terminal.output(), &resets);
        self.terminal.leave_raw();
        self.log.say("an internal error ends the session");
    }

    /// After the end: the last output, the terminal as it was, the last acks.
    pub(super) async fn finish(mut self) {
        self.show_rest().await;
        self.deliveries.pause();
        self.settle_ways().await;
        let now = Instant::now();
        for step in self.deliveries.ended(&self.agent, now) {
            self.carry_out(step, now);
        }
        self.relay.show(&self.modes.resets());
        let _terminal_is_stuck = tokio::time::timeout(STUCK, self.relay.drain()).await;
        self.terminal.leave_raw();
        let Self {
            post,
            mut deliveries,
            hooks,
            waiter,
            ways,
            ..
        } = self;
        drop((hooks, waiter, ways));
        post.close(&mut deliveries.table, GOODBYE).await;
    }

    /// What the program wrote before its end, in the time that a slow line takes.
    async fn show_rest(&mut self) {
        let mut left = TERMINAL_HOLDS;
        while !self.is_program_silent && left > 0 {
            let shown = tokio::time::timeout(STUCK, self.relay.drain()).await;
            let moved = tokio::time::timeout(SILENCE, self.relay.next()).await;
            match moved {
                Ok(Moved::Output) if shown.is_ok() => {
                    self.modes.read(self.relay.seen());
                    left = left.saturating_sub(self.relay.seen().len());
                }
                Ok(Moved::Written) if shown.is_ok() => {}
                _ => return,
            }
        }
    }
}

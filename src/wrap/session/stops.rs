//! Signals, job control and the end of a session. Signals to the wrap are forwarded to the program;
//! when the program stops or ends, the wrap stops or ends too.
//!
//! When the program stops, the terminal is restored and the wrap stops itself, so that the shell
//! takes over. When the shell continues the wrap, the wrap continues the program.

use std::io;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::Interest;
use tokio::signal::unix::{self, SignalKind};

use super::Session;
use crate::wrap::monitor::ChildStatus;
use crate::wrap::relay::RelayEvent;

/// Maximum delay until SIGCONT is received after a stop. Without it, the kernel did not stop this
/// process.
const CONTINUED_WITHIN: Duration = Duration::from_millis(50);
/// Maximum time between a terminating signal and the SIGCONT that belongs to it: a shell sends both
/// to a stopped job.
const ENDED_JUST_NOW: Duration = Duration::from_secs(1);
/// Time limit for the last acks and for closing the connection after the program's end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The program's last output is shown before the session ends. A background process that holds the
/// terminal open delays the end by at most this long without output.
const SILENCE: Duration = Duration::from_secs(1);
/// Maximum number of bytes shown after the end: more than the kernel buffers of the program's
/// output.
const TERMINAL_HOLDS: usize = 128 * 1024;
/// A terminal that accepts no output for this long is considered stuck.
const STUCK: Duration = Duration::from_secs(5);

/// The signals that a session handles.
pub(super) struct Signals {
    resized: unix::Signal,
    continued: unix::Signal,
    to_end: EndSignals,
}

/// The signals that usually end a program.
struct EndSignals {
    hang_up: unix::Signal,
    terminate: unix::Signal,
    interrupt: unix::Signal,
    quit: unix::Signal,
    /// When the last one arrived.
    last: Option<Instant>,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            resized: unix::signal(SignalKind::window_change())?,
            continued: unix::signal(SignalKind::from_raw(Signal::CONT.as_raw()))?,
            to_end: EndSignals {
                hang_up: unix::signal(SignalKind::hangup())?,
                terminate: unix::signal(SignalKind::terminate())?,
                interrupt: unix::signal(SignalKind::interrupt())?,
                quit: unix::signal(SignalKind::quit())?,
                last: None,
            },
        })
    }

    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.resized.recv() => Signal::WINCH,
            _ = self.continued.recv() => Signal::CONT,
            signal = self.to_end.next() => signal,
        }
    }
}

impl EndSignals {
    async fn next(&mut self) -> Signal {
        let signal = tokio::select! {
            _ = self.hang_up.recv() => Signal::HUP,
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.quit.recv() => Signal::QUIT,
        };
        self.last = Some(Instant::now());
        signal
    }

    fn has_come_just_now(&self) -> bool {
        self.last
            .is_some_and(|last| last.elapsed() < ENDED_JUST_NOW)
    }
}

impl Session {
    pub(super) async fn handle_signal(&mut self, signal: Signal) {
        match signal {
            Signal::WINCH => self.resize(),
            Signal::CONT => self.resume_after_stop().await,
            other => self.pass_signal(other),
        }
    }

    fn pass_signal(&mut self, signal: Signal) {
        if self.program.has_started() {
            self.check_unread_text(Instant::now());
            self.program.signal(signal);
        } else {
            self.early_signals.push(signal);
        }
    }

    /// Gives the program's terminal the size of the person's terminal.
    fn resize(&mut self) {
        if let Ok(size) = self.terminal.size() {
            let _ends_soon = self.program.resize(size);
            self.screen.resize(size.ws_row, size.ws_col);
            self.is_stale = self.reads_screen;
            if self.agent.profile().knows_its_prompt() {
                self.deliveries.resized(size.ws_row, size.ws_col);
            }
        }
    }

    /// Takes the terminal again and continues the program, after this process was continued.
    async fn resume_after_stop(&mut self) {
        if self.is_ended_in_background().await {
            return self.program.continue_group();
        }
        if self.terminal.enter_raw().is_err() {
            return self.handle_terminal_closed();
        }
        self.resize();
        self.agent.resume();
        self.program.continue_group();
    }

    /// Whether a shell continued this process in the background to end it, as `kill %1` does.
    /// Forwards the terminating signal, which may arrive after SIGCONT although it was sent before.
    ///
    /// In the background the terminal must not be taken: that would stop this process again.
    async fn is_ended_in_background(&mut self) -> bool {
        if !self.terminal.is_in_background() {
            return false;
        }
        if self.signals.to_end.has_come_just_now() {
            return true;
        }
        let signal = tokio::time::timeout(CONTINUED_WITHIN, self.signals.to_end.next()).await;
        if let Ok(signal) = signal {
            self.pass_signal(signal);
        }
        signal.is_ok()
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
            // A monitor that ended without a report was killed; the hang-up of its terminal ends
            // the program.
            Ok(None) | Err(_) => {
                self.end
                    .get_or_insert(ChildStatus::Killed(Signal::HUP.as_raw()));
            }
        }
    }

    async fn handle_child_status(&mut self, status: ChildStatus) {
        match status {
            ChildStatus::Started(_) => {
                for signal in std::mem::take(&mut self.early_signals) {
                    self.program.signal(signal);
                }
            }
            ChildStatus::Continued => self.agent.resume(),
            ChildStatus::Stopped(signal) => self.stop_with_program(signal).await,
            ChildStatus::Exited(_) | ChildStatus::Killed(_) | ChildStatus::Failed(_) => {
                self.end = Some(status);
            }
        }
    }

    async fn stop_with_program(&mut self, signal: i32) {
        self.agent.suspend();
        self.show_all_output().await;
        self.terminal.leave_raw();
        if rustix::process::kill_current_process_group(Signal::TSTP).is_err() {
            return self.resume_after_stop().await;
        }
        // This process is stopped here until a shell continues it. An orphaned process group is not
        // stopped at all.
        let heard = tokio::time::timeout(CONTINUED_WITHIN, self.signals.continued.recv()).await;
        if heard.is_ok() || signal != Signal::STOP.as_raw() {
            self.resume_after_stop().await;
        } else if self.terminal.enter_raw().is_err() {
            // The program was stopped with SIGSTOP and can be continued with SIGCONT.
            self.handle_terminal_closed();
        }
    }

    /// Shows the output that the program wrote before it stopped, so that it precedes the shell's
    /// prompt. Output that background processes keep writing is not waited for.
    async fn show_all_output(&mut self) {
        let quiet = Duration::from_millis(20);
        let mut left = TERMINAL_HOLDS;
        while left > 0
            && let Ok(event) = tokio::time::timeout(quiet, self.relay.next()).await
        {
            if matches!(event, RelayEvent::Output) {
                left = left.saturating_sub(self.relay.seen().len());
            }
            let is_over = matches!(
                event,
                RelayEvent::ProgramClosed | RelayEvent::TerminalClosed
            );
            self.handle_io(event);
            if is_over {
                break;
            }
        }
    }

    /// The person's terminal is closed: the program gets SIGHUP, as it would without the wrap.
    pub(super) fn handle_terminal_closed(&mut self) {
        self.check_unread_text(Instant::now());
        self.program.signal(Signal::HUP);
        self.end
            .get_or_insert(ChildStatus::Killed(Signal::HUP.as_raw()));
    }

    /// Restores the terminal after a panic, without waiting for anything.
    pub(super) fn restore_terminal(&mut self) {
        let resets = self.modes.resets();
        let _terminal_is_stuck = rustix::io::write(self.terminal.output(), &resets);
        self.terminal.leave_raw();
        self.log.write("an internal error ends the session");
    }

    /// Shows the last output, restores the terminal, and sends the last acks.
    pub(super) async fn finish(mut self) {
        self.show_rest().await;
        self.deliveries.pause();
        self.await_last_reports().await;
        let now = Instant::now();
        for step in self.deliveries.finish(&self.agent, now) {
            self.carry_out(step, now);
        }
        self.relay.show(&self.modes.resets());
        let _terminal_is_stuck = tokio::time::timeout(STUCK, self.relay.drain()).await;
        self.terminal.leave_raw();
        let Self {
            messages,
            mut deliveries,
            hooks,
            waiter,
            ways,
            ..
        } = self;
        drop((hooks, waiter, ways));
        messages.close(&mut deliveries.table, CLOSE_TIMEOUT).await;
    }

    /// Shows the output that the program wrote before its end. Waits for a slow terminal.
    async fn show_rest(&mut self) {
        let mut left = TERMINAL_HOLDS;
        while !self.is_program_silent && left > 0 {
            let shown = tokio::time::timeout(STUCK, self.relay.drain()).await;
            let event = tokio::time::timeout(SILENCE, self.relay.next()).await;
            match event {
                Ok(RelayEvent::Output) if shown.is_ok() => {
                    self.modes.read(self.relay.seen());
                    left = left.saturating_sub(self.relay.seen().len());
                }
                Ok(RelayEvent::Written) if shown.is_ok() => {}
                _ => return,
            }
        }
    }
}

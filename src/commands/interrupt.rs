//! Ctrl-C, for commands that have something to do before they end.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Each Ctrl-C since this was created: one between two waits is not lost.
///
/// `None` where the system reports no signals; Ctrl-C then ends the process as by default.
pub(super) struct Interrupt(Option<Signal>);

impl Interrupt {
    pub(super) fn listen() -> Self {
        Self(signal(SignalKind::interrupt()).ok())
    }

    /// Waits for a Ctrl-C that no earlier call returned for. Cancel safe.
    pub(super) async fn next(&mut self) {
        if let Some(signal) = &mut self.0
            && signal.recv().await.is_some()
        {
            return;
        }
        std::future::pending::<()>().await;
    }
}

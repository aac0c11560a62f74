//! Removes the bindings of deleted queues and exchanges, in as many units of work as needed.

use std::sync::Arc;

use super::BrokerState;
use crate::delivery::effects::Effects;
use crate::fault::Fault;
use crate::vhost::Vhost;

impl BrokerState {
    /// Removes what is left in the vhost.
    #[expect(
        clippy::manual_async_fn,
        reason = "it is spawned by what it calls, so its type must say that it is Send"
    )]
    pub(super) fn detach_rest(
        self: Arc<Self>,
        vhost: Arc<Vhost>,
    ) -> impl Future<Output = ()> + Send + 'static {
        async move {
            loop {
                tokio::task::yield_now().await;
                match self.detach_some(&vhost) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(fault) => {
                        tracing::warn!(vhost = %vhost.name(), %fault, "could not remove bindings");
                        break;
                    }
                }
            }
            self.loaded.notify_waiters();
        }
    }

    /// Removes bindings for one unit of work. False when none are left.
    fn detach_some(self: &Arc<Self>, vhost: &Vhost) -> Result<bool, Fault> {
        let mut effects = self.begin_unit();
        let mut is_more = Ok(true);
        while matches!(is_more, Ok(true)) && !effects.is_spent() {
            is_more = vhost.detach_next(&mut effects);
        }
        self.end_unit(effects);
        is_more
    }

    /// Calls `act` until it returns a value; it returns `None` while a deletion is in progress.
    /// Continues that deletion between the calls. Others run meanwhile, so `act` checks the rights
    /// of whoever asked for it each time.
    pub(crate) async fn after_deletions<T, E: From<Fault>>(
        self: &Arc<Self>,
        vhost: &Vhost,
        mut act: impl FnMut(&mut Effects) -> Result<Option<T>, E>,
    ) -> Result<T, E> {
        loop {
            if let Some(done) = self.act_or_detach(vhost, &mut act)? {
                return Ok(done);
            }
            tokio::task::yield_now().await;
        }
    }

    /// Like [`Self::after_deletions`], on a thread that may block.
    pub(crate) fn after_deletions_here<T, E: From<Fault>>(
        self: &Arc<Self>,
        vhost: &Vhost,
        mut act: impl FnMut(&mut Effects) -> Result<Option<T>, E>,
    ) -> Result<T, E> {
        loop {
            if let Some(done) = self.act_or_detach(vhost, &mut act)? {
                return Ok(done);
            }
        }
    }

    fn act_or_detach<T, E: From<Fault>>(
        self: &Arc<Self>,
        vhost: &Vhost,
        act: &mut impl FnMut(&mut Effects) -> Result<Option<T>, E>,
    ) -> Result<Option<T>, E> {
        let mut effects = self.begin_unit();
        let done = act(&mut effects);
        self.end_unit(effects);
        let done = done?;
        if done.is_none() {
            self.detach_some(vhost)?;
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests;

//! Removes very many bindings to deleted queues, in as many units of work as that takes.

use std::sync::Arc;

use super::BrokerState;

impl BrokerState {
    /// Goes on with the queues of these vhosts. What is left after one unit of work follows from
    /// its end.
    #[expect(
        clippy::manual_async_fn,
        reason = "it is spawned by what it calls, so its type must say that it is Send"
    )]
    pub(super) fn go_on_detaching(
        self: Arc<Self>,
        queues: Vec<(Arc<str>, Arc<str>)>,
    ) -> impl Future<Output = ()> + Send + 'static {
        async move {
            for (vhost, queue) in queues {
                tokio::task::yield_now().await;
                // One that is gone has no bindings left either.
                let Some(there) = self.vhost(&vhost) else {
                    continue;
                };
                let mut effects = self.begin();
                if let Err(fault) = there.go_on_detaching(&queue, &mut effects) {
                    tracing::warn!(%queue, %vhost, %fault, "bindings to a deleted queue are left");
                }
                self.end(effects);
            }
        }
    }
}

#[cfg(test)]
mod tests;

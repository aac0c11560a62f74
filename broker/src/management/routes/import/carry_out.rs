//! Does what a checked document asks for, and undoes it where something still fails.

use std::sync::Arc;

use super::super::{limits, permissions, users, vhosts};
use super::named;
use super::plan::{BindingLine, ImportPlan};
use crate::admission;
use crate::delivery::effects::Effects;
use crate::fault::Fault;
use crate::management::Api;
use crate::management::auth::Caller;
use crate::management::refusal::ApiError;
use crate::persist::Ticket;
use crate::queue::Queue;
use crate::quotas::{Quota, QuotaScope};
use crate::vhost::{DeleteCondition, Labels, Vhost};

impl ImportPlan<'_> {
    /// All of it, or nothing. What it gives must be durable before the caller is told that it is
    /// done.
    pub(super) fn carry_out(mut self, caller: &Caller) -> Result<Ticket, ApiError> {
        let mut done = Done::default();
        let mut effects = self.api.broker.begin();
        let outcome = self.make_all(caller, &mut done, &mut effects);
        self.api.broker.end(effects);
        if outcome.is_err() {
            done.undo(self.api);
        }
        outcome
    }

    fn make_all(
        &mut self,
        caller: &Caller,
        done: &mut Done,
        effects: &mut Effects,
    ) -> Result<Ticket, ApiError> {
        let mut last = Ticket::NONE;
        for (name, labels) in std::mem::take(&mut self.vhosts) {
            let before = self.api.broker.vhost(&name).map(|vhost| vhost.labels());
            done.0.push(DoneStep::Vhost(name.clone(), before));
            last = last.max(vhosts::put(self.api, caller, &name, labels)?);
        }
        last = last.max(self.make_exchanges(done)?);
        last = last.max(self.make_queues(caller, done, effects)?);
        last = last.max(self.make_bindings(done)?);
        // Behind everything that may fail: what a user loses ends at once and cannot be undone.
        for user in std::mem::take(&mut self.users) {
            last = last.max(users::put(self.api, user)?.1);
        }
        for (user, vhost, permissions) in std::mem::take(&mut self.permissions) {
            last = last.max(permissions::permit(self.api, &user, &vhost, permissions)?);
        }
        for (user, limits) in std::mem::take(&mut self.user_limits) {
            let place = (QuotaScope::User, user.as_str());
            last = last.max(limits::merge(self.api, place, &limits)?);
        }
        for (vhost, limits) in std::mem::take(&mut self.vhost_limits) {
            let all = |quota: &mut Quota| *quota = limits;
            let changed = self.api.broker.change_quota(QuotaScope::Vhost, &vhost, all);
            last = last.max(changed?);
        }
        Ok(last)
    }

    fn find(&self, vhost: &str) -> Result<Arc<Vhost>, ApiError> {
        let found = self.api.broker.vhost(vhost);
        found.ok_or_else(|| ApiError::bad(format!("no vhost '{vhost}'")))
    }

    fn make_exchanges(&mut self, done: &mut Done) -> Result<Ticket, ApiError> {
        let mut last = Ticket::NONE;
        for ((vhost, name), declaration) in std::mem::take(&mut self.exchanges) {
            let there = self.find(&vhost)?;
            let is_new = there.with_exchange(&name, |_| ()).is_none();
            let made = there.declare_exchange(&name, declaration);
            last = last.max(made.map_err(about(&named("exchange", &name, &vhost)))?);
            if is_new {
                done.0.push(DoneStep::Exchange(there, name));
            }
        }
        Ok(last)
    }

    fn make_queues(
        &mut self,
        caller: &Caller,
        done: &mut Done,
        effects: &mut Effects,
    ) -> Result<Ticket, ApiError> {
        let mut last = Ticket::NONE;
        for ((vhost, name), line) in std::mem::take(&mut self.queues) {
            let there = self.find(&vhost)?;
            let is_new = there.queue(&name).is_none();
            let mut declare = line.declare(self.api, &name);
            // What an administrator brings in was let in once, and may exceed the limit of now.
            if caller.administers().is_err() {
                declare.limit = admission::queue_limit(&self.api.broker, &vhost);
            }
            let declared = there.declare_queue(declare, effects);
            let declared = declared.map_err(about(&named("queue", &name, &vhost)))?;
            last = last.max(declared.ticket);
            if is_new {
                done.0.push(DoneStep::Queue(there, declared.queue));
            }
        }
        Ok(last)
    }

    fn make_bindings(&mut self, done: &mut Done) -> Result<Ticket, ApiError> {
        let mut last = Ticket::NONE;
        for (vhost, line) in std::mem::take(&mut self.bindings) {
            let there = self.find(&vhost)?;
            let is_new = !is_bound(&there, &line);
            let bound = there.bind(line.bind());
            last = last.max(bound.map_err(about(&named("binding from", &line.source, &vhost)))?);
            if is_new {
                done.0.push(DoneStep::Binding(there, line));
            }
        }
        Ok(last)
    }
}

fn is_bound(vhost: &Vhost, line: &BindingLine) -> bool {
    let is_there = vhost.with_exchange(&line.source, |exchange| {
        exchange.has_binding(&line.destination, line.key.as_ref(), &line.arguments)
    });
    is_there.unwrap_or_default()
}

fn about(thing: &str) -> impl Fn(Fault) -> ApiError {
    move |fault| ApiError::from(fault).about(thing)
}

/// What an import has made so far.
#[derive(Default)]
pub(super) struct Done(Vec<DoneStep>);

pub(super) enum DoneStep {
    /// With the labels that it had before, None where it was not there.
    Vhost(String, Option<Labels>),
    Exchange(Arc<Vhost>, String),
    Queue(Arc<Vhost>, Arc<Queue>),
    Binding(Arc<Vhost>, BindingLine),
}

impl Done {
    /// Takes it all away again, the newest first.
    fn undo(self, api: &Api) {
        for step in self.0.into_iter().rev() {
            let mut effects = api.broker.begin();
            let undone = match step {
                DoneStep::Vhost(name, Some(labels)) => api.broker.put_vhost(&name, labels),
                DoneStep::Vhost(name, None) => api.broker.remove_vhost(&name),
                DoneStep::Exchange(vhost, name) => {
                    vhost.delete_exchange(&name, DeleteCondition::default())
                }
                DoneStep::Binding(vhost, line) => vhost.unbind(&line.bind()),
                DoneStep::Queue(vhost, queue) => {
                    let condition = DeleteCondition {
                        unused: true,
                        empty: true,
                        ..DeleteCondition::default()
                    };
                    let removed = vhost.remove_queue(&queue, condition, &mut effects);
                    removed.map(|(_, ticket)| ticket)
                }
            };
            api.broker.end(effects);
            if let Err(fault) = undone {
                tracing::warn!(%fault, "a part of an import could not be undone");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::read;
    use crate::management::tests::TestApi;

    #[tokio::test]
    async fn an_import_that_fails_leaves_no_right_in_the_vhost_that_it_had_made() {
        let test = TestApi::start().await;
        let made = vhosts::put(&test.api, &test.ada(), "v", Labels::default());
        assert!(made.is_ok());
        assert!(read(&test.api.broker.users).may_enter("ada", "v"));
        Done(vec![DoneStep::Vhost("v".to_owned(), None)]).undo(&test.api);
        assert!(!read(&test.api.broker.users).may_enter("ada", "v"));
        test.stop().await;
    }
}

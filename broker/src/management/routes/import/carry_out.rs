//! Carries out a checked document, and undoes it if something still fails.

use std::sync::Arc;

use super::super::{limits, permissions, users, vhosts};
use super::named;
use super::plan::{BindingLine, ImportPlan};
use crate::admission;
use crate::fault::Fault;
use crate::management::Api;
use crate::management::refusal::ApiError;
use crate::persist::Ticket;
use crate::queue::Queue;
use crate::quotas::{Quota, QuotaScope};
use crate::vhost::{DeleteCondition, Vhost, VhostLabels};

impl ImportPlan<'_> {
    /// Carries out all of it, or nothing. The returned ticket must be durable before the caller
    /// gets a response.
    pub(super) fn carry_out(mut self) -> Result<Ticket, ApiError> {
        let mut done = CompletedImport::default();
        let outcome = self.make_all(&mut done);
        if outcome.is_err() {
            done.undo(self.api);
        }
        outcome
    }

    /// Fails if the caller has lost the right to import this document.
    fn check_caller(&self) -> Result<(), ApiError> {
        match self.into {
            Some(_) => self.caller.check_unchanged(self.api),
            // A vhost that the document makes changes the rights of its maker.
            None => self.caller.check_still_administers(self.api),
        }
    }

    /// Like [`Self::check_caller`], between two lines and in a line that waits for a deletion, if
    /// any user's rights have changed since the last check.
    fn check_caller_if_changed(&mut self) -> Result<(), ApiError> {
        if self.changes.has_changed().unwrap_or(true) {
            // A change from here on is seen at the next check.
            self.changes.mark_unchanged();
            self.check_caller()?;
        }
        Ok(())
    }

    fn make_all(&mut self, done: &mut CompletedImport) -> Result<Ticket, ApiError> {
        let mut last = self.make_vhosts(done)?;
        last = last.max(self.make_exchanges(done)?);
        last = last.max(self.make_queues(done)?);
        last = last.max(self.make_bindings(done)?);
        // This comes after everything that may fail, because rights that a user loses end at once
        // and cannot be restored.
        Ok(last.max(self.make_rights()?))
    }

    fn make_vhosts(&mut self, done: &mut CompletedImport) -> Result<Ticket, ApiError> {
        self.check_caller()?;
        let mut last = Ticket::NONE;
        for (name, labels) in std::mem::take(&mut self.vhosts) {
            self.check_caller_if_changed()?;
            let before = self.api.broker.vhost(&name).map(|vhost| vhost.labels());
            done.0.push(CompletedStep::Vhost(name.clone(), before));
            last = last.max(vhosts::put(self.api, self.caller, &name, labels)?);
        }
        Ok(last)
    }

    /// Makes users, permissions and limits.
    fn make_rights(&mut self) -> Result<Ticket, ApiError> {
        self.check_caller()?;
        let (api, caller) = (self.api, self.caller);
        let users = std::mem::take(&mut self.users);
        // The caller comes last: it may have another password then, or no right to go on.
        let is_caller = |user: &users::PreparedUser| user.is_named(&caller.name);
        let (own, others): (Vec<_>, Vec<_>) = users.into_iter().partition(is_caller);
        let mut last = Ticket::NONE;
        for user in others {
            last = last.max(users::put(api, caller, user)?.1);
        }
        for (user, vhost, allowed) in std::mem::take(&mut self.permissions) {
            last = last.max(permissions::permit(api, caller, (&user, &vhost), allowed)?);
        }
        for (user, limits) in std::mem::take(&mut self.user_limits) {
            self.check_caller_if_changed()?;
            let place = (QuotaScope::User, user.as_str());
            last = last.max(limits::merge(api, caller, place, &limits)?);
        }
        for (vhost, limits) in std::mem::take(&mut self.vhost_limits) {
            self.check_caller_if_changed()?;
            let place = (QuotaScope::Vhost, vhost.as_str());
            let all = |quota: &mut Quota| *quota = limits;
            last = last.max(limits::change(api, caller, place, all)?);
        }
        for user in own {
            last = last.max(users::put(api, caller, user)?.1);
        }
        Ok(last)
    }

    fn find(&self, vhost: &str) -> Result<Arc<Vhost>, ApiError> {
        let found = self.api.broker.vhost(vhost);
        found.ok_or_else(|| ApiError::bad(format!("no vhost '{vhost}'")))
    }

    fn make_exchanges(&mut self, done: &mut CompletedImport) -> Result<Ticket, ApiError> {
        self.check_caller()?;
        let api = self.api;
        let mut last = Ticket::NONE;
        for ((vhost, name), declaration) in std::mem::take(&mut self.exchanges) {
            self.check_caller_if_changed()?;
            let there = self.find(&vhost)?;
            let is_new = there.with_exchange(&name, |_| ()).is_none();
            let thing = named("exchange", &name, &vhost);
            let about = about(&thing);
            let declare = |_: &mut _| {
                self.check_caller_if_changed()?;
                let declared = there.declare_exchange(&name, declaration.clone());
                declared.map_err(&about)
            };
            last = last.max(api.broker.after_deletions_here(&there, declare)?);
            if is_new {
                done.0.push(CompletedStep::Exchange(there, name));
            }
        }
        Ok(last)
    }

    fn make_queues(&mut self, done: &mut CompletedImport) -> Result<Ticket, ApiError> {
        self.check_caller()?;
        let api = self.api;
        let mut last = Ticket::NONE;
        for ((vhost, name), line) in std::mem::take(&mut self.queues) {
            self.check_caller_if_changed()?;
            let there = self.find(&vhost)?;
            let is_new = there.queue(&name).is_none();
            let mut declare = line.declare(api, &name);
            // What an administrator imports was allowed once, and may exceed the current limit.
            if self.caller.administers().is_err() {
                declare.limit = admission::queue_limit(&api.broker, &vhost);
            }
            let thing = named("queue", &name, &vhost);
            let about = about(&thing);
            let declare = |effects: &mut _| {
                self.check_caller_if_changed()?;
                let declared = there.declare_queue(declare.clone(), effects);
                declared.map_err(&about)
            };
            let declared = api.broker.after_deletions_here(&there, declare)?;
            last = last.max(declared.ticket);
            if is_new {
                done.0.push(CompletedStep::Queue(there, declared.queue));
            }
        }
        Ok(last)
    }

    fn make_bindings(&mut self, done: &mut CompletedImport) -> Result<Ticket, ApiError> {
        self.check_caller()?;
        let mut last = Ticket::NONE;
        for (vhost, line) in std::mem::take(&mut self.bindings) {
            self.check_caller_if_changed()?;
            let there = self.find(&vhost)?;
            let is_new = !is_bound(&there, &line);
            let bound = there.bind(line.bind());
            last = last.max(bound.map_err(about(&named("binding from", &line.source, &vhost)))?);
            if is_new {
                done.0.push(CompletedStep::Binding(there, line));
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
pub(super) struct CompletedImport(Vec<CompletedStep>);

pub(super) enum CompletedStep {
    /// With the labels that it had before, None where it was not there.
    Vhost(String, Option<VhostLabels>),
    Exchange(Arc<Vhost>, String),
    Queue(Arc<Vhost>, Arc<Queue>),
    Binding(Arc<Vhost>, BindingLine),
}

impl CompletedImport {
    /// Undoes all of it, the newest first.
    fn undo(self, api: &Api) {
        for step in self.0.into_iter().rev() {
            let mut effects = api.broker.begin_unit();
            let undone = match step {
                CompletedStep::Vhost(name, Some(labels)) => api.broker.put_vhost(&name, labels),
                CompletedStep::Vhost(name, None) => api.broker.remove_vhost_here(&name),
                CompletedStep::Exchange(vhost, name) => {
                    let delete = |effects: &mut _| {
                        vhost.delete_exchange(&name, DeleteCondition::default(), effects)
                    };
                    api.broker.after_deletions_here(&vhost, delete)
                }
                CompletedStep::Binding(vhost, line) => vhost.unbind(&line.bind(), &mut effects),
                CompletedStep::Queue(vhost, queue) => {
                    let condition = DeleteCondition {
                        unused: true,
                        empty: true,
                        ..DeleteCondition::default()
                    };
                    let removed = vhost.remove_queue(&queue, condition, &mut effects);
                    removed.map(|(_, ticket)| ticket)
                }
            };
            api.broker.end_unit(effects);
            if let Err(fault) = undone {
                tracing::warn!(%fault, "a part of an import could not be undone");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use serde_json::{Value, json};

    use super::*;
    use crate::inspect::{self, ExchangeView};
    use crate::lock::{read, write};
    use crate::management::auth::{AuthMethod, Caller};
    use crate::management::tests::TestApi;
    use crate::users::{Permissions, Tag};

    fn read_by<'a>(
        test: &'a TestApi,
        caller: &'a Caller,
        into: Option<&'a str>,
        document: Value,
    ) -> ImportPlan<'a> {
        let mut plan = ImportPlan::new(&test.api, caller, into);
        let Value::Object(document) = document else {
            panic!("no document");
        };
        assert!(plan.read(document).is_ok());
        plan
    }

    /// Another administrator, who came with a password.
    fn bee(test: &TestApi) -> Caller {
        let tag = |name: &str| vec![Tag(name.to_owned())];
        write(&test.api.broker.users).put("bee", None, tag("administrator"));
        let user = read(&test.api.broker.users).get("bee").cloned().unwrap();
        Caller {
            name: "bee".into(),
            user,
            by: AuthMethod::Password,
            is_owner: false,
        }
    }

    #[tokio::test]
    async fn who_is_deleted_while_its_document_is_read_makes_nothing_of_it() {
        let test = TestApi::start().await;
        let bee = bee(&test);
        let document = json!({
            "vhosts": [{ "name": "v" }],
            "users": [{ "name": "back", "tags": "administrator" }],
        });
        let plan = read_by(&test, &bee, None, document);
        write(&test.api.broker.users).remove("bee");
        assert!(plan.carry_out().is_err());
        assert!(test.api.broker.vhost("v").is_none());
        assert!(read(&test.api.broker.users).get("back").is_none());
        test.stop().await;
    }

    #[tokio::test]
    async fn who_loses_a_right_in_a_vhost_while_its_document_is_read_makes_nothing_there() {
        let test = TestApi::start().await;
        let ada = test.ada();
        let document = json!({ "queues": [{ "name": "q", "durable": true }] });
        let plan = read_by(&test, &ada, Some("/"), document);
        write(&test.api.broker.users).forbid("ada", "/");
        assert!(plan.carry_out().is_err());
        assert!(test.api.broker.vhost("/").unwrap().queue("q").is_none());
        test.stop().await;
    }

    #[tokio::test]
    async fn who_is_deleted_among_the_lines_of_its_document_makes_no_further_one() {
        const LINES: usize = 100_000;
        let test = TestApi::start().await;
        let bee = bee(&test);
        let line = |number: usize| {
            json!({
                "source": "amq.direct", "vhost": "/", "destination": "amq.fanout",
                "destination_type": "exchange", "routing_key": number.to_string(),
            })
        };
        let bindings: Vec<_> = (0..LINES).map(line).collect();
        let mut plan = read_by(&test, &bee, None, json!({ "bindings": bindings }));
        let broker = &test.api.broker;
        let vhost = broker.vhost("/").unwrap();
        let count = || {
            let count = |exchange: ExchangeView<'_>| exchange.bindings().count();
            inspect::with_exchange(&vhost, "amq.direct", count).unwrap()
        };
        let (made, before) = std::thread::scope(|scope| {
            let importing = scope.spawn(|| {
                let mut done = CompletedImport::default();
                let outcome = plan.make_all(&mut done);
                assert!(outcome.is_err());
                done.0.len()
            });
            while count() == 0 {
                std::thread::yield_now();
            }
            write(&broker.users).remove("bee");
            broker.permissions_changed();
            let before = count();
            (importing.join().unwrap(), before)
        });
        assert!(before < LINES, "too few lines for this machine");
        assert!(
            made <= before + 1,
            "{made} bindings, {before} of them before"
        );
        test.stop().await;
    }

    #[tokio::test]
    async fn no_right_is_changed_by_who_was_deleted_among_the_changes() {
        let test = TestApi::start().await;
        let bee = bee(&test);
        let line = json!({ "tags": "administrator" });
        let wanted = serde_json::from_value(line).unwrap();
        let prepared = users::prepare(&test.api, "back", wanted);
        write(&test.api.broker.users).remove("bee");
        assert!(users::put(&test.api, &bee, prepared.unwrap()).is_err());
        assert!(read(&test.api.broker.users).get("back").is_none());
        assert!(
            test.api
                .broker
                .put_vhost("v", VhostLabels::default())
                .is_ok()
        );
        let everything = Permissions::all();
        let permitted = permissions::permit(&test.api, &bee, ("ada", "v"), everything);
        assert!(permitted.is_err());
        assert!(!read(&test.api.broker.users).may_enter("ada", "v"));
        test.stop().await;
    }

    #[tokio::test]
    async fn an_import_that_fails_leaves_no_right_in_the_vhost_that_it_had_made() {
        let test = TestApi::start().await;
        let made = vhosts::put(&test.api, &test.ada(), "v", VhostLabels::default());
        assert!(made.is_ok());
        assert!(read(&test.api.broker.users).may_enter("ada", "v"));
        CompletedImport(vec![CompletedStep::Vhost("v".to_owned(), None)]).undo(&test.api);
        assert!(!read(&test.api.broker.users).may_enter("ada", "v"));
        test.stop().await;
    }
}

//! Exchanges.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Routes;
use crate::exchange::{Declaration, ExchangeType};
use crate::fault::Fault;
use crate::inspect::{self, ExchangeView};
use crate::management::amqp_json::table_from_json;
use crate::management::auth::Caller;
use crate::management::paging::{Collected, Listed, ListingQuery};
use crate::management::refusal::ApiError;
use crate::management::user_memory::CallerBody;
use crate::management::{SharedApi, views};
use crate::users::Operation;
use crate::vhost::{DeleteCondition, Vhost, check_name};

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .get("/api/exchanges", "exchanges of all vhosts", list)
        .get("/api/exchanges/{vhost}", "exchanges of a vhost", list)
        .get("/api/exchanges/{vhost}/{name}", "one exchange", show)
        .put(
            "/api/exchanges/{vhost}/{name}",
            "declare an exchange",
            declare,
        )
        .delete(
            "/api/exchanges/{vhost}/{name}",
            "delete an exchange; if-unused=true only without bindings",
            delete,
        )
}

/// An exchange of a vhost, by its name.
pub(super) struct ListedExchange(SharedApi, Arc<Vhost>, String);

impl Listed for ListedExchange {
    fn name(&self) -> &str {
        &self.2
    }

    fn footprint(&self) -> usize {
        size_of_val(self) + self.2.len()
    }

    fn render(&self) -> Value {
        let Self(_, vhost, name) = self;
        let shown = self.shown();
        shown.unwrap_or_else(|| json!({ "name": name, "vhost": &**vhost.name() }))
    }
}

impl ListedExchange {
    /// What the API shows of it; `None` if it was deleted meanwhile.
    pub(super) fn shown(&self) -> Option<Value> {
        let Self(api, vhost, name) = self;
        inspect::with_exchange(vhost, name, |exchange| views::exchange(api, exchange))
    }
}

/// Adds the exchanges of a vhost, by name.
pub(super) fn find_all(
    api: &SharedApi,
    vhost: &Arc<Vhost>,
    into: &mut Collected<'_, ListedExchange>,
) -> Result<(), ApiError> {
    api.rates.observe(&api.broker, Instant::now());
    let (first, mut added) = (into.items.len(), Ok(()));
    inspect::each_exchange(vhost, |exchange| {
        if added.is_ok() {
            let name = exchange.name().to_owned();
            added = into.push(ListedExchange(
                SharedApi::clone(api),
                Arc::clone(vhost),
                name,
            ));
        }
    });
    added?;
    into.items[first..].sort_by(|one, two| one.2.cmp(&two.2));
    Ok(())
}

async fn list(
    State(api): State<SharedApi>,
    vhost: Option<Path<String>>,
    Query(listing): Query<ListingQuery>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let vhosts = caller.vhosts_of(&api, vhost)?;
    let shared = SharedApi::clone(&api);
    let all = move |into: &mut Collected<'_, _>| {
        let mut each = vhosts.iter();
        each.try_for_each(|vhost| find_all(&shared, vhost, into))
    };
    api.list_into(&caller, listing, all).await
}

async fn show(
    State(api): State<SharedApi>,
    Path((vhost, name)): Path<(String, String)>,
    Query(listing): Query<ListingQuery>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let vhost = caller.vhost(&api, &vhost)?;
    let shared = SharedApi::clone(&api);
    let work = move || {
        let show = |exchange: ExchangeView<'_>| views::exchange(&shared, exchange);
        let shown = inspect::with_exchange(&vhost, super::exchange_name(&name), show);
        let mut shown = shown.ok_or_else(ApiError::not_found)?;
        // Messages are not counted by channel or by queue here.
        shown["incoming"] = json!([]);
        shown["outgoing"] = json!([]);
        listing.narrow(shown)
    };
    api.respond_with(&caller, work).await
}

/// The properties of an exchange in a request; also a line of the definitions. As at RabbitMQ, the
/// default is direct and transient.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ExchangeRequest {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default, deserialize_with = "super::claim")]
    durable: bool,
    #[serde(default, deserialize_with = "super::claim")]
    auto_delete: bool,
    #[serde(default, deserialize_with = "super::claim")]
    internal: bool,
    arguments: Option<Value>,
}

impl ExchangeRequest {
    /// The declare that this requests under a name.
    pub(super) fn declaration(&self, name: &str) -> Result<Declaration, ApiError> {
        if name.is_empty() {
            return Err(ApiError::forbidden("Access refused."));
        }
        if name.len() > 255 {
            return Err(ApiError::bad("an exchange's name has 1 to 255 bytes"));
        }
        let kind = self.kind.as_deref().unwrap_or("direct");
        let kind = ExchangeType::parse(kind)
            .ok_or_else(|| ApiError::bad(format!("unknown exchange type '{kind}'")))?;
        Ok(Declaration {
            kind,
            durable: self.durable,
            auto_delete: self.auto_delete,
            internal: self.internal,
            arguments: table_from_json(self.arguments.as_ref())?,
        })
    }
}

/// Refuses a declare that AMQP would refuse this caller.
pub(super) fn check_caller(
    caller: &Caller,
    vhost: &str,
    (name, declaration): (&str, &Declaration),
) -> Result<(), ApiError> {
    caller.may(vhost, Operation::Configure, name)?;
    if let Some(alternate) = declaration.alternate() {
        caller.may(vhost, Operation::Read, name)?;
        caller.may(vhost, Operation::Write, alternate)?;
    }
    Ok(())
}

async fn declare(
    State(api): State<SharedApi>,
    Path((vhost, name)): Path<(String, String)>,
    CallerBody { caller, body }: CallerBody,
) -> Result<Response, ApiError> {
    let vhost = caller.vhost(&api, &vhost)?;
    let wanted: ExchangeRequest = super::read_or_default(&body)?;
    check_name("exchange", &name)?;
    let declaration = wanted.declaration(&name)?;
    check_caller(&caller, vhost.name(), (&name, &declaration))?;
    let was_there = vhost.with_exchange(&name, |_| ()).is_some();
    let declare = |_: &mut _| vhost.declare_exchange(&name, declaration.clone());
    let ticket = api.after_deletions(&caller, &vhost, declare).await?;
    super::wait_until_durable(&api, ticket).await?;
    Ok(super::made(was_there))
}

#[derive(Deserialize)]
struct ExchangeConditions {
    #[serde(rename = "if-unused", default)]
    unused: Option<String>,
}

async fn delete(
    State(api): State<SharedApi>,
    Path((vhost, name)): Path<(String, String)>,
    Query(only): Query<ExchangeConditions>,
    caller: Caller,
) -> Result<StatusCode, ApiError> {
    let vhost = caller.vhost(&api, &vhost)?;
    let name = super::exchange_name(&name);
    vhost
        .with_exchange(name, |_| ())
        .ok_or_else(ApiError::not_found)?;
    if name.is_empty() {
        return Err(ApiError::forbidden("Access refused."));
    }
    check_name("exchange", name).map_err(|_: Fault| ApiError::forbidden("Access refused."))?;
    caller.may(vhost.name(), Operation::Configure, name)?;
    let condition = DeleteCondition {
        unused: only.unused.as_deref() == Some("true"),
        ..DeleteCondition::default()
    };
    let delete = |effects: &mut _| vhost.delete_exchange(name, condition, effects);
    let ticket = api.after_deletions(&caller, &vhost, delete).await?;
    super::wait_until_durable(&api, ticket).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use axum::body::Bytes;
    use futures_util::FutureExt;

    use super::super::queues;
    use super::*;
    use crate::lock::write;
    use crate::management::tests::TestApi;
    use crate::vhost::{BindRequest, Destination};

    /// The vhost, in which `queue-0` and the exchange `gone` were deleted, while very many bindings
    /// of `source` to both are left.
    fn with_deletions(test: &TestApi) -> Arc<Vhost> {
        let broker = &test.api.broker;
        let vhost = broker.vhost("/").unwrap();
        for name in ["gone", "source"] {
            let declaration = ExchangeRequest::default().declaration(name).ok().unwrap();
            vhost.declare_exchange(name, declaration).unwrap();
        }
        test.declare_queues(1);
        for number in 0..3_000 {
            for destination in [
                Destination::Queue("queue-0".into()),
                Destination::Exchange("gone".into()),
            ] {
                let bind = BindRequest {
                    key: number.to_string().into_bytes().into(),
                    ..BindRequest::plain("source", destination)
                };
                vhost.bind(bind).unwrap();
            }
        }
        let condition = DeleteCondition::default();
        let mut effects = broker.begin_unit();
        vhost
            .delete_queue("queue-0", condition, &mut effects)
            .unwrap();
        broker.end_unit(effects);
        let mut effects = broker.begin_unit();
        vhost
            .delete_exchange("gone", condition, &mut effects)
            .unwrap();
        broker.end_unit(effects);
        vhost
    }

    /// A request that waits for deletions is refused if its caller is deleted meanwhile.
    async fn assert_overtaken<T>(
        test: &TestApi,
        request: impl Future<Output = Result<T, ApiError>>,
    ) {
        let mut request = std::pin::pin!(request);
        let at_once = request.as_mut().now_or_never();
        assert!(at_once.is_none(), "it waits for nothing");
        write(&test.api.broker.users).remove("ada");
        assert!(request.await.is_err(), "it was carried out");
    }

    #[tokio::test]
    async fn what_waits_for_a_deletion_is_refused_if_its_caller_loses_the_right() {
        let path = |name: &str| Path(("/".to_owned(), name.to_owned()));
        for (number, name) in ["queue-0", "gone", "source"].into_iter().enumerate() {
            let test = TestApi::start().await;
            let vhost = with_deletions(&test);
            let (state, caller) = (State(SharedApi::clone(&test.api)), test.ada());
            let form = CallerBody {
                caller: caller.clone(),
                body: Bytes::new(),
            };
            let unused = Query(ExchangeConditions {
                unused: Some("true".to_owned()),
            });
            match number {
                0 => assert_overtaken(&test, queues::declare(state, path(name), form)).await,
                1 => assert_overtaken(&test, declare(state, path(name), form)).await,
                _ => assert_overtaken(&test, delete(state, path(name), unused, caller)).await,
            }
            let is_there = vhost.with_exchange(name, |_| ()).is_some();
            assert_eq!(is_there, name == "source", "{name}");
            assert!(vhost.queue(name).is_none());
            test.stop().await;
        }
    }

    #[tokio::test]
    async fn a_look_at_an_exchange_holds_up_no_thread_that_serves() {
        let test = TestApi::start().await;
        let state = State(SharedApi::clone(&test.api));
        let path = Path(("/".to_owned(), "amq.topic".to_owned()));
        let request = show(state, path, Query(ListingQuery::default()), test.ada());
        let (answer, has_waited) = test.without_slots(request).await;
        assert!(answer.is_ok());
        assert!(has_waited, "it was shown where requests are served");
        test.stop().await;
    }
}

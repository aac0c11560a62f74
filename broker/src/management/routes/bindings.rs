//! Bindings, by vhost, by source, by destination, or by both ends.

use std::borrow::Cow;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::Value;

use super::Routes;
use crate::inspect::{self, Binding, ExchangeView};
use crate::management::amqp_json::table_from_json;
use crate::management::auth::Caller;
use crate::management::paging::{Collected, Listed, ListingQuery};
use crate::management::refusal::ApiError;
use crate::management::user_memory::{CallerBody, UserHolding};
use crate::management::views::{self, BindingView, WantedKey};
use crate::management::{Api, SharedApi};
use crate::users::Operation;
use crate::vhost::{BindRequest, Destination, Vhost};
use crate::wire::table::Table;

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .get("/api/bindings", "bindings of all vhosts", list)
        .get("/api/bindings/{vhost}", "bindings of a vhost", list)
        .get(
            "/api/exchanges/{vhost}/{name}/bindings/source",
            "bindings that lead from an exchange",
            from_exchange,
        )
        .get(
            "/api/exchanges/{vhost}/{name}/bindings/destination",
            "bindings that lead to an exchange",
            to_exchange,
        )
        .get(
            "/api/queues/{vhost}/{name}/bindings",
            "bindings that lead to a queue",
            to_queue,
        )
        .get(
            "/api/bindings/{vhost}/e/{source}/{kind}/{destination}",
            "bindings between two ends; kind is q or e",
            between,
        )
        .post(
            "/api/bindings/{vhost}/e/{source}/{kind}/{destination}",
            "bind",
            bind,
        )
        .get(
            "/api/bindings/{vhost}/e/{source}/{kind}/{destination}/{key}",
            "one binding",
            show,
        )
        .delete(
            "/api/bindings/{vhost}/e/{source}/{kind}/{destination}/{key}",
            "unbind",
            unbind,
        )
}

/// Selects bindings of a vhost by their ends. `None` matches any.
#[derive(Debug, Default)]
pub(super) struct BindingEnds {
    /// Empty for the default exchange.
    source: Option<String>,
    destination: Option<Destination>,
}

impl BindingEnds {
    /// Whether the binding of the default exchange to this queue is selected.
    fn has_default_of(&self, queue: &str) -> bool {
        let is_source = self.source.as_ref().is_none_or(String::is_empty);
        is_source
            && match &self.destination {
                None => true,
                Some(Destination::Queue(name)) => **name == *queue,
                Some(Destination::Exchange(_)) => false,
            }
    }
}

/// Adds the bindings of a vhost that have these ends and are `wanted`; those of the default
/// exchange come first. Only these are copied while the vhost's tables are locked, and what is
/// copied is counted; the others of a source or a destination are passed over by an index.
pub(super) fn find(
    vhost: &Arc<Vhost>,
    ends: &BindingEnds,
    wanted: impl Fn(&str, &Binding<'_, Destination>) -> bool,
    into: &mut Collected<'_, ListedBinding>,
) -> Result<(), ApiError> {
    let first = into.items.len();
    let mut add = |source: &str, binding: &Binding<'_, Destination>| {
        if wanted(source, binding) {
            let copy = BindingView::of(source, binding);
            into.push(ListedBinding(Arc::clone(vhost), copy))
        } else {
            Ok(())
        }
    };
    let no_arguments = Table::new();
    for queue in inspect::queues(vhost).filter(|queue| ends.has_default_of(queue.name())) {
        let binding = Binding {
            destination: &Destination::Queue(Arc::clone(queue.name())),
            key: queue.name().as_bytes(),
            arguments: &no_arguments,
        };
        add("", &binding)?;
    }
    let mut added = Ok(());
    let look = |exchange: ExchangeView<'_>| {
        let mut add = |binding| add(exchange.name(), &binding);
        if added.is_ok() {
            added = match &ends.destination {
                Some(end) => exchange.bindings_to(end).try_for_each(&mut add),
                None => exchange.bindings().try_for_each(&mut add),
            };
        }
    };
    match &ends.source {
        Some(source) => inspect::with_exchange(vhost, source, look).unwrap_or_default(),
        None => inspect::each_exchange(vhost, look),
    }
    added?;
    into.items[first..].sort_by(|ListedBinding(_, one), ListedBinding(_, two)| {
        (&one.source, &one.destination, &one.key).cmp(&(&two.source, &two.destination, &two.key))
    });
    Ok(())
}

/// A binding of a vhost.
pub(super) struct ListedBinding(pub(super) Arc<Vhost>, pub(super) BindingView);

impl Listed for ListedBinding {
    /// Bindings have no name.
    fn name(&self) -> &'static str {
        ""
    }

    fn render(&self) -> Value {
        views::binding(self.0.name(), &self.1)
    }

    fn footprint(&self) -> usize {
        size_of_val(self) + self.1.source.len() + self.1.key.len() + self.1.arguments.footprint()
    }
}

async fn list(
    State(api): State<SharedApi>,
    vhost: Option<Path<String>>,
    Query(listing): Query<ListingQuery>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let vhosts = caller.vhosts_of(&api, vhost)?;
    let all = move |into: &mut Collected<'_, _>| {
        let mut each = vhosts.iter();
        each.try_for_each(|vhost| find(vhost, &BindingEnds::default(), |_, _| true, into))
    };
    api.list_into(&caller, listing, all).await
}

async fn from_exchange(
    State(api): State<SharedApi>,
    Path((vhost, name)): Path<(String, String)>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let vhost = caller.vhost(&api, &vhost)?;
    let name = super::exchange_name(&name).to_owned();
    vhost
        .with_exchange(&name, |_| ())
        .ok_or_else(ApiError::not_found)?;
    let ends = BindingEnds {
        source: Some(name),
        destination: None,
    };
    respond(&api, &caller, vhost, ends).await
}

/// Responds with the bindings of a vhost that have these ends.
async fn respond(
    api: &Api,
    caller: &Caller,
    vhost: Arc<Vhost>,
    ends: BindingEnds,
) -> Result<Response, ApiError> {
    let all = move |into: &mut Collected<'_, _>| find(&vhost, &ends, |_, _| true, into);
    api.list_into(caller, ListingQuery::default(), all).await
}

async fn to_exchange(
    State(api): State<SharedApi>,
    Path((vhost, name)): Path<(String, String)>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let vhost = caller.vhost(&api, &vhost)?;
    vhost
        .with_exchange(&name, |_| ())
        .ok_or_else(ApiError::not_found)?;
    let end = Destination::Exchange(name.into());
    answer_to(&api, &caller, vhost, end).await
}

async fn to_queue(
    State(api): State<SharedApi>,
    Path((vhost, name)): Path<(String, String)>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let vhost = caller.vhost(&api, &vhost)?;
    vhost.queue(&name).ok_or_else(ApiError::not_found)?;
    let end = Destination::Queue(name.into());
    answer_to(&api, &caller, vhost, end).await
}

async fn answer_to(
    api: &Api,
    caller: &Caller,
    vhost: Arc<Vhost>,
    destination: Destination,
) -> Result<Response, ApiError> {
    let ends = BindingEnds {
        source: None,
        destination: Some(destination),
    };
    respond(api, caller, vhost, ends).await
}

/// Refuses a binding that AMQP would refuse this caller.
pub(super) fn check_caller(
    caller: &Caller,
    vhost: &str,
    (source, destination): (&str, &Destination),
) -> Result<(), ApiError> {
    let (Destination::Queue(name) | Destination::Exchange(name)) = destination;
    caller.may(vhost, Operation::Write, name)?;
    caller.may(vhost, Operation::Read, source)
}

type BindingPathParts = (String, String, String, String);

/// The two ends that a path names. Only the vhost is looked up.
struct BindingPath {
    vhost: Arc<Vhost>,
    source: String,
    destination: Destination,
}

impl BindingPath {
    fn find(
        api: &Api,
        caller: &Caller,
        (vhost, source, kind, destination): BindingPathParts,
    ) -> Result<Self, ApiError> {
        let vhost = caller.vhost(api, &vhost)?;
        let source = super::exchange_name(&source).to_owned();
        let destination = match kind.as_str() {
            "q" => Destination::Queue(destination.into()),
            "e" => Destination::Exchange(destination.into()),
            _ => return Err(ApiError::not_found()),
        };
        Ok(Self {
            vhost,
            source,
            destination,
        })
    }

    fn ends(&self) -> BindingEnds {
        BindingEnds {
            source: Some(self.source.clone()),
            destination: Some(self.destination.clone()),
        }
    }

    fn one(&self, key: &str, mut holding: UserHolding) -> Result<BindingView, ApiError> {
        let key = WantedKey::new(key);
        let mut found = Collected::new(&mut holding);
        let may_be = |_: &str, binding: &Binding<'_, Destination>| key.may_be_of(binding);
        find(&self.vhost, &self.ends(), may_be, &mut found)?;
        let mut bindings = found.items.into_iter().map(|ListedBinding(_, one)| one);
        bindings
            .find(|binding| key.is_of(binding))
            .ok_or_else(ApiError::not_found)
    }

    fn check(&self, caller: &Caller) -> Result<(), ApiError> {
        check_caller(caller, self.vhost.name(), (&self.source, &self.destination))
    }

    fn request(&self, binding: BindingView) -> BindRequest<'static> {
        BindRequest {
            source: "",
            destination: self.destination.clone(),
            key: Cow::Owned(binding.key),
            arguments: binding.arguments,
            connection: 0,
        }
    }
}

async fn between(
    State(api): State<SharedApi>,
    Path(ends): Path<BindingPathParts>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let between = BindingPath::find(&api, &caller, ends)?;
    let ends = between.ends();
    respond(&api, &caller, between.vhost, ends).await
}

async fn show(
    State(api): State<SharedApi>,
    Path((vhost, source, kind, destination, key)): Path<(String, String, String, String, String)>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let between = BindingPath::find(&api, &caller, (vhost, source, kind, destination))?;
    let holding = api.holdings.of(&caller.name);
    let work = move || {
        let binding = between.one(&key, holding)?;
        Ok(views::binding(between.vhost.name(), &binding))
    };
    api.respond_with(&caller, work).await
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct BindingRequest {
    #[serde(deserialize_with = "super::routing_key")]
    routing_key: String,
    arguments: Option<Value>,
}

async fn bind(
    State(api): State<SharedApi>,
    Path(ends): Path<BindingPathParts>,
    CallerBody { caller, body }: CallerBody,
) -> Result<Response, ApiError> {
    let between = BindingPath::find(&api, &caller, ends)?;
    let wanted: BindingRequest = super::read_or_default(&body)?;
    let view = BindingView {
        source: between.source.clone(),
        destination: between.destination.clone(),
        key: wanted.routing_key.into_bytes(),
        arguments: table_from_json(wanted.arguments.as_ref())?,
    };
    between.check(&caller)?;
    let location = HeaderValue::from_str(&view.location());
    let ticket = between.vhost.bind(BindRequest {
        source: &between.source,
        ..between.request(view)
    })?;
    super::wait_until_durable(&api, ticket).await?;
    let location = location.unwrap_or(HeaderValue::from_static("~"));
    Ok((StatusCode::CREATED, [(header::LOCATION, location)]).into_response())
}

async fn unbind(
    State(api): State<SharedApi>,
    Path((vhost, source, kind, destination, key)): Path<(String, String, String, String, String)>,
    caller: Caller,
) -> Result<StatusCode, ApiError> {
    let between = BindingPath::find(&api, &caller, (vhost, source, kind, destination))?;
    between.check(&caller)?;
    let holding = api.holdings.of(&caller.name);
    let broker = Arc::clone(&api.broker);
    let work = move || {
        let binding = between.one(&key, holding)?;
        let request = BindRequest {
            source: &between.source,
            ..between.request(binding)
        };
        let mut effects = broker.begin_unit();
        let unbound = between.vhost.unbind(&request, &mut effects);
        broker.end_unit(effects);
        Ok(unbound?)
    };
    let ticket = api.run_in_slot(&caller, work).await?;
    super::wait_until_durable(&api, ticket).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use std::cell::Cell;

    use super::*;
    use crate::management::tests::TestApi;

    #[tokio::test]
    async fn copies_of_bindings_beyond_what_their_user_may_hold_are_not_made() {
        let test = TestApi::start().await;
        let vhost = test.api.broker.vhost("/").unwrap();
        let key = "k".repeat(250);
        for number in 0..1000 {
            let key = format!("{number}{}", &key[4..]);
            let bound = vhost.bind(BindRequest {
                key: Cow::Owned(key.into_bytes()),
                ..BindRequest::plain("amq.direct", Destination::Exchange("amq.fanout".into()))
            });
            assert!(bound.is_ok());
        }
        let ada = "ada".into();
        let mut others = test.api.holdings.of(&ada);
        while others.set(others.bytes() + 64 * 1024).is_ok() {}
        let mut holding = test.api.holdings.of(&ada);
        let mut copies = Collected::new(&mut holding);
        let all = find(&vhost, &BindingEnds::default(), |_, _| true, &mut copies);
        assert!(all.is_err());
        assert!(copies.items.len() < 500, "{} copies", copies.items.len());
        test.stop().await;
    }

    #[tokio::test]
    async fn a_search_for_a_binding_looks_at_those_of_its_ends_alone() {
        let test = TestApi::start().await;
        let vhost = test.api.broker.vhost("/").unwrap();
        test.declare_queues(2);
        for source in ["amq.direct", "amq.topic"] {
            for queue in ["queue-0", "queue-1"] {
                let bound = vhost.bind(BindRequest {
                    key: Cow::Borrowed(b"key"),
                    ..BindRequest::plain(source, Destination::Queue(queue.into()))
                });
                assert!(bound.is_ok());
            }
        }
        let seen = |source: Option<&str>, queue: Option<&str>| {
            let ends = BindingEnds {
                source: source.map(str::to_owned),
                destination: queue.map(|name| Destination::Queue(name.into())),
            };
            let (mut holding, seen) = (test.api.holdings.of(&"ada".into()), Cell::new(0));
            let mut copies = Collected::new(&mut holding);
            let look = |_: &str, _: &Binding<'_, Destination>| {
                seen.set(seen.get() + 1);
                false
            };
            assert!(find(&vhost, &ends, look, &mut copies).is_ok());
            assert!(copies.items.is_empty(), "what is not wanted is not copied");
            seen.get()
        };
        assert_eq!(seen(Some("amq.direct"), Some("queue-0")), 1);
        assert_eq!(seen(Some("amq.direct"), None), 2);
        assert_eq!(seen(Some(""), Some("queue-0")), 1, "the default exchange's");
        assert_eq!(seen(Some("nowhere"), None), 0);
        assert_eq!(seen(None, Some("queue-0")), 3);
        assert_eq!(seen(None, None), 6);
        test.stop().await;
    }

    #[tokio::test]
    async fn a_search_for_a_binding_holds_up_no_thread_that_serves() {
        let test = TestApi::start().await;
        let ends = ["/", "amq.topic", "e", "amq.fanout"].map(str::to_owned);
        let [vhost, source, kind, destination] = ends;
        let path = (vhost, source, kind, destination, "key".to_owned());
        let request = || {
            let api = SharedApi::clone(&test.api);
            unbind(State(api), Path(path.clone()), test.ada())
        };
        assert!(request().await.is_err(), "not there yet");
        let vhost = test.api.broker.vhost("/").unwrap();
        let bound = vhost.bind(BindRequest {
            key: Cow::Borrowed(b"key"),
            ..BindRequest::plain("amq.topic", Destination::Exchange("amq.fanout".into()))
        });
        assert!(bound.is_ok());
        let (response, has_waited) = test.without_slots(request()).await;
        assert!(response.is_ok());
        assert!(has_waited, "it was looked for where requests are served");
        test.stop().await;
    }
}

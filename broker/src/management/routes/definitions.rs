//! Exports the topology and the users as one document. The layout is RabbitMQ's. Exclusive queues
//! are left out, because they cannot be restored.

use std::collections::HashSet;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::{Value, json};

use super::bindings::{self, BindingEnds};
use super::{Routes, exchanges, limits};
use crate::inspect::{self, Binding};
use crate::lock::read;
use crate::management::SharedApi;
use crate::management::auth::Caller;
use crate::management::paging::{Collected, Listed};
use crate::management::refusal::ApiError;
use crate::management::user_memory::{self, UserHolding};
use crate::management::views;
use crate::vhost::{Destination, Vhost};

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .get(
            "/api/definitions",
            "users, vhosts, permissions and topology",
            export,
        )
        .get(
            "/api/definitions/{vhost}",
            "the topology of a vhost",
            export_vhost,
        )
}

async fn export(State(api): State<SharedApi>, caller: Caller) -> Result<Response, ApiError> {
    caller.administers()?;
    let shared = SharedApi::clone(&api);
    let mut document = DocumentText::new(api.holdings.of(&caller.name));
    let work = move || {
        everything(&shared, &mut document)?;
        document.finish()
    };
    Ok(user_memory::json_response(
        api.run_in_slot(&caller, work).await?,
    ))
}

/// A document as text: each line is written, and charged, before the next one is made. A tree of
/// all would take many times as much.
struct DocumentText {
    text: Vec<u8>,
    holding: UserHolding,
}

impl DocumentText {
    fn new(holding: UserHolding) -> Self {
        Self {
            text: b"{".to_vec(),
            holding,
        }
    }

    fn add(&mut self, value: &Value) -> Result<(), ApiError> {
        serde_json::to_writer(&mut self.text, value)
            .map_err(|error| ApiError::failed(error.to_string()))?;
        self.holding.set(self.text.capacity())
    }

    fn name(&mut self, name: &str) -> Result<(), ApiError> {
        if self.text.len() > 1 {
            self.text.push(b',');
        }
        self.add(&json!(name))?;
        self.text.push(b':');
        Ok(())
    }

    fn field(&mut self, name: &str, value: &Value) -> Result<(), ApiError> {
        self.name(name)?;
        self.add(value)
    }

    /// A list of these lines. After a refusal no further line is made.
    fn list(&mut self, name: &str, lines: impl IntoIterator<Item = Value>) -> Result<(), ApiError> {
        self.name(name)?;
        self.text.push(b'[');
        for (at, line) in lines.into_iter().enumerate() {
            if at > 0 {
                self.text.push(b',');
            }
            self.add(&line)?;
        }
        self.text.push(b']');
        Ok(())
    }

    fn finish(mut self) -> Result<Bytes, ApiError> {
        self.text.push(b'}');
        user_memory::with_holding(self.text, self.holding)
    }
}

fn everything(api: &SharedApi, document: &mut DocumentText) -> Result<(), ApiError> {
    let vhosts = api.broker.vhosts();
    topology(api, &vhosts, Naming::WithVhost, document)?;
    let users = read(&api.broker.users).snapshot();
    let each = users
        .iter()
        .map(|(name, user)| views::user(api, name, user));
    document.list("users", each)?;
    let each = users.iter().flat_map(|(name, user)| {
        let all = user.permissions();
        all.map(move |(vhost, permissions)| views::permission(name, vhost, permissions))
    });
    document.list("permissions", each)?;
    let each = vhosts.iter().map(|vhost| {
        let labels = vhost.labels();
        let (description, tags) = (labels.description, labels.tags);
        json!({ "name": &**vhost.name(), "description": description, "tags": tags })
    });
    document.list("vhosts", each)?;
    document.field("parameters", &limits::as_parameters(api, |_| true))?;
    for absent in ["topic_permissions", "global_parameters", "policies"] {
        document.field(absent, &json!([]))?;
    }
    Ok(())
}

async fn export_vhost(
    State(api): State<SharedApi>,
    Path(vhost): Path<String>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let vhost = caller.vhost(&api, &vhost)?;
    let shared = SharedApi::clone(&api);
    let mut document = DocumentText::new(api.holdings.of(&caller.name));
    let work = move || {
        let name = Arc::clone(vhost.name());
        topology(&shared, &[vhost], Naming::Bare, &mut document)?;
        document.field("policies", &json!([]))?;
        let own = limits::as_parameters(&shared, |vhost| *vhost == *name);
        document.field("parameters", &own)?;
        document.finish()
    };
    Ok(user_memory::json_response(
        api.run_in_slot(&caller, work).await?,
    ))
}

/// Whether each line says which vhost it belongs to.
#[derive(Clone, Copy, PartialEq)]
enum Naming {
    WithVhost,
    Bare,
}

fn topology(
    api: &SharedApi,
    vhosts: &[Arc<Vhost>],
    naming: Naming,
    document: &mut DocumentText,
) -> Result<(), ApiError> {
    for (name, value) in [
        ("rabbit_version", "3.10.8"),
        ("rabbitmq_version", "3.10.8"),
        ("product_name", "cbroker"),
        ("product_version", env!("CARGO_PKG_VERSION")),
    ] {
        document.field(name, &json!(value))?;
    }
    let kept = |vhost: &Vhost| inspect::queues(vhost).filter(|queue| queue.owner().is_none());
    let fields = ["name", "vhost", "durable", "auto_delete", "arguments"];
    let each = vhosts.iter().flat_map(|vhost| kept(vhost));
    let each = each.map(|queue| chosen(&views::queue(api, &queue), &fields, naming));
    document.list("queues", each)?;
    list_exchanges(api, vhosts, naming, document)?;
    let mut copies = document.holding.another();
    let mut all = Collected::new(&mut copies);
    for vhost in vhosts {
        let queues: Vec<_> = kept(vhost).collect();
        let names: HashSet<&str> = queues.iter().map(|queue| &**queue.name()).collect();
        let wanted = |source: &str, binding: &Binding<'_, Destination>| {
            !source.is_empty() && is_kept(binding.destination, &names)
        };
        bindings::find(vhost, &BindingEnds::default(), wanted, &mut all)?;
    }
    let fields = [
        "source",
        "vhost",
        "destination",
        "destination_type",
        "routing_key",
        "arguments",
    ];
    let each = all.items.iter();
    let each = each.map(|binding| chosen(&binding.render(), &fields, naming));
    document.list("bindings", each)
}

/// Looks at one exchange at a time: a vhost may have many with large arguments, and nothing can be
/// declared or routed in it while its tables are read.
fn list_exchanges(
    api: &SharedApi,
    vhosts: &[Arc<Vhost>],
    naming: Naming,
    document: &mut DocumentText,
) -> Result<(), ApiError> {
    let mut names = document.holding.another();
    let mut found = Collected::new(&mut names);
    for vhost in vhosts {
        exchanges::find_all(api, vhost, &mut found)?;
    }
    let fields = [
        "name",
        "vhost",
        "type",
        "durable",
        "auto_delete",
        "internal",
        "arguments",
    ];
    let is_predeclared = |name: &str| name.is_empty() || name.starts_with("amq.");
    let each = found.items.iter();
    let each = each.filter(|exchange| !is_predeclared(exchange.name()));
    let each = each.filter_map(|exchange| Some(chosen(&exchange.shown()?, &fields, naming)));
    document.list("exchanges", each)
}

/// Whether a destination of bindings is in the document.
fn is_kept(destination: &Destination, queues: &HashSet<&str>) -> bool {
    match destination {
        Destination::Queue(name) => queues.contains(&**name),
        Destination::Exchange(_) => true,
    }
}

fn chosen(from: &Value, fields: &[&str], naming: Naming) -> Value {
    let fields = fields
        .iter()
        .filter(|field| naming == Naming::WithVhost || **field != "vhost");
    fields
        .map(|field| ((*field).to_owned(), from[*field].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

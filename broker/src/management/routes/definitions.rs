//! All of the topology and the users at once, to be kept in a file. The layout is RabbitMQ's.
//! Exclusive queues are left out, because they cannot be restored.

use std::collections::HashSet;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::{Value, json};

use super::{Routes, bindings, limits};
use crate::inspect;
use crate::lock::read;
use crate::management::auth::Caller;
use crate::management::refusal::ApiError;
use crate::management::views::{self, BindingView};
use crate::management::{Api, SharedApi};
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
    api.work_out(&caller, move || Ok(everything(&shared))).await
}

fn everything(api: &Api) -> Value {
    let vhosts = api.broker.vhosts();
    let mut document = topology(api, &vhosts, Naming::WithVhost);
    let users = read(&api.broker.users);
    document["users"] = users
        .iter()
        .map(|(name, user)| views::user(api, name, user))
        .collect();
    let permitted = users.iter().flat_map(|(name, user)| {
        user.permissions()
            .map(move |(vhost, permissions)| views::permission(name, vhost, permissions))
    });
    document["permissions"] = permitted.collect();
    document["vhosts"] = vhosts
        .iter()
        .map(|vhost| {
            let labels = vhost.labels();
            let (description, tags) = (labels.description, labels.tags);
            json!({ "name": &**vhost.name(), "description": description, "tags": tags })
        })
        .collect();
    document["parameters"] = limits::as_parameters(api, |_| true);
    for absent in ["topic_permissions", "global_parameters", "policies"] {
        document[absent] = json!([]);
    }
    document
}

async fn export_vhost(
    State(api): State<SharedApi>,
    Path(vhost): Path<String>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let vhost = caller.vhost(&api, &vhost)?;
    let shared = SharedApi::clone(&api);
    let work = move || {
        let name = Arc::clone(vhost.name());
        let mut document = topology(&shared, &[vhost], Naming::Bare);
        document["policies"] = json!([]);
        document["parameters"] = limits::as_parameters(&shared, |vhost| *vhost == *name);
        Ok(document)
    };
    api.work_out(&caller, work).await
}

/// Whether each line says which vhost it belongs to.
#[derive(Clone, Copy, PartialEq)]
enum Naming {
    WithVhost,
    Bare,
}

fn topology(api: &Api, vhosts: &[Arc<Vhost>], naming: Naming) -> Value {
    let (mut queues, mut exchanges, mut found) = (Vec::new(), Vec::new(), Vec::new());
    for vhost in vhosts {
        let kept: Vec<_> = inspect::queues(vhost)
            .filter(|queue| queue.owner().is_none())
            .collect();
        queues.extend(kept.iter().map(|queue| {
            chosen(
                &views::queue(api, queue),
                &["name", "vhost", "durable", "auto_delete", "arguments"],
                naming,
            )
        }));
        inspect::each_exchange(vhost, |exchange| {
            if !exchange.name().is_empty() && !exchange.name().starts_with("amq.") {
                let fields = [
                    "name",
                    "vhost",
                    "type",
                    "durable",
                    "auto_delete",
                    "internal",
                    "arguments",
                ];
                exchanges.push(chosen(&views::exchange(api, exchange), &fields, naming));
            }
        });
        let names: HashSet<&str> = kept.iter().map(|queue| &**queue.name()).collect();
        let bound = bindings::all_of(vhost)
            .into_iter()
            .filter(|binding| !binding.source.is_empty() && is_kept(binding, &names));
        let fields = [
            "source",
            "vhost",
            "destination",
            "destination_type",
            "routing_key",
            "arguments",
        ];
        found.extend(
            bound.map(|binding| chosen(&views::binding(vhost.name(), &binding), &fields, naming)),
        );
    }
    json!({
        "rabbit_version": "3.10.8",
        "rabbitmq_version": "3.10.8",
        "product_name": "cbroker",
        "product_version": env!("CARGO_PKG_VERSION"),
        "queues": queues,
        "exchanges": exchanges,
        "bindings": found,
    })
}

/// Whether both ends of a binding are in the document.
fn is_kept(binding: &BindingView, queues: &HashSet<&str>) -> bool {
    match &binding.destination {
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

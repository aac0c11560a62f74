//! All of the topology and the users at once: to be kept in a file, and to be brought back from one.
//!
//! The layout is RabbitMQ's, so its files come in too; what they say of policies and parameters is left alone, and so
//! are exclusive and auto-delete queues on the way out, which nobody could bring back.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Routes, bindings, exchanges, queues, users, vhosts};
use crate::lock::read;
use crate::management::amqp_json::table_from_json;
use crate::management::auth::Caller;
use crate::management::refusal::Refusal;
use crate::management::views::{self, BindingView};
use crate::management::{Api, Shared};
use crate::vhost::{Destination, Vhost};

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .get(
            "/api/definitions",
            "users, vhosts, permissions and topology",
            export,
        )
        .post_much("/api/definitions", "bring such a document in", import)
        .get(
            "/api/definitions/{vhost}",
            "the topology of a vhost",
            export_vhost,
        )
        .post_much(
            "/api/definitions/{vhost}",
            "bring such a document into a vhost",
            import_vhost,
        )
}

async fn export(State(api): State<Shared>, caller: Caller) -> Result<Json<Value>, Refusal> {
    caller.administers()?;
    let vhosts = api.realm.vhosts();
    let mut document = topology(&api, &vhosts, Naming::WithVhost);
    let users = read(&api.realm.users);
    document["users"] = users
        .iter()
        .map(|(name, user)| views::user(name, user))
        .collect();
    let permitted = users.iter().flat_map(|(name, user)| {
        user.permissions()
            .map(move |(vhost, permissions)| views::permission(name, vhost, permissions))
    });
    document["permissions"] = permitted.collect();
    document["vhosts"] = vhosts
        .iter()
        .map(|vhost| json!({ "name": &**vhost.name() }))
        .collect();
    for absent in [
        "topic_permissions",
        "parameters",
        "global_parameters",
        "policies",
    ] {
        document[absent] = json!([]);
    }
    Ok(Json(document))
}

async fn export_vhost(
    State(api): State<Shared>,
    Path(vhost): Path<String>,
    caller: Caller,
) -> Result<Json<Value>, Refusal> {
    let vhost = caller.vhost(&api, &vhost)?;
    let mut document = topology(&api, &[vhost], Naming::Bare);
    document["policies"] = json!([]);
    document["parameters"] = json!([]);
    Ok(Json(document))
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
        let kept: Vec<_> = vhost
            .queues()
            .into_iter()
            .filter(|queue| queue.identity.owner.is_none())
            .collect();
        queues.extend(kept.iter().map(|queue| {
            chosen(
                &views::queue(api, queue),
                &["name", "vhost", "durable", "auto_delete", "arguments"],
                naming,
            )
        }));
        vhost.each_exchange(|exchange| {
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
                exchanges.push(chosen(
                    &views::exchange(vhost.name(), exchange),
                    &fields,
                    naming,
                ));
            }
        });
        let is_kept = |binding: &BindingView| match &binding.destination {
            Destination::Queue(name) => kept.iter().any(|queue| queue.name() == name),
            Destination::Exchange(_) => true,
        };
        let bound = bindings::all_of(vhost)
            .into_iter()
            .filter(|binding| !binding.source.is_empty() && is_kept(binding));
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

fn chosen(from: &Value, fields: &[&str], naming: Naming) -> Value {
    let fields = fields
        .iter()
        .filter(|field| naming == Naming::WithVhost || **field != "vhost");
    fields
        .map(|field| ((*field).to_owned(), from[*field].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Document {
    users: Vec<Line<users::Wanted>>,
    vhosts: Vec<NameOnly>,
    permissions: Vec<PermissionLine>,
    queues: Vec<Line<queues::Wanted>>,
    exchanges: Vec<Line<exchanges::Wanted>>,
    bindings: Vec<BindingLine>,
}

#[derive(Deserialize)]
struct NameOnly {
    name: String,
}

#[derive(Deserialize)]
struct Line<T> {
    name: String,
    vhost: Option<String>,
    #[serde(flatten)]
    rest: T,
}

#[derive(Deserialize)]
struct PermissionLine {
    user: String,
    vhost: String,
    #[serde(flatten)]
    rest: users::Allowed,
}

#[derive(Deserialize)]
struct BindingLine {
    source: String,
    vhost: Option<String>,
    destination: String,
    destination_type: String,
    routing_key: String,
    arguments: Option<Value>,
}

async fn import(
    State(api): State<Shared>,
    caller: Caller,
    body: Bytes,
) -> Result<StatusCode, Refusal> {
    caller.administers()?;
    let mut document: Document = super::read(&body)?;
    for vhost in std::mem::take(&mut document.vhosts) {
        vhosts::create(&api, &caller, &vhost.name).await?;
    }
    for line in std::mem::take(&mut document.users) {
        let is_same = |rest: &users::Wanted| rest.is_of(read(&api.realm.users).get(&line.name));
        if !is_same(&line.rest) {
            users::make(&api, &caller, &line.name, line.rest).await?;
        }
    }
    for line in std::mem::take(&mut document.permissions) {
        api.realm
            .vhost(&line.vhost)
            .ok_or_else(|| Refusal::bad(format!("no vhost '{}'", line.vhost)))?;
        users::permit(&api, &line.user, &line.vhost, line.rest.compile()?).await?;
    }
    // The caller's own permissions may have changed with all that.
    let caller = caller.with_rights_of_now(&api)?;
    bring_in(&api, &caller, document, None).await
}

async fn import_vhost(
    State(api): State<Shared>,
    Path(vhost): Path<String>,
    caller: Caller,
    body: Bytes,
) -> Result<StatusCode, Refusal> {
    caller.vhost(&api, &vhost)?;
    bring_in(&api, &caller, super::read(&body)?, Some(&vhost)).await
}

async fn bring_in(
    api: &Api,
    caller: &Caller,
    document: Document,
    into: Option<&str>,
) -> Result<StatusCode, Refusal> {
    let place = |line: Option<&String>| {
        let name = into
            .or(line.map(String::as_str))
            .ok_or_else(|| Refusal::bad("[{key_missing,vhost}]"))?;
        caller.vhost(api, name)
    };
    for line in document.queues {
        queues::make(
            api,
            caller,
            &place(line.vhost.as_ref())?,
            &line.name,
            line.rest,
        )
        .await?;
    }
    for line in document.exchanges {
        exchanges::make(
            api,
            caller,
            &place(line.vhost.as_ref())?,
            &line.name,
            line.rest,
        )
        .await?;
    }
    for line in document.bindings {
        let destination = match line.destination_type.as_str() {
            "exchange" => Destination::Exchange(line.destination.into()),
            _ => Destination::Queue(line.destination.into()),
        };
        let arguments = table_from_json(line.arguments.as_ref())?;
        let view = BindingView {
            source: line.source,
            destination,
            key: line.routing_key.into_bytes(),
            arguments,
        };
        bindings::make(api, caller, &place(line.vhost.as_ref())?, view).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

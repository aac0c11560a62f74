//! Health checks for load balancers and monitors: 200 `{"status":"ok"}`, or 503 with the reason.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::Routes;
use crate::management::SharedApi;
use crate::management::auth::Caller;
use crate::management::refusal::ApiError;

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .get(
            "/api/health/checks/alarms",
            "no alarm of memory, disk or store",
            alarms,
        )
        .get("/api/health/checks/local-alarms", "the same", alarms)
        .get("/api/health/checks/virtual-hosts", "all vhosts run", well)
        .get(
            "/api/health/checks/node-is-mirror-sync-critical",
            "never",
            well,
        )
        .get("/api/health/checks/node-is-quorum-critical", "never", well)
        .get(
            "/api/health/checks/port-listener/{port}",
            "something listens on that port",
            port,
        )
        .get(
            "/api/health/checks/protocol-listener/{protocol}",
            "something speaks that protocol",
            protocol,
        )
        .get("/api/healthchecks/node", "no alarm", alarms)
        .get("/api/healthchecks/node/", "the same", alarms)
        .get("/api/healthchecks/node/{name}", "the same", alarms)
        .get(
            "/api/aliveness-test/{vhost}",
            "the vhost is there and the store works",
            aliveness,
        )
}

fn unwell(reason: &str, more: Value) -> Response {
    let mut shown = json!({ "status": "failed", "reason": reason });
    if let (Some(shown), Value::Object(more)) = (shown.as_object_mut(), more) {
        shown.extend(more);
    }
    (StatusCode::SERVICE_UNAVAILABLE, Json(shown)).into_response()
}

async fn well(_caller: Caller) -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

async fn alarms(State(api): State<SharedApi>, _caller: Caller) -> Response {
    let alarms = api.broker.alarm_state();
    let alarms = [
        ("memory", alarms.is_memory_high),
        ("disk", alarms.is_disk_full),
        ("store", alarms.is_stopped),
    ];
    let ringing: Vec<_> = alarms
        .into_iter()
        .filter(|(_, rings)| *rings)
        .map(|(name, _)| name)
        .collect();
    if ringing.is_empty() {
        return Json(json!({ "status": "ok" })).into_response();
    }
    unwell("There are alarms in effect", json!({ "alarms": ringing }))
}

async fn port(State(api): State<SharedApi>, Path(port): Path<u16>, _caller: Caller) -> Response {
    if api
        .about
        .listening
        .iter()
        .any(|listening| listening.address.port() == port)
    {
        return Json(json!({ "status": "ok", "port": port })).into_response();
    }
    unwell("No active listener", json!({ "missing": port }))
}

async fn protocol(
    State(api): State<SharedApi>,
    Path(protocol): Path<String>,
    _caller: Caller,
) -> Response {
    let wanted = match protocol.as_str() {
        "amqp091" | "amqp0.9.1" => "amqp",
        "amqps" | "amqp/ssl" => "amqp/ssl",
        "https" | "https/web-ui" => "https",
        other => other,
    };
    if api
        .about
        .listening
        .iter()
        .any(|listening| listening.protocol == wanted)
    {
        return Json(json!({ "status": "ok", "protocol": protocol })).into_response();
    }
    unwell("No active listener", json!({ "missing": protocol }))
}

/// Changes nothing. RabbitMQ's declares a queue and publishes, which a request that any page can
/// make a browser send must not do.
async fn aliveness(
    State(api): State<SharedApi>,
    Path(vhost): Path<String>,
    caller: Caller,
) -> Result<Response, ApiError> {
    caller.vhost(&api, &vhost)?;
    if api.broker.alarm_state().is_stopped {
        return Ok(unwell("the store has stopped", json!({})));
    }
    Ok(Json(json!({ "status": "ok" })).into_response())
}

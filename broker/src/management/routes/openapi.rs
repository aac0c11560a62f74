//! The `OpenAPI` document, made from the same list that the router is made from.

use serde_json::{Map, Value, json};

use super::RouteDescription;

pub(super) fn document(routes: &[RouteDescription]) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in routes {
        let methods = paths.entry(route.path).or_insert_with(|| json!({}));
        methods[route.method.as_str().to_ascii_lowercase()] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "cbroker management API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The paths and fields of RabbitMQ's management API that cbroker has.",
        },
        "security": [{ "basic": [] }, { "cookie": [] }],
        "components": {
            "securitySchemes": {
                "basic": { "type": "http", "scheme": "basic" },
                "cookie": { "type": "apiKey", "in": "cookie", "name": "cbroker" },
            },
            "schemas": {
                "Refusal": {
                    "type": "object",
                    "required": ["error", "reason"],
                    "properties": { "error": { "type": "string" }, "reason": { "type": "string" } },
                },
            },
        },
        "paths": paths,
    })
}

fn operation(route: &RouteDescription) -> Value {
    let parameters: Vec<Value> = names(route.path)
        .map(|name| {
            let schema = json!({ "type": "string" });
            json!({ "name": name, "in": "path", "required": true, "schema": schema })
        })
        .collect();
    json!({
        "summary": route.summary,
        "parameters": parameters,
        "responses": {
            "2XX": { "description": "done" },
            "4XX": {
                "description": "refused",
                "content": {
                    "application/json": { "schema": { "$ref": "#/components/schemas/Refusal" } },
                },
            },
        },
    })
}

/// The names in braces.
fn names(path: &str) -> impl Iterator<Item = &str> {
    path.split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

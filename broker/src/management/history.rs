//! The broker's figures over the last minutes, as points for the page's plots.

use serde_json::{Value, json};

/// The number of points that are kept: five minutes with one every two seconds.
pub(super) const SPAN: usize = 150;

/// The state of the broker at one moment. Rates are per second.
#[derive(Debug, Clone, Copy)]
pub(super) struct HistoryPoint {
    pub(super) at_ms: u64,
    pub(super) publish: f64,
    pub(super) deliver: f64,
    pub(super) ack: f64,
    pub(super) ready: u64,
    pub(super) unsettled: u64,
    pub(super) connections: usize,
    pub(super) memory_bytes: u64,
    pub(super) disk_bytes: u64,
}

/// Columns instead of rows take a third of the bytes.
pub(super) fn to_json(points: &[HistoryPoint]) -> Value {
    let rate = |get: fn(&HistoryPoint) -> f64| -> Value {
        points
            .iter()
            .map(|point| (get(point) * 10.0).round() / 10.0)
            .collect()
    };
    let level = |get: fn(&HistoryPoint) -> u64| -> Value { points.iter().map(get).collect() };
    json!({
        "at_ms": level(|point| point.at_ms),
        "publish": rate(|point| point.publish),
        "deliver": rate(|point| point.deliver),
        "ack": rate(|point| point.ack),
        "ready": level(|point| point.ready),
        "unsettled": level(|point| point.unsettled),
        "connections": level(|point| point.connections as u64),
        "memory_bytes": level(|point| point.memory_bytes),
        "disk_bytes": level(|point| point.disk_bytes),
    })
}

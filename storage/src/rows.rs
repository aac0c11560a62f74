//! Slices of a queue's rows, fetched from the engine. Relies on [`crate::key`] for their order.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::Sequence;
use crate::engine::{Engine, EngineError};
use crate::key::Key;

/// Up to `limit` rows of messages from a key up to, but without, another, each with its last sequence.
pub(crate) fn rows_between(
    engine: &dyn Engine,
    from: &[u8],
    until: &[u8],
    limit: usize,
) -> Result<Vec<(Sequence, Bytes)>, EngineError> {
    let mut rows = Vec::new();
    engine.scan(from, until, &mut |key, value| {
        if let Some(Key::Row(_, last)) = Key::parse(key) {
            rows.push((last, value));
        }
        if rows.len() < limit {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    Ok(rows)
}

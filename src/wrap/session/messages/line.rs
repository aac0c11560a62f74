//! Composes the line of a message, and moves a long text to a file.

use std::path::PathBuf;

use super::MessageParts;
use crate::envelope::{DeliveryMark, Envelope};
use crate::platform;
use crate::wrap::log::Log;
use crate::wrap::spill;

/// Returns the message's line, and the same line marked as a possible repeat. If the line is longer
/// than `limit` bytes, its text is written to a file, whose path is the second result.
pub(super) fn compose(
    envelope: &Envelope,
    parts: &MessageParts,
    limit: usize,
    log: &mut Log,
) -> ((String, String), Option<PathBuf>) {
    let both = |envelope: &Envelope| {
        let line = |mark| envelope.to_line(parts.breaks, mark);
        (line(DeliveryMark::None), line(DeliveryMark::PossibleRepeat))
    };
    let lines = both(envelope);
    if lines.0.len() <= limit {
        return (lines, None);
    }
    match spill::spill(
        (&parts.spill, &parts.presence.name),
        envelope,
        limit.max(platform::CANONICAL_LIMIT),
    ) {
        Ok((short, file)) => (both(&short), Some(file)),
        Err(error) => {
            log.write(&format!(
                "a long text cannot be written to {}: {error}",
                parts.spill.display()
            ));
            (lines, None)
        }
    }
}

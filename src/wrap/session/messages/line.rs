//! Composes the line of a message, whose text may be in a file.

use crate::envelope::{DeliveryMark, Envelope, LineBreaks};
use crate::platform;
use crate::wrap::delivery::InFlightMessage;
use crate::wrap::disk::{LongText, Spilled};
use crate::wrap::log::SessionLog;
use crate::wrap::spill::Pointer;

/// Returns the message's line, and the same line marked as a possible repeat.
fn compose(envelope: &Envelope, breaks: LineBreaks) -> (String, String) {
    let line = |mark| envelope.to_line(breaks, mark);
    (line(DeliveryMark::None), line(DeliveryMark::PossibleRepeat))
}

/// Composes both lines, or returns `None` if the plain one has more than `limit_bytes`, or if what
/// is to be in it has, also if cleaning would remove much of that. So a long text is not scanned
/// here, on the session's loop.
pub(super) fn compose_within(
    envelope: &Envelope,
    breaks: LineBreaks,
    limit_bytes: usize,
) -> Option<(String, String)> {
    if envelope.text_bytes() > limit_bytes {
        return None;
    }
    let line = envelope.to_line(breaks, DeliveryMark::None);
    let is_short = line.len() <= limit_bytes;
    is_short.then(|| (line, envelope.to_line(breaks, DeliveryMark::PossibleRepeat)))
}

/// The text to write to a file, so that the line has at most `limit_bytes`.
pub(super) fn long_text(envelope: &Envelope, limit_bytes: usize) -> Box<LongText> {
    Box::new(LongText {
        envelope: envelope.clone(),
        pointer: Pointer::UpTo(limit_bytes.max(platform::CANONICAL_LIMIT)),
    })
}

/// Returns the lines of a message whose text was written to a file. If that failed, they name the
/// file that was written before, or have the whole text.
pub(super) fn compose_with_file(
    message: &mut InFlightMessage,
    spilled: Spilled,
    breaks: LineBreaks,
    log: &mut SessionLog,
) -> (String, String) {
    match spilled {
        Ok((short, file)) => {
            message.text_files.push(file);
            compose(&short, breaks)
        }
        Err(error) => {
            log.write(&format!("a text cannot be written to a file: {error}"));
            if message.text_files.is_empty() {
                return compose(&message.envelope, breaks);
            }
            (message.line.clone(), message.repeat_line.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use ulid::Ulid;

    use super::*;
    use crate::name::SessionName;

    #[test]
    fn a_line_that_names_a_file_stays_when_another_file_cannot_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = SessionLog::open(&folder.path().join("log"));
        let name = SessionName::new("peer").unwrap();
        let (id, at) = (Ulid::nil(), chrono::DateTime::UNIX_EPOCH);
        let envelope = Envelope::new(id, at, &name, &name, "the whole text".into());
        let mut message = InFlightMessage::new(envelope, None, std::time::Instant::now());
        let failed = || Err(std::io::ErrorKind::StorageFull.into());
        let mut compose = |message: &mut _, spilled| {
            compose_with_file(message, spilled, LineBreaks::Flatten, &mut log)
        };
        let (line, _) = compose(&mut message, failed());
        assert!(line.contains("the whole text"), "{line}");
        let mut short = message.envelope.clone();
        short.message = "it is in a file".into();
        let lines = compose(&mut message, Ok((short, "/file".into())));
        (message.line, message.repeat_line) = lines.clone();
        assert_eq!(compose(&mut message, failed()), lines);
    }

    #[test]
    fn a_text_that_is_longer_than_the_line_may_be_goes_to_a_file_without_being_cleaned_first() {
        let lines = |message: String| {
            let name = SessionName::new("peer").unwrap();
            let (id, at) = (Ulid::nil(), chrono::DateTime::UNIX_EPOCH);
            let envelope = Envelope::new(id, at, &name, &name, message);
            compose_within(&envelope, LineBreaks::Flatten, 1000)
        };
        assert!(lines("x".repeat(500)).is_some());
        assert!(lines("x".repeat(1000)).is_none());
        assert!(lines("\u{200B}".repeat(300)).is_some());
        assert!(lines("\u{200B}".repeat(400)).is_none());
    }
}

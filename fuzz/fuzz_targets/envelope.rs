//! A message between sessions: what is accepted can be written down as one safe line.

#![no_main]

use cbroker::envelope::{DEFAULT_LIMIT_BYTES, DeliveryMark, Envelope, LineBreaks};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(envelope) = Envelope::parse(bytes, DEFAULT_LIMIT_BYTES) else {
        return;
    };
    let line = envelope.to_line(LineBreaks::Flatten, DeliveryMark::None);
    assert!(!line.chars().any(char::is_control), "{line:?}");
    assert_eq!(line.matches("[cbroker peer message").count(), 1, "{line:?}");
});

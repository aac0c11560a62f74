//! What a broker sends to our client: lapin reads what passes without running out of stack.

#![no_main]

use amq_protocol::frame::parse_frame;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (mended, _refused) = cbroker::peer::attempts::mended(bytes);
    let mut rest = &mended[..];
    while let Ok((later, _)) = parse_frame(rest) {
        rest = later;
    }
});

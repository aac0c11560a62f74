//! What holds for any bytes that a broker sends, used by the fuzz target and by the tests.
//!
//! Each function panics if that is wrong. Compiled for tests and fuzzing only.

use super::UnreadableFrame;
use super::mend::FrameMender;

/// Mends bytes: in pieces of any length it gives the same, and what was mended stays as it is.
/// Returns what lapin gets to read, and why it gets no more.
pub fn mended(bytes: &[u8]) -> (Vec<u8>, Option<UnreadableFrame>) {
    let all = in_pieces(bytes, usize::MAX);
    for length in [1, 2, 13] {
        assert_eq!(in_pieces(bytes, length), all, "in pieces of {length}");
    }
    assert_eq!(in_pieces(&all.0, usize::MAX), (all.0.clone(), None));
    all
}

fn in_pieces(bytes: &[u8], length: usize) -> (Vec<u8>, Option<UnreadableFrame>) {
    let (mut mender, mut out) = (FrameMender::default(), Vec::new());
    let mut pieces = bytes.chunks(length);
    let refused = pieces.find_map(|piece| mender.mend(piece, &mut out).err());
    (out, refused)
}

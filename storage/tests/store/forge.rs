//! Valid segments with any records in them, made as `docs/storage.md` describes the format.

use storage::frame::{BLOCK, SegmentHeader, SegmentState};
use xxhash_rust::xxh3::{xxh3_64_with_secret, xxh3_64_with_seed};

use crate::simulated_disk::SEGMENT_BYTES;

/// A segment whose frames are valid and hold these records.
pub(crate) fn segment(records: &[Vec<u8>]) -> Vec<u8> {
    let salt = [7; 16];
    let header = SegmentHeader {
        number: 1,
        salt,
        first_commit: 1,
        previous: 0,
        previous_end: 0,
        length: SEGMENT_BYTES,
        state: SegmentState::Log,
    };
    let mut bytes = header.encode();
    for (commit, record) in (1..).zip(records) {
        let sealed = raw_frame(record, &salt, (bytes.len() as u64, commit));
        bytes.extend_from_slice(&sealed);
    }
    bytes.resize(SEGMENT_BYTES as usize, 0);
    bytes
}

/// A valid frame with any bytes as its records, made as `docs/storage.md` describes it.
pub(crate) fn raw_frame(records: &[u8], salt: &[u8; 16], (offset, commit): (u64, u64)) -> Vec<u8> {
    let secret: Vec<u8> = (0..24)
        .flat_map(|word| xxh3_64_with_seed(salt, word).to_le_bytes())
        .collect();
    let mut header = commit.to_le_bytes().to_vec();
    header.extend_from_slice(&(records.len() as u64).to_le_bytes());
    header.extend_from_slice(&xxh3_64_with_secret(records, &secret).to_le_bytes());
    let place = [
        header.as_slice(),
        &1_u64.to_le_bytes(),
        &offset.to_le_bytes(),
    ]
    .concat();
    let sum = xxh3_64_with_secret(&place, &secret);
    let mut frame = [&sum.to_le_bytes()[..], &header, records].concat();
    frame.resize(frame.len().next_multiple_of(BLOCK as usize), 0);
    frame
}

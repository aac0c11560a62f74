//! Segments as the index knows them: their files, and what is live in them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::disk::DiskFile;

/// A segment as the index knows it.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    /// The file and its name. Readers hold it: a segment is used again only when nobody else does.
    pub(crate) file: Arc<SegmentFile>,
    /// Live messages in it.
    pub(crate) live: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// A large body's file, which belongs to no chain.
    pub(crate) is_body: bool,
    /// Something in it could not be read: it is not compacted.
    pub(crate) is_damaged: bool,
}

impl Segment {
    pub(crate) fn new(file: Arc<SegmentFile>, is_body: bool) -> Self {
        Self {
            file,
            live: 0,
            bytes: 0,
            is_body,
            is_damaged: false,
        }
    }
}

/// An open segment file.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    pub(crate) path: std::path::PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) length: u64,
}

/// All segments by number.
pub(crate) type Segments = BTreeMap<u64, Segment>;

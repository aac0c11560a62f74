//! Every byte of a small log flipped, and every length that its files can be cut to.
//!
//! Bytes that hold something are flipped one at a time. Those that hold nothing (padding, the rest
//! of a segment, spare files) are flipped a column of all blocks at a time, which must cost nothing
//! at all. The segments are as short as they can be, so that this takes seconds; with
//! `CBROKER_SOAK_DAMAGE` every single length is tried.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use storage::OpenReport;
use storage::frame::BLOCK;

use crate::damaged_store::{
    Held, IN_A_FRAME, filled_in, frames, is_long, last_frame, logs, look, newest, open_and_read,
};
use crate::simulated_disk::SimulatedDisk;

/// A header, a snapshot, a definition, a commit of messages and one of acks.
const SEGMENT_BYTES: u64 = 5 * BLOCK;
const BLOCK_BYTES: usize = BLOCK as usize;

/// A store of two segments.
struct Small {
    disk: SimulatedDisk,
    held: Held,
    files: Vec<(PathBuf, Vec<u8>)>,
    /// Where the last commit begins that only a checkpoint could prove.
    unproved: Option<(PathBuf, u64)>,
}

impl Small {
    fn new(has_index: bool) -> Self {
        let (disk, held) = filled_in(2, 1, SEGMENT_BYTES, has_index);
        if !has_index {
            disk.change_rows(BTreeMap::clear);
        }
        let paths = logs(&disk).into_iter();
        let files = paths
            .map(|path| (path.clone(), disk.bytes(&path)))
            .collect();
        let unproved = (!has_index).then(|| (newest(&disk), last_frame(&disk)));
        Self {
            disk,
            held,
            files,
            unproved,
        }
    }

    /// Damages one file and opens the store. Returns how many messages it cost.
    fn damage(&self, (path, bytes): &(PathBuf, Vec<u8>), at: usize, new: Vec<u8>) -> usize {
        let disk = self.disk.after_kill();
        disk.replace(path, new);
        let what = format!("{} of {} bytes, at {at}", path.display(), bytes.len());
        let unproved = self.unproved.as_ref();
        let is_proved = unproved.is_none_or(|(newest, from)| path != newest || (at as u64) < *from);
        let look = if is_proved { look } else { open_and_read };
        look(&disk, &self.held, &what).missing
    }
}

/// The bytes of a file that hold something: both headers of the segment, and the frames.
fn used(bytes: &[u8]) -> BTreeSet<usize> {
    let frames = frames(bytes);
    let has_header = !frames.is_empty();
    let headers = (0..80).chain(2048..2128).filter(|_| has_header);
    let frames = frames.into_iter();
    let frames = frames.flat_map(|(at, length)| at as usize..(at + length) as usize);
    headers.chain(frames).collect()
}

fn flip_each_byte(has_index: bool, limit: u64) {
    let small = Small::new(has_index);
    let mut hurt = 0;
    for file in &small.files {
        for at in used(&file.1) {
            let mut bytes = file.1.clone();
            bytes[at] ^= 0xFF;
            let missing = small.damage(file, at, bytes);
            assert!(missing as u64 <= limit, "{}, {at}", file.0.display());
            hurt += missing;
        }
    }
    assert!(hurt > 0, "no byte was hit");
}

#[test]
fn every_byte_of_a_log_without_index_costs_at_most_its_own_commit() {
    flip_each_byte(false, 2 * IN_A_FRAME);
}

#[test]
fn every_byte_of_a_log_with_an_index_costs_at_most_its_own_group() {
    flip_each_byte(true, IN_A_FRAME);
}

#[test]
fn bytes_of_a_log_that_hold_nothing_cost_nothing() {
    let small = Small::new(false);
    let sound = look(&small.disk.after_kill(), &small.held, "sound").report;
    let used: Vec<_> = small.files.iter().map(|(_, bytes)| used(bytes)).collect();
    for column in 0..BLOCK_BYTES {
        let disk = small.disk.after_kill();
        for ((path, bytes), used) in small.files.iter().zip(&used) {
            let mut bytes = bytes.clone();
            // A spare whose first block is not empty is a damaged segment, as it must be.
            let from = if used.is_empty() { BLOCK_BYTES } else { 0 };
            for at in (from + column..bytes.len()).step_by(BLOCK_BYTES) {
                if !used.contains(&at) {
                    bytes[at] ^= 0xFF;
                }
            }
            disk.replace(path, bytes);
        }
        let found = look(&disk, &small.held, &format!("column {column}"));
        assert_eq!(
            (found.missing, found.returned, found.missing_definitions),
            (0, 0, 0)
        );
        // The first bytes of a spare's second block show that its first write was cut short.
        let is_same = found.report == sound || column < 64 && found.report.losses.is_empty();
        assert!(is_same, "column {column}: {:?}", found.report);
    }
}

#[test]
fn a_spare_with_any_byte_in_its_first_block_costs_nothing_but_a_line() {
    let small = Small::new(false);
    let spare = small.files.iter().find(|(_, bytes)| used(bytes).is_empty());
    let (path, bytes) = spare.unwrap();
    for at in (0..BLOCK_BYTES).step_by(if is_long() { 1 } else { 31 }) {
        let disk = small.disk.after_kill();
        let mut bytes = bytes.clone();
        bytes[at] ^= 0xFF;
        disk.replace(path, bytes);
        let found = look(&disk, &small.held, &format!("byte {at} of a spare"));
        assert_eq!(
            (found.missing, found.returned, found.missing_definitions),
            (0, 0, 0)
        );
        assert_ne!(found.report, OpenReport::default(), "byte {at}");
    }
}

fn cut_to_each_length(has_index: bool) {
    let small = Small::new(has_index);
    let mut hurt = 0;
    for file in &small.files {
        let used = used(&file.1);
        // Lengths within a stretch that holds nothing differ in nothing that is read.
        let lengths = (0..file.1.len()).filter(|at| {
            let is_near =
                used.contains(at) || at.checked_sub(1).is_some_and(|at| used.contains(&at));
            is_long() || is_near || at % 512 < 2
        });
        for length in lengths {
            let missing = small.damage(file, length, file.1[..length].to_vec());
            assert!(
                missing as u64 <= 2 * IN_A_FRAME,
                "{}, {length}",
                file.0.display()
            );
            hurt += missing;
        }
    }
    assert!(hurt > 0, "no length cost anything");
}

#[test]
fn every_length_that_a_log_file_without_index_is_cut_to_costs_at_most_what_was_in_it() {
    cut_to_each_length(false);
}

#[test]
fn every_length_that_a_log_file_with_an_index_is_cut_to_costs_at_most_what_was_in_it() {
    cut_to_each_length(true);
}

//! A store whose log holds hostile bytes: any bytes as a log file, or any records in frames whose
//! sums are right. It opens, reads, takes new work and opens again.

#![no_main]

use std::path::Path;

use storage::{QueueId, ReadError, Sequence, Store, Urgency};

#[path = "../../storage/tests/store/forge.rs"]
mod forge;
#[path = "../../storage/tests/store/random.rs"]
mod random;
#[path = "../../storage/tests/store/simulated_disk.rs"]
#[allow(dead_code)]
mod simulated_disk;

use simulated_disk::SimulatedDisk;

/// Records in the manner of the input: the length of each in two octets, then the record.
fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (record, left) = rest.split_at(length);
        records.push(record.to_vec());
        bytes = left;
    }
    records.truncate(8);
    records
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&manner, rest)) = bytes.split_first() else {
        return;
    };
    let file = if manner % 4 == 0 {
        rest.to_vec()
    } else {
        forge::segment(&records(rest))
    };
    let disk = SimulatedDisk::new();
    disk.replace(Path::new("log/000001.log"), file);
    for _ in 0..2 {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let options = disk.options(folder.path());
        let opened = Store::open(folder.path(), options, |_| {}).expect("damage prevents no start");
        for found in &opened.queues {
            let mut from = Sequence(0);
            for _ in 0..64 {
                let next = match opened.store.read(found.queue, from, 1 << 16) {
                    Ok(slice) => slice.last().and_then(|(last, _)| last.0.checked_add(1)),
                    Err(ReadError::Damaged { next, .. }) => {
                        Some(next).filter(|next| *next > from.0)
                    }
                    Err(error) => panic!("{error}"),
                };
                let Some(next) = next else { break };
                from = Sequence(next);
            }
        }
        let last = opened
            .queues
            .iter()
            .find(|found| found.queue == QueueId(u64::MAX));
        let next = last.map_or(0, |found| found.next.0);
        let _ = opened.store.append(
            QueueId(u64::MAX),
            Sequence(next),
            &[b"new"],
            Urgency::Confirmed,
        );
        opened.store.close().expect("it takes new work");
    }
});

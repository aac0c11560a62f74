//! Damaged files: the store opens, hands out nothing damaged, loses at most what the damaged
//! bytes held, and reports it.

use std::collections::BTreeMap;
use std::path::Path;

use storage::frame::BLOCK;
use storage::{Opened, QueueId, ReadError, Sequence, Store, Urgency};

use crate::damaged_store::{
    IN_A_FRAME, LENGTH, filled, frames, is_long, last_frame, logs, look, newest, open_and_read,
    options,
};
use crate::random::Random;
use crate::simulated_disk::{SEGMENT_BYTES, SimulatedDisk};
use crate::support::{body, wait};

/// Opens what is on a disk.
fn open(disk: &SimulatedDisk, folder: &Path) -> Opened {
    Store::open(folder, options(disk, folder, SEGMENT_BYTES), |_| {}).unwrap()
}

/// The one large message of a queue of its own.
const LARGE: (QueueId, u64) = (QueueId(3), 1_100_000);

/// Offsets that matter: headers and frames, and some of the padding.
fn places(bytes: &[u8]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..88).chain(2048..2136).collect();
    let mut end = BLOCK as usize;
    for (at, length) in frames(bytes) {
        places.extend(at as usize..(at + length) as usize);
        end = (at + length) as usize;
    }
    places.extend((0..bytes.len()).step_by(if end > BLOCK as usize { 1_021 } else { 9_973 }));
    places
}

/// Every log file damaged at every place, with an index of the last stop, of the last start, and
/// none.
fn damage_everywhere(stride: usize, damage: fn(&mut Vec<u8>, usize), limit: u64) {
    let stride = if is_long() { 1 } else { stride };
    let mut hurt = 0;
    for (is_clean, has_index) in [(true, true), (false, true), (true, false)] {
        let (sound, held) = filled(is_clean);
        if !has_index {
            sound.change_rows(BTreeMap::clear);
        }
        assert_eq!(look(&sound.after_kill(), &held, "sound").missing, 0);
        for path in logs(&sound) {
            let bytes = sound.bytes(&path);
            for place in places(&bytes).into_iter().step_by(stride) {
                let disk = sound.after_kill();
                let mut bytes = bytes.clone();
                damage(&mut bytes, place);
                disk.replace(&path, bytes);
                let what = format!(
                    "{}, byte {place}, clean {is_clean}, index {has_index}",
                    path.display()
                );
                // The last commit looks torn, as one that was never confirmed; only a checkpoint
                // knows better.
                let is_last = place as u64 >= last_frame(&sound) && path == newest(&sound);
                let found = if is_last && !(is_clean && has_index) {
                    open_and_read(&disk, &held, &what)
                } else {
                    look(&disk, &held, &what)
                };
                assert!(found.missing as u64 <= limit, "{what}: {found:?}");
                hurt += u64::from(found.missing > 0);
            }
        }
    }
    assert!(hurt > 0, "no place was hit");
}

#[test]
fn every_flipped_byte_costs_at_most_its_own_frame() {
    damage_everywhere(
        5,
        |bytes: &mut Vec<u8>, at| bytes[at] ^= 0xFF,
        2 * IN_A_FRAME,
    );
}

#[test]
fn every_flipped_bit_pattern_of_a_sector_costs_at_most_its_own_frame() {
    let zap = |bytes: &mut Vec<u8>, at: usize| {
        let sector = at / 512 * 512;
        bytes[sector..sector + 512].fill(0xA5);
    };
    damage_everywhere(97, zap, 2 * IN_A_FRAME);
}

#[test]
fn a_log_file_cut_at_any_length_gives_what_is_left() {
    // A session holds four frames of messages.
    damage_everywhere(7, Vec::truncate, 4 * 2 * IN_A_FRAME);
}

#[test]
fn a_log_file_that_is_missing_empty_or_zeroed_costs_what_was_in_it() {
    damage_everywhere(
        usize::MAX,
        |bytes: &mut Vec<u8>, _| bytes.truncate(0),
        4 * 2 * IN_A_FRAME,
    );
    let (sound, held) = filled(true);
    for has_index in [true, false] {
        for path in logs(&sound) {
            let disk = sound.after_kill();
            disk.lose(&path);
            if !has_index {
                disk.change_rows(BTreeMap::clear);
            }
            let what = format!("{} is missing, index {has_index}", path.display());
            // Without an index nothing shows that there was a newer segment.
            let is_known = has_index || path != newest(&sound);
            let look = if is_known { look } else { open_and_read };
            let found = look(&disk, &held, &what);
            assert!(
                found.missing as u64 <= 4 * 2 * IN_A_FRAME,
                "{what}: {found:?}"
            );
            let disk = sound.after_kill();
            disk.replace(&path, vec![0; sound.bytes(&path).len()]);
            let found = look(&disk, &held, &format!("{} is zeroed", path.display()));
            assert!(found.missing as u64 <= 4 * 2 * IN_A_FRAME, "{found:?}");
        }
    }
}

#[test]
fn a_log_file_that_is_there_twice_changes_nothing() {
    for is_clean in [true, false] {
        let (sound, held) = filled(is_clean);
        for path in logs(&sound) {
            for name in ["log/000000.log", "log/000099.log"] {
                let disk = sound.after_kill();
                disk.replace(Path::new(name), sound.bytes(&path));
                let what = format!("{} twice, as {name}", path.display());
                let found = look(&disk, &held, &what);
                assert_eq!((found.missing, found.returned), (0, 0), "{what}: {found:?}");
            }
        }
    }
}

#[test]
fn log_files_whose_names_were_exchanged_change_nothing() {
    let (sound, held) = filled(false);
    let logs = logs(&sound);
    for (left, right) in logs.iter().zip(&logs[1..]) {
        let disk = sound.after_kill();
        disk.replace(left, sound.bytes(right));
        disk.replace(right, sound.bytes(left));
        let found = look(&disk, &held, "exchanged");
        assert_eq!((found.missing, found.returned), (0, 0), "{found:?}");
    }
}

#[test]
fn files_that_are_not_the_stores_are_left_alone() {
    let (disk, held) = filled(false);
    for name in [
        "log/readme.txt",
        "log/1.log.bak",
        "log/body-.log",
        "log/x.log",
        "log/.log",
    ] {
        disk.replace(Path::new(name), b"mine".to_vec());
    }
    let found = look(&disk, &held, "other files");
    assert_eq!((found.missing, found.returned), (0, 0), "{found:?}");
    assert_eq!(disk.bytes(Path::new("log/readme.txt")), b"mine");
}

#[test]
fn a_damaged_or_missing_index_costs_nothing() {
    let (sound, held) = filled(true);
    let mut rows = BTreeMap::new();
    sound.change_rows(|found| rows.clone_from(found));
    assert!(rows.len() > 2, "{} rows", rows.len());
    let mut damages: Vec<BTreeMap<Vec<u8>, Vec<u8>>> = vec![BTreeMap::new()];
    for (key, value) in &rows {
        let mut without = rows.clone();
        without.remove(key);
        damages.push(without);
        for at in 0..value.len() {
            let mut flipped = rows.clone();
            flipped.get_mut(key).unwrap()[at] ^= 0xFF;
            damages.push(flipped);
            if at % 3 == 0 {
                let mut cut = rows.clone();
                cut.get_mut(key).unwrap().truncate(at);
                damages.push(cut);
            }
        }
    }
    for (number, damage) in damages.into_iter().enumerate() {
        let disk = sound.after_kill();
        disk.change_rows(|rows| *rows = damage);
        let found = look(&disk, &held, &format!("index damage {number}"));
        assert_eq!(
            (found.missing, found.returned, found.missing_definitions),
            (0, 0, 0),
            "index damage {number}: {found:?}"
        );
        assert_eq!(found.report.losses, [""; 0], "index damage {number}");
    }
}

#[test]
fn damaged_definitions_are_taken_from_the_index_or_reported() {
    let (sound, held) = filled(true);
    let path = Path::new("definitions.json");
    let bytes = sound.bytes(path);
    for has_index in [true, false] {
        for at in 0..=bytes.len() {
            let disk = sound.after_kill();
            let mut damaged = bytes.clone();
            if at < bytes.len() {
                damaged[at] ^= if at % 2 == 0 { 0xFF } else { 1 };
            } else {
                damaged.truncate(bytes.len() / 2);
            }
            disk.replace(path, damaged);
            if !has_index {
                disk.change_rows(BTreeMap::clear);
            }
            let what = format!("definitions.json, byte {at}, index {has_index}");
            let found = look(&disk, &held, &what);
            assert_eq!(found.missing, 0, "{what}: {found:?}");
            assert!(
                !has_index || found.missing_definitions == 0,
                "{what}: {found:?}"
            );
        }
    }
}

#[test]
fn everything_damaged_at_once_still_opens() {
    let (sound, held) = filled(true);
    let mut random = Random(0xDA_4A6E);
    for round in 0..if is_long() { 20_000 } else { 400 } {
        let disk = sound.after_kill();
        for (index, path) in disk.files().into_iter().enumerate() {
            let mut bytes = disk.bytes(&path);
            match random.below(6) {
                // Where nothing at all is left, nothing can be reported.
                0 if index > 0 => disk.lose(&path),
                1 => {
                    bytes.truncate(random.below(bytes.len() as u64 + 1) as usize);
                    disk.replace(&path, bytes);
                }
                2 | 3 => {
                    let used = bytes.len().min(48 << 10) as u64;
                    for _ in 0..random.below(9) {
                        if let Some(byte) = bytes.get_mut(random.below(used) as usize) {
                            *byte = random.below(256) as u8;
                        }
                    }
                    disk.replace(&path, bytes);
                }
                _ => {}
            }
        }
        disk.change_rows(|rows| {
            rows.retain(|_, _| random.below(5) > 0);
            for value in rows.values_mut() {
                if let Some(byte) = value.get_mut(random.below(64) as usize)
                    && random.below(3) == 0
                {
                    *byte ^= 0x40;
                }
            }
        });
        look(&disk, &held, &format!("round {round}"));
    }
}

/// Three messages, the second of them large.
fn with_a_large_body() -> SimulatedDisk {
    let disk = SimulatedDisk::new();
    let folder = tempfile::tempdir().unwrap();
    let opened = open(&disk, folder.path());
    let (queue, length) = (LARGE.0, LARGE.1 as usize);
    for number in 0..3 {
        let text = body(queue, number, if number == 1 { length } else { LENGTH });
        let ticket = opened
            .store
            .append(queue, Sequence(number), &[&text], Urgency::Confirmed)
            .unwrap();
        wait(&opened.store, ticket);
    }
    disk.after_kill()
}

#[test]
fn a_damaged_or_missing_large_body_costs_itself_alone() {
    let sound = with_a_large_body();
    let path = logs(&sound)
        .into_iter()
        .find(|path| path.to_string_lossy().contains("body-"))
        .unwrap();
    let bytes = sound.bytes(&path);
    for damage in [
        Some(0),
        Some(70),
        Some(4_096),
        Some(4_100),
        Some(600_000),
        None,
    ] {
        let disk = sound.after_kill();
        match damage {
            Some(at) => {
                let mut bytes = bytes.clone();
                bytes[at] ^= 0xFF;
                disk.replace(&path, bytes);
            }
            None => disk.lose(&path),
        }
        let (numbers, is_reported) = read_with_large(&disk);
        let is_whole = numbers == [0, 1, 2];
        assert!(is_whole || numbers == [0, 2], "{damage:?}: {numbers:?}");
        assert!(is_whole || is_reported, "{damage:?}");
    }
}

#[test]
fn a_large_body_is_kept_when_the_record_that_names_it_is_damaged() {
    let sound = with_a_large_body();
    let is_body = |path: &Path| path.to_string_lossy().contains("body-");
    let (bodies, segments): (Vec<_>, Vec<_>) =
        logs(&sound).into_iter().partition(|path| is_body(path));
    let whole = sound.bytes(&bodies[0]);
    let mut kept = 0;
    for path in segments {
        let bytes = sound.bytes(&path);
        for (at, _) in frames(&bytes) {
            let disk = sound.after_kill();
            let mut bytes = bytes.clone();
            bytes[at as usize + 40] ^= 1;
            disk.replace(&path, bytes);
            let (numbers, _) = read_with_large(&disk);
            let mut files = disk.files().into_iter();
            let aside = files.find(|path| path.starts_with("set-aside") && is_body(path));
            assert_eq!(aside.is_some(), !numbers.contains(&1), "{numbers:?}");
            if let Some(aside) = aside {
                assert!(disk.bytes(&aside) == whole, "{aside:?}");
                kept += 1;
            }
        }
    }
    assert!(kept > 0, "no frame names the body");
}

/// The numbers that are left of the queue with a large body, and whether damage was reported.
fn read_with_large(disk: &SimulatedDisk) -> (Vec<u64>, bool) {
    let (queue, length) = (LARGE.0, LARGE.1 as usize);
    let folder = tempfile::tempdir().unwrap();
    let opened = open(disk, folder.path());
    let mut numbers = Vec::new();
    let mut from = Sequence(0);
    let mut is_reported = !opened.report.losses.is_empty();
    loop {
        match opened.store.read(queue, from, 1) {
            Ok(slice) => {
                let Some((last, found)) = slice.first() else {
                    break;
                };
                let length = if last.0 == 1 { length } else { LENGTH };
                assert!(found[..] == body(queue, last.0, length)[..]);
                numbers.push(last.0);
                from = Sequence(last.0 + 1);
            }
            Err(ReadError::Damaged { next, .. }) => {
                is_reported = true;
                from = Sequence(next);
            }
            Err(error) => panic!("{error}"),
        }
    }
    (numbers, is_reported)
}

#[test]
fn a_copy_of_damaged_bytes_is_there_after_a_power_cut() {
    let (sound, _held) = filled(true);
    let disk = sound.after_kill();
    disk.change_rows(BTreeMap::clear);
    let path = newest(&disk);
    let mut bytes = disk.bytes(&path);
    let (first, _) = frames(&bytes)[1];
    bytes[first as usize + 40] ^= 1;
    disk.replace(&path, bytes);
    let folder = tempfile::tempdir().unwrap();
    let opened = open(&disk, folder.path());
    let losses = opened.report.losses.join(" ");
    assert!(
        losses.contains("a copy is kept in ") && losses.contains("set-aside/frame-"),
        "{losses}"
    );
    for cut in 1..=20 {
        let files = disk.after_power_cut(&mut Random(cut), 512).files();
        let is_kept = files.iter().any(|path| path.starts_with("set-aside"));
        assert!(is_kept, "cut {cut}: {files:?}");
    }
}

#[test]
fn a_sector_that_cannot_be_read_costs_what_was_in_it() {
    let (sound, held) = filled(true);
    sound.change_rows(BTreeMap::clear);
    for path in logs(&sound) {
        for (frame, _) in frames(&sound.bytes(&path)) {
            let disk = sound.after_kill();
            disk.set_bad_byte(&path, frame + 40);
            let what = format!("{}, frame at {frame}", path.display());
            let found = open_and_read(&disk, &held, &what);
            assert!(found.missing as u64 <= 2 * IN_A_FRAME, "{what}: {found:?}");
            let losses = found.report.losses.join(" ");
            assert!(
                losses.contains("a sector cannot be read"),
                "{what}: {losses}"
            );
        }
    }
}

#[test]
fn a_file_whose_header_cannot_be_read_is_kept() {
    // It passed for one that was never used: a segment was written over, and a body removed.
    for sound in [filled(true).0, with_a_large_body()] {
        for path in logs(&sound) {
            let mut bytes = sound.bytes(&path);
            bytes[2048..4096].fill(0xA5);
            let disk = sound.after_kill();
            disk.replace(&path, bytes.clone());
            disk.set_bad_byte(&path, 10);
            let folder = tempfile::tempdir().unwrap();
            let opened = open(&disk, folder.path());
            let losses = opened.report.losses.join(" ");
            assert!(losses.contains("no readable header"), "{path:?}: {losses}");
            drop(opened);
            let is_kept = |aside: &std::path::PathBuf| {
                aside.starts_with("set-aside") && disk.bytes(aside) == bytes
            };
            assert!(disk.files().iter().any(is_kept), "{path:?}");
        }
    }
}

#[test]
fn what_is_defined_behind_a_file_of_definitions_without_a_log_is_kept() {
    let (disk, _) = filled(true);
    disk.change_rows(BTreeMap::clear);
    for path in logs(&disk) {
        disk.lose(&path);
    }
    let folder = tempfile::tempdir().unwrap();
    let Opened {
        store, definitions, ..
    } = open(&disk, folder.path());
    let (removed, _) = &definitions[0];
    store.put(b"late", b"value".to_vec()).unwrap();
    wait(&store, store.remove(removed).unwrap());
    store.close().unwrap();
    let found = open(&disk, folder.path()).definitions;
    let has = |key: &[u8]| found.iter().any(|(found, _)| found == key);
    assert_eq!((has(b"late"), has(removed)), (true, false), "{found:?}");
}

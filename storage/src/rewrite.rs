//! Copies rows from one engine to another: all of them for a compaction, those that can still be read for a salvage.
//!
//! A salvage steps over what the engine cannot give: it seeks further and further until rows come again, then back to
//! the first of them. Counts are not copied but made anew from the rows that were saved.
//! Relies on keys being ordered numbers.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;

use crate::engine::{Change, Engine, EngineError};
use crate::gap::end_of_gap;
use crate::key::{self, Key};
use crate::record::{self, Marks, Row, Summary};
use crate::steps::Steps;
use crate::{QueueId, Sequence};

/// Rows copied before they are synced.
const ROWS_AT_ONCE: usize = 512;
/// One past every key.
const END: &[u8] = &[0xFF];

/// Copies every row as it is. Returns when the copy is durable.
pub(crate) fn copy(from: &dyn Engine, to: &dyn Engine) -> Result<(), EngineError> {
    let mut start = Vec::new();
    loop {
        let rows = slice(from, &start)?;
        let Some((last, _)) = rows.last() else {
            return Ok(());
        };
        start.clone_from(last);
        start.push(0);
        write(to, rows)?;
        // Reading makes sled join the pages of deleted rows, which it writes down: a power cut must not find half of that.
        from.commit(&[])?;
    }
}

fn slice(from: &dyn Engine, start: &[u8]) -> Result<Vec<(Vec<u8>, Bytes)>, EngineError> {
    let mut rows = Vec::new();
    from.scan(start, END, &mut |key, value| {
        rows.push((key.to_vec(), value));
        if rows.len() < ROWS_AT_ONCE {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    Ok(rows)
}

fn write(to: &dyn Engine, rows: Vec<(Vec<u8>, Bytes)>) -> Result<(), EngineError> {
    let mut steps = Steps::default();
    for (key, value) in rows {
        steps.push(Change::Put(key, value.to_vec()));
        if steps.is_full() {
            steps.end();
        }
    }
    to.commit(&steps.finish())
}

/// Reads every row, for the sake of the errors, and compares what is there with the counts.
pub(crate) fn look_at_all(engine: &dyn Engine) -> Result<(), EngineError> {
    let mut damaged = 0;
    let mut queues = BTreeMap::new();
    let mut counts = Vec::new();
    engine.scan(&[], END, &mut |name, value| {
        let verdict = keep(engine, name, &value, &mut queues);
        damaged += u64::from(matches!(verdict, Verdict::Damaged));
        if let Some(Key::Summary(queue)) = Key::parse(name) {
            counts.extend(Summary::parse(queue, &value).map(|summary| (queue, summary)));
        }
        ControlFlow::Continue(())
    })?;
    let missing = counts.iter().filter(|(queue, summary)| {
        let found = queues.get(queue).map_or((0, 0), |rebuilt: &Rebuilt| {
            (rebuilt.summary.ready, rebuilt.summary.bytes)
        });
        found != (summary.ready, summary.bytes)
    });
    match (damaged, missing.count()) {
        (0, 0) => Ok(()),
        (damaged, missing) => Err(EngineError::Broken(format!(
            "{damaged} rows are damaged, {missing} queues do not hold what they should"
        ))),
    }
}

/// What a salvage brought out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Salvaged {
    pub(crate) rows: u64,
    /// Places where rows could not be read.
    pub(crate) gaps: u64,
    /// What the engine said at the first of them.
    pub(crate) reason: Option<String>,
    /// Rows that were read but do not hold what they should.
    pub(crate) damaged: u64,
}

/// Copies what can be read, with counts made anew. Returns when it is durable.
pub(crate) fn salvage(from: &dyn Engine, to: &dyn Engine) -> Result<Salvaged, EngineError> {
    let mut salvaged = Salvaged::default();
    let mut queues: BTreeMap<QueueId, Rebuilt> = BTreeMap::new();
    let mut start = Vec::new();
    loop {
        match slice(from, &start) {
            Ok(rows) => {
                let Some((last, _)) = rows.last() else { break };
                start.clone_from(last);
                start.push(0);
                let mut kept = Vec::new();
                for (name, value) in rows {
                    match keep(from, &name, &value, &mut queues) {
                        Verdict::Keep => kept.push((name, value)),
                        Verdict::Leave => {}
                        Verdict::Damaged => salvaged.damaged += 1,
                    }
                }
                salvaged.rows += kept.len() as u64;
                write(to, kept)?;
            }
            Err(EngineError::NoRoom) => return Err(EngineError::NoRoom),
            Err(EngineError::Broken(reason)) => {
                salvaged.gaps += 1;
                salvaged.reason.get_or_insert(reason);
                match one_by_one(from, &start, &mut queues, to, &mut salvaged)? {
                    Some(next) => start = next,
                    None => break,
                }
            }
        }
    }
    let summaries = queues
        .into_iter()
        .filter(|(_, rebuilt)| !rebuilt.is_dropped);
    let rows = summaries.map(|(queue, rebuilt)| {
        (
            key::summary(queue),
            Bytes::from(rebuilt.summary.encode(queue)),
        )
    });
    write(
        to,
        std::iter::once((key::FORMAT.to_vec(), Bytes::from(record::format_row())))
            .chain(rows)
            .collect(),
    )?;
    Ok(salvaged)
}

/// What is known of a queue while it is salvaged.
#[derive(Debug, Default)]
struct Rebuilt {
    summary: Summary,
    is_dropped: bool,
}

enum Verdict {
    Keep,
    /// Dead, or written at the end.
    Leave,
    Damaged,
}

/// Keeps what comes before a gap. Returns where rows can be read again.
fn one_by_one(
    from: &dyn Engine,
    start: &[u8],
    queues: &mut BTreeMap<QueueId, Rebuilt>,
    to: &dyn Engine,
    salvaged: &mut Salvaged,
) -> Result<Option<Vec<u8>>, EngineError> {
    let mut kept = Vec::new();
    let mut reached = start.to_vec();
    // The scan breaks off with an error, but what it showed before that is good.
    let _ = from.scan(start, END, &mut |name, value| {
        reached = name.to_vec();
        reached.push(0);
        match keep(from, name, &value, queues) {
            Verdict::Keep => kept.push((name.to_vec(), value)),
            Verdict::Leave => {}
            Verdict::Damaged => salvaged.damaged += 1,
        }
        ControlFlow::Continue(())
    });
    salvaged.rows += kept.len() as u64;
    write(to, kept)?;
    Ok(next_readable(from, &reached))
}

/// The lowest key from which the engine can read on.
fn next_readable(from: &dyn Engine, reached: &[u8]) -> Option<Vec<u8>> {
    let reads = |at| first_from(from, &from_number(at)).is_ok();
    end_of_gap(to_number(reached), reads).map(from_number)
}

fn first_from(from: &dyn Engine, start: &[u8]) -> Result<(), EngineError> {
    from.scan(start, END, &mut |_, _| ControlFlow::Break(()))
}

/// Where a key stands, as a number: its kind, the lower seven bytes of its queue, its sequence. Facts: their first bytes.
fn to_number(key: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    let (kind, place) = match key {
        [kind, 0, place @ ..] if *kind > key::LAST_OF_FACTS => (Some(*kind), place),
        _ => (None, key),
    };
    let start = usize::from(kind.is_some());
    let length = place.len().min(16 - start);
    bytes[..start].fill(kind.unwrap_or(0));
    bytes[start..start + length].copy_from_slice(&place[..length]);
    u128::from_be_bytes(bytes)
}

fn from_number(number: u128) -> Vec<u8> {
    match number.to_be_bytes() {
        [kind, place @ ..] if kind > key::LAST_OF_FACTS => [&[kind, 0], place.as_slice()].concat(),
        bytes => bytes.to_vec(),
    }
}

/// Judges a row and counts it.
fn keep(
    from: &dyn Engine,
    name: &[u8],
    value: &Bytes,
    queues: &mut BTreeMap<QueueId, Rebuilt>,
) -> Verdict {
    let is_sound = match Key::parse(name) {
        Some(Key::Format | Key::Round) => return Verdict::Leave,
        Some(Key::Unfinished(..)) => true,
        Some(Key::Serial) => record::parse_serial(value).is_ok(),
        Some(Key::Summary(queue)) => {
            // Rows come later in the order of the keys: floor and watermark are taken over, counts begin at zero.
            let Ok(old) = Summary::parse(queue, value) else {
                return Verdict::Damaged;
            };
            queues.entry(queue).or_default().summary = Summary {
                ready: 0,
                bytes: 0,
                swept: old.floor,
                marked: 0,
                ..old
            };
            return Verdict::Leave;
        }
        Some(Key::Row(queue, last)) => return keep_row(from, (queue, last), value, queues),
        Some(Key::Fact { name, part }) => record::parse_fact(&name, part, value).is_ok(),
        Some(Key::Part(queue, sequence, part)) => {
            record::parse_part(queue, sequence, part, value).is_ok()
        }
        Some(Key::Marks(queue, last)) => {
            let is_sound = Marks::parse(queue, last, value).is_ok();
            queues.entry(queue).or_default().summary.marked += u32::from(is_sound);
            is_sound
        }
        Some(Key::Dropped(queue)) => {
            queues.entry(queue).or_default().is_dropped = true;
            true
        }
        None => false,
    };
    if is_sound {
        Verdict::Keep
    } else {
        Verdict::Damaged
    }
}

fn keep_row(
    from: &dyn Engine,
    (queue, last): (QueueId, Sequence),
    value: &Bytes,
    queues: &mut BTreeMap<QueueId, Rebuilt>,
) -> Verdict {
    let known = queues.entry(queue).or_default();
    if known.is_dropped || last.0 < known.summary.floor {
        return Verdict::Leave;
    }
    let Ok(row) = Row::parse(queue, last, value) else {
        return Verdict::Damaged;
    };
    let marks = from.get(&key::marks(queue, last)).ok().flatten();
    let marks = marks
        .and_then(|marks| Marks::parse(queue, last, &marks).ok())
        .unwrap_or_default();
    let summary = &mut known.summary;
    let mut count = |sequence: Sequence, length: u32| {
        if sequence.0 >= summary.floor {
            summary.ready += 1;
            summary.bytes += u64::from(length);
        }
        summary.next = summary.next.max(sequence.0.saturating_add(1));
    };
    match row {
        Row::Messages(entries) => {
            if entries
                .iter()
                .any(|entry| entry.body(queue, value).is_err())
            {
                return Verdict::Damaged;
            }
            let live = entries
                .iter()
                .enumerate()
                .filter(|(index, _)| !marks.has(*index));
            live.for_each(|(_, entry)| count(entry.sequence, entry.length));
        }
        Row::Big { length } => count(last, length),
    }
    Verdict::Keep
}

//! From rows on disk to a store that runs: facts whole, queues as numbers, bodies not at all.
//!
//! Relies on [`crate::record`] for every byte.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::committed::Committed;
use crate::engine::{Change, Engine, EngineError};
use crate::key::{self, Key};
use crate::record::{self, Summary};
use crate::steps::Steps;
use crate::terms::Recovered;
use crate::{QueueId, Sequence};

/// Every fact, in the order of the keys.
pub(crate) type Facts = Vec<(Vec<u8>, Vec<u8>)>;

/// How many parts a fact has, and those that were found.
type Parts = (u16, BTreeMap<u16, Vec<u8>>);

/// What was found on disk.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) facts: Facts,
    pub(crate) queues: Vec<Recovered>,
    pub(crate) committed: Committed,
    /// Rows that could not be understood, a line each.
    pub(crate) damage: Vec<String>,
}

/// The version of the rows; a new folder is given the present one.
pub(crate) fn version(engine: &dyn Engine) -> Result<u16, EngineError> {
    if let Some(value) = engine.get(key::FORMAT)? {
        let damaged = |_| EngineError::Broken("the format row is damaged".to_owned());
        return record::parse_format(&value).map_err(damaged);
    }
    let format = Change::Put(key::FORMAT.to_vec(), record::format_row());
    engine.commit(&[vec![format]])?;
    Ok(record::FORMAT_VERSION)
}

/// Deletes what a crash left of big messages that were being written or deleted. Returns how many there were.
pub(crate) fn finish_parts(engine: &dyn Engine) -> Result<usize, EngineError> {
    let mut unfinished = Vec::new();
    let (from, until) = key::all_unfinished();
    engine.scan(&from, &until, &mut |row, _| {
        if let Some(Key::Unfinished(queue, sequence)) = Key::parse(row) {
            unfinished.push((queue, sequence));
        }
        ControlFlow::Continue(())
    })?;
    let mut steps = Steps::default();
    for (queue, sequence) in &unfinished {
        if engine.get(&key::row(*queue, *sequence))?.is_none() {
            let (from, until) = key::parts_at(*queue, *sequence);
            engine.scan(&from, &until, &mut |part, _| {
                steps.push(Change::Delete(part.to_vec()));
                ControlFlow::Continue(())
            })?;
        }
        // The name goes after the last of its parts.
        steps.push(Change::Delete(key::unfinished(*queue, *sequence)));
        if steps.is_full() {
            steps.end();
        }
    }
    if !steps.is_empty() {
        engine.commit(&steps.finish())?;
    }
    Ok(unfinished.len())
}

/// Reads facts and summaries.
pub(crate) fn find(engine: &dyn Engine) -> Result<Found, EngineError> {
    let mut found = Found::default();
    if let Some(value) = engine.get(key::SERIAL)? {
        match record::parse_serial(&value) {
            Ok(serial) => found.committed.learn_serial(serial),
            Err(damaged) => found.damage.push(format!("the commit's number: {damaged}")),
        }
    }
    find_facts(engine, &mut found)?;
    find_queues(engine, &mut found)?;
    Ok(found)
}

fn find_facts(engine: &dyn Engine, found: &mut Found) -> Result<(), EngineError> {
    let mut parts: BTreeMap<Vec<u8>, Parts> = BTreeMap::new();
    let (from, until) = key::facts();
    engine.scan(&from, &until, &mut |row, value| {
        let Some(Key::Fact { name, part }) = Key::parse(row) else {
            return ControlFlow::Continue(());
        };
        match record::parse_fact(&name, part, &value) {
            Ok((count, bytes)) => {
                let entry = parts.entry(name).or_default();
                entry.0 = count;
                entry.1.insert(part, bytes.to_vec());
            }
            Err(damaged) => found
                .damage
                .push(format!("fact {}: {damaged}", name.escape_ascii())),
        }
        ControlFlow::Continue(())
    })?;
    for (name, (count, parts)) in parts {
        if parts.len() == usize::from(count) {
            found.committed.learn_fact(name.clone(), count);
            found
                .facts
                .push((name, parts.into_values().flatten().collect()));
        } else {
            found.damage.push(format!(
                "fact {}: {} of {count} parts are left",
                name.escape_ascii(),
                parts.len()
            ));
        }
    }
    Ok(())
}

fn find_queues(engine: &dyn Engine, found: &mut Found) -> Result<(), EngineError> {
    let (from, until) = key::summaries();
    engine.scan(&from, &until, &mut |row, value| {
        if let Some(Key::Summary(queue)) = Key::parse(row) {
            match Summary::parse(queue, &value) {
                Ok(summary) => {
                    found.queues.push(recovered(queue, &summary));
                    found.committed.learn_queue(queue, summary);
                }
                Err(damaged) => found
                    .damage
                    .push(format!("counts of queue {}: {damaged}", queue.0)),
            }
        }
        ControlFlow::Continue(())
    })?;
    let (from, until) = key::all_dropped();
    engine.scan(&from, &until, &mut |row, _| {
        if let Some(Key::Dropped(queue)) = Key::parse(row) {
            found.committed.learn_dropped(queue);
        }
        ControlFlow::Continue(())
    })
}

fn recovered(queue: QueueId, summary: &Summary) -> Recovered {
    Recovered {
        queue,
        first: Sequence(summary.floor),
        // A watermark above it was left by messages that never reached the disk; their numbers are used up all the same.
        next: Sequence(summary.next.max(summary.delivered_below)),
        ready: summary.ready,
        bytes: summary.bytes,
        delivered: summary.delivered_below.checked_sub(1).map(Sequence),
    }
}

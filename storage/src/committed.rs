//! What is on disk, as far as it has to be known in memory: a few numbers a queue, never its messages.
//!
//! [`Committed::plan`] turns a group of work into the changes of one commit. It looks the touched rows up in the engine
//! instead of keeping an index, so memory does not follow the backlog. Settled messages at the head of a queue only move its
//! floor; settled ones in the middle are marked, one row of marks a row of messages; a row without live messages is deleted.
//! Relies on [`crate::record`] for every byte and on the caller to apply each plan before the next is made.

use std::collections::{HashMap, VecDeque};

use crate::engine::{Change, Engine, EngineError};
use crate::inbox::Group;
use crate::key;
use crate::pending::{Block, Taken, Work};
use crate::record::{self, FACT_PART_BYTES, INLINE_BYTES, PART_BYTES, Row, RowBuilder, Summary};
use crate::rows::rows_between;
use crate::settling::settle;
use crate::{QueueId, Sequence};

/// Dead rows deleted by one commit beside its own work.
const SWEEP_ROWS: usize = 256;

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct State {
    pub(crate) summary: Summary,
    /// The last sequence of the first row with live messages, where known.
    pub(crate) head: Option<Sequence>,
    /// Dead rows below the floor wait for their deletion.
    pub(crate) is_sweeping: bool,
    /// The summary on disk is a little behind, which matters only once something else is written.
    is_riding: bool,
}

/// Dead rows that still occupy the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sweep {
    /// Those of a queue below its floor.
    Below(QueueId),
    /// All of a dropped queue, which had so many rows with marks.
    Dropped(QueueId, u32),
}

/// Every queue's numbers, and what still has to be swept.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    queues: HashMap<QueueId, State>,
    sweeps: VecDeque<Sweep>,
    /// Queues whose summary goes out with the next commit that writes anything.
    riders: Vec<QueueId>,
    /// Facts whose value takes more than one row: how many.
    fact_parts: HashMap<Vec<u8>, u16>,
}

impl Committed {
    pub(crate) fn learn_queue(&mut self, queue: QueueId, summary: Summary) {
        let is_sweeping = summary.swept < summary.floor;
        if is_sweeping {
            self.sweeps.push_back(Sweep::Below(queue));
        }
        self.queues.insert(
            queue,
            State {
                summary,
                is_sweeping,
                ..State::default()
            },
        );
    }

    pub(crate) fn learn_dropped(&mut self, queue: QueueId, marked: u32) {
        self.sweeps.push_back(Sweep::Dropped(queue, marked));
    }

    pub(crate) fn learn_fact(&mut self, name: Vec<u8>, parts: u16) {
        if parts > 1 {
            self.fact_parts.insert(name, parts);
        }
    }

    pub(crate) fn has_to_sweep(&self) -> bool {
        !self.sweeps.is_empty()
    }

    /// Bytes of all live messages on disk.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.queues
            .values()
            .map(|state| state.summary.bytes + state.summary.ready * 8)
            .sum()
    }

    /// The changes that make a group of work true on disk, and some sweeping. Empty when the disk need not know.
    pub(crate) fn plan(
        &mut self,
        engine: &dyn Engine,
        group: &Group,
    ) -> Result<Vec<Change>, EngineError> {
        let mut changes = Vec::new();
        for (name, value) in &group.facts {
            self.plan_fact(name, value.as_deref(), &mut changes);
        }
        for (queue, taken) in &group.queues {
            self.plan_queue(engine, *queue, taken, &mut changes)?;
        }
        self.plan_sweep(engine, &mut changes)?;
        if !changes.is_empty() {
            self.plan_riders(&mut changes);
        }
        Ok(changes)
    }

    /// What would have ridden along with a later commit, for the last one.
    pub(crate) fn plan_riders(&mut self, changes: &mut Vec<Change>) {
        for queue in self.riders.drain(..) {
            if let Some(state) = self.queues.get_mut(&queue).filter(|state| state.is_riding) {
                state.is_riding = false;
                changes.push(Change::Put(
                    key::summary(queue),
                    state.summary.encode(queue),
                ));
            }
        }
    }

    fn plan_fact(&mut self, name: &[u8], value: Option<&[u8]>, changes: &mut Vec<Change>) {
        let before = self.fact_parts.remove(name).unwrap_or(1);
        let parts = value.map_or(0, |value| {
            u16::try_from(value.len().div_ceil(FACT_PART_BYTES).max(1)).unwrap_or(u16::MAX)
        });
        if let Some(value) = value {
            for part in 0..parts {
                let start = usize::from(part) * FACT_PART_BYTES;
                let bytes = &value[start..value.len().min(start + FACT_PART_BYTES)];
                changes.push(Change::Put(
                    key::fact(name, part),
                    record::fact_row(name, part, parts, bytes),
                ));
            }
            self.learn_fact(name.to_vec(), parts);
        }
        changes.extend((parts..before).map(|part| Change::Delete(key::fact(name, part))));
    }

    fn plan_queue(
        &mut self,
        engine: &dyn Engine,
        queue: QueueId,
        taken: &Taken,
        changes: &mut Vec<Change>,
    ) -> Result<(), EngineError> {
        let known = self.queues.get(&queue).copied();
        if taken.work.contains(&Work::Drop) {
            if let Some(state) = known {
                self.queues.remove(&queue);
                changes.push(Change::Delete(key::summary(queue)));
                changes.push(Change::Put(
                    key::dropped(queue),
                    record::dropped_row(state.summary.marked),
                ));
                self.sweeps
                    .push_back(Sweep::Dropped(queue, state.summary.marked));
            }
            return Ok(());
        }
        let mut state = known.unwrap_or_default();
        let made_before = changes.len();
        settle(engine, queue, &taken.work, (&mut state, changes))?;
        write_blocks(queue, &taken.blocks, (&mut state.summary, changes));
        let is_changed = changes.len() > made_before
            || known.is_some_and(|known| known.summary != state.summary);
        if known.is_none() && !is_changed {
            // Nothing of this queue ever reached the disk, so nothing has to be remembered there.
            return Ok(());
        }
        if state.is_sweeping && !known.is_some_and(|known| known.is_sweeping) {
            self.sweeps.push_back(Sweep::Below(queue));
        } else if !state.is_sweeping {
            state.summary.swept = state.summary.floor;
        }
        let seen = (state.summary.next, state.summary.delivered_below);
        state.summary.next = state.summary.next.max(taken.next);
        state.summary.delivered_below = state.summary.delivered_below.max(taken.delivered_below);
        if is_changed {
            state.is_riding = false;
            changes.push(Change::Put(
                key::summary(queue),
                state.summary.encode(queue),
            ));
        } else if seen != (state.summary.next, state.summary.delivered_below) && !state.is_riding {
            state.is_riding = true;
            self.riders.push(queue);
        }
        self.queues.insert(queue, state);
        Ok(())
    }

    fn plan_sweep(
        &mut self,
        engine: &dyn Engine,
        changes: &mut Vec<Change>,
    ) -> Result<(), EngineError> {
        let Some(&sweep) = self.sweeps.front() else {
            return Ok(());
        };
        let (queue, marked, range) = match sweep {
            Sweep::Dropped(queue, marked) => (queue, marked, (0, u64::MAX)),
            Sweep::Below(queue) => match self.queues.get(&queue) {
                Some(State { summary, .. }) => {
                    (queue, summary.marked, (summary.swept, summary.floor))
                }
                None => {
                    self.sweeps.pop_front();
                    return Ok(());
                }
            },
        };
        let until = if range.1 == u64::MAX {
            key::rows_end(queue)
        } else {
            key::row(queue, Sequence(range.1))
        };
        let rows = rows_between(
            engine,
            &key::row(queue, Sequence(range.0)),
            &until,
            SWEEP_ROWS,
        )?;
        let mut unmarked = 0;
        for (last, row) in &rows {
            let row = Row::parse(queue, *last, row);
            delete_row(queue, *last, row.as_ref().ok(), changes);
            if marked > 0 && engine.get(&key::marks(queue, *last))?.is_some() {
                changes.push(Change::Delete(key::marks(queue, *last)));
                unmarked += 1;
            }
        }
        let is_over = rows.len() < SWEEP_ROWS;
        match sweep {
            Sweep::Dropped(queue, _) if is_over => {
                changes.push(Change::Delete(key::dropped(queue)))
            }
            Sweep::Dropped(..) => {}
            Sweep::Below(queue) => {
                if let Some(state) = self.queues.get_mut(&queue) {
                    state.summary.marked = state.summary.marked.saturating_sub(unmarked);
                    state.summary.swept = if is_over {
                        range.1
                    } else {
                        rows.last().map_or(range.1, |(last, _)| last.0 + 1)
                    };
                    state.is_sweeping = !is_over;
                    replace_summary(queue, &state.summary, changes);
                }
            }
        }
        if is_over {
            self.sweeps.pop_front();
        }
        Ok(())
    }
}

/// Sets a queue's summary in a plan that may hold an older one of the same queue already.
fn replace_summary(queue: QueueId, summary: &Summary, changes: &mut Vec<Change>) {
    let name = key::summary(queue);
    changes.retain(|change| !matches!(change, Change::Put(key, _) if *key == name));
    changes.push(Change::Put(name, summary.encode(queue)));
}

/// Writes what is still alive of some blocks as rows.
fn write_blocks(
    queue: QueueId,
    blocks: &[Block],
    (summary, changes): (&mut Summary, &mut Vec<Change>),
) {
    let mut row = RowBuilder::new(queue);
    let put = |(last, value)| Change::Put(key::row(queue, last), value);
    for (sequence, body) in blocks.iter().flat_map(Block::live) {
        summary.ready += 1;
        summary.bytes += body.len() as u64;
        if body.len() <= INLINE_BYTES {
            changes.extend(row.push(sequence, body).map(put));
            continue;
        }
        changes.extend(row.take().map(put));
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        changes.push(put((sequence, record::big_row(queue, sequence, length))));
        for (part, bytes) in (0..).zip(body.chunks(PART_BYTES)) {
            changes.push(Change::Put(
                key::part(queue, sequence, part),
                record::part_row(queue, sequence, part, bytes),
            ));
        }
    }
    changes.extend(row.take().map(put));
}

/// Deletes a row and the parts that belong to it.
pub(crate) fn delete_row(
    queue: QueueId,
    last: Sequence,
    row: Option<&Row>,
    changes: &mut Vec<Change>,
) {
    changes.push(Change::Delete(key::row(queue, last)));
    if let Some(Row::Big { length }) = row {
        changes.extend(
            (0..record::parts_of(*length)).map(|part| Change::Delete(key::part(queue, last, part))),
        );
    }
}

//! What is on disk, as far as it has to be known in memory: a few numbers a queue, never its messages.
//!
//! [`Committed::plan`] turns a group of work into the changes of one commit. It looks the touched rows up in the engine
//! instead of keeping an index, so memory does not follow the backlog. Settled messages at the head of a queue only move its
//! floor; settled ones in the middle are marked, one row of marks a row of messages; a row without live messages is deleted.
//! Relies on [`crate::record`] for every byte and on the caller to apply each plan before the next is made.

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;

use crate::engine::{Change, Engine, EngineError};
use crate::inbox::Group;
use crate::key;
use crate::pending::{Block, Taken, Work};
use crate::record::{self, FACT_PART_BYTES, INLINE_BYTES, PART_BYTES, Row, RowBuilder, Summary};
use crate::rows::rows_between;
use crate::settling::settle;
use crate::steps::Steps;
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

impl State {
    /// Forgets everything that is on disk, where nothing above `through` is. The rows are deleted later, some with each commit.
    fn purge(&mut self, through: Sequence) {
        let summary = &mut self.summary;
        if through.0.saturating_add(1) >= summary.next {
            self.is_sweeping |= summary.ready > 0;
            summary.ready = 0;
            summary.bytes = 0;
            summary.floor = summary.floor.max(through.0.saturating_add(1));
            self.head = None;
        }
    }

    /// Writes the summary as it is now.
    pub(crate) fn write(&mut self, queue: QueueId, steps: &mut Steps) {
        if !self.is_sweeping {
            self.summary.swept = self.summary.floor;
        }
        self.is_riding = false;
        steps.push(Change::Put(key::summary(queue), self.summary.encode(queue)));
    }
}

/// Dead rows that still occupy the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sweep {
    /// Those of a queue below its floor.
    Below(QueueId),
    /// All of a dropped queue.
    Dropped(QueueId),
}

/// Every queue's numbers, and what still has to be swept.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    queues: HashMap<QueueId, State>,
    sweeps: VecDeque<Sweep>,
    /// The number of the last commit.
    serial: u64,
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

    pub(crate) fn learn_dropped(&mut self, queue: QueueId) {
        self.sweeps.push_back(Sweep::Dropped(queue));
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

    /// The steps that make a group of work true on disk, and some sweeping. Empty when the disk need not know.
    ///
    /// New messages come before settlements: a message that moves from one queue to another is never in neither.
    pub(crate) fn plan(
        &mut self,
        engine: &dyn Engine,
        group: &Group,
    ) -> Result<Steps, EngineError> {
        let mut steps = Steps::default();
        for (name, value) in &group.facts {
            self.plan_fact(name, value.as_deref(), &mut steps);
        }
        for (queue, taken) in &group.queues {
            self.plan_messages(*queue, taken, &mut steps);
        }
        for (queue, taken) in group
            .queues
            .iter()
            .filter(|(_, taken)| !taken.work.is_empty())
        {
            self.plan_work(engine, *queue, taken, &mut steps)?;
        }
        self.plan_sweep(engine, &mut steps)?;
        if !steps.is_empty() {
            self.plan_riders(&mut steps);
        }
        Ok(steps)
    }

    /// Gives a commit its number, in its last step.
    pub(crate) fn number(&mut self, steps: &mut Steps) {
        self.serial += 1;
        steps.push(Change::Put(
            key::SERIAL.to_vec(),
            record::serial_row(self.serial),
        ));
    }

    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    pub(crate) fn learn_serial(&mut self, serial: u64) {
        self.serial = serial;
    }

    /// What would have ridden along with a later commit, for the last one.
    pub(crate) fn plan_riders(&mut self, steps: &mut Steps) {
        for queue in self.riders.drain(..) {
            if let Some(state) = self.queues.get_mut(&queue).filter(|state| state.is_riding) {
                state.write(queue, steps);
            }
        }
    }

    fn plan_fact(&mut self, name: &[u8], value: Option<&[u8]>, steps: &mut Steps) {
        let before = self.fact_parts.remove(name).unwrap_or(1);
        let parts = value.map_or(0, |value| {
            u16::try_from(value.len().div_ceil(FACT_PART_BYTES).max(1)).unwrap_or(u16::MAX)
        });
        if let Some(value) = value {
            for part in 0..parts {
                let start = usize::from(part) * FACT_PART_BYTES;
                let bytes = &value[start..value.len().min(start + FACT_PART_BYTES)];
                let row = record::fact_row(name, part, parts, bytes);
                steps.push(Change::Put(key::fact(name, part), row));
            }
            self.learn_fact(name.to_vec(), parts);
        }
        (parts..before).for_each(|part| steps.push(Change::Delete(key::fact(name, part))));
        if steps.is_full() {
            steps.end();
        }
    }

    /// Purges what is on disk of a queue and adds its new messages.
    fn plan_messages(&mut self, queue: QueueId, taken: &Taken, steps: &mut Steps) {
        if taken.work.contains(&Work::Drop) {
            return;
        }
        let known = self.queues.get(&queue).copied();
        let mut state = known.unwrap_or_default();
        for work in &taken.work {
            if let Work::Purge(through) = work {
                state.purge(*through);
            }
        }
        if state.is_sweeping && !known.is_some_and(|known| known.is_sweeping) {
            self.sweeps.push_back(Sweep::Below(queue));
        }
        let has_rows = write_blocks(queue, &taken.blocks, &mut state, steps);
        let is_changed = has_rows || known.is_some_and(|known| known.summary != state.summary);
        if known.is_none() && !is_changed {
            // Nothing of this queue ever reached the disk, so nothing has to be remembered there.
            return;
        }
        let seen = (state.summary.next, state.summary.delivered_below);
        state.summary.next = state.summary.next.max(taken.next);
        state.summary.delivered_below = state.summary.delivered_below.max(taken.delivered_below);
        if is_changed {
            state.write(queue, steps);
        } else if seen != (state.summary.next, state.summary.delivered_below) && !state.is_riding {
            state.is_riding = true;
            self.riders.push(queue);
        }
        self.queues.insert(queue, state);
        if steps.is_full() {
            steps.end();
        }
    }

    /// Settles or drops what is on disk of a queue.
    fn plan_work(
        &mut self,
        engine: &dyn Engine,
        queue: QueueId,
        taken: &Taken,
        steps: &mut Steps,
    ) -> Result<(), EngineError> {
        if taken.work.contains(&Work::Drop) {
            if self.queues.remove(&queue).is_some() {
                steps.push(Change::Delete(key::summary(queue)));
                steps.push(Change::Put(key::dropped(queue), record::dropped_row()));
                self.sweeps.push_back(Sweep::Dropped(queue));
            }
        } else if let Some(state) = self.queues.get_mut(&queue) {
            settle(engine, queue, &taken.work, (state, steps))?;
        }
        if steps.is_full() {
            steps.end();
        }
        Ok(())
    }

    fn plan_sweep(&mut self, engine: &dyn Engine, steps: &mut Steps) -> Result<(), EngineError> {
        let is_over = match self.sweeps.front().copied() {
            Some(Sweep::Dropped(queue)) => {
                let (swept, _) = sweep_rows(engine, queue, (0, u64::MAX), 0, steps)?;
                let is_over = swept.is_none() && sweep_rest(engine, queue, steps)?;
                if is_over {
                    steps.push(Change::Delete(key::dropped(queue)));
                }
                is_over
            }
            Some(Sweep::Below(queue)) => match self.queues.get_mut(&queue) {
                Some(state) => {
                    let summary = &mut state.summary;
                    let range = (summary.swept, summary.floor);
                    let (swept, unmarked) =
                        sweep_rows(engine, queue, range, summary.marked, steps)?;
                    summary.marked = summary.marked.saturating_sub(unmarked);
                    summary.swept = swept.unwrap_or(summary.floor);
                    state.is_sweeping = swept.is_some();
                    state.write(queue, steps);
                    swept.is_none()
                }
                // It was dropped in the meantime, and that sweeps it whole.
                None => true,
            },
            None => false,
        };
        if is_over {
            self.sweeps.pop_front();
        }
        Ok(())
    }
}

/// Deletes the parts of a big message. Its row was deleted, and the message named as unfinished, in the same step before.
pub(crate) fn delete_parts(queue: QueueId, sequence: Sequence, length: u32, steps: &mut Steps) {
    for part in 0..record::parts_of(length) {
        steps.push(Change::Delete(key::part(queue, sequence, part)));
        if steps.is_full() {
            steps.end();
        }
    }
    steps.push(Change::Delete(key::unfinished(queue, sequence)));
}

/// Names a big message whose parts are being written or deleted, so that those which a crash leaves are found at the next opening.
pub(crate) fn begin_parts(queue: QueueId, sequence: Sequence, steps: &mut Steps) {
    steps.push(Change::Put(
        key::unfinished(queue, sequence),
        record::unfinished_row(),
    ));
}

/// Deletes some dead rows of a range. Returns up to where, or nothing when the range is clean, and how many had marks.
fn sweep_rows(
    engine: &dyn Engine,
    queue: QueueId,
    (from, floor): (u64, u64),
    marked: u32,
    steps: &mut Steps,
) -> Result<(Option<u64>, u32), EngineError> {
    let until = if floor == u64::MAX {
        key::rows_end(queue)
    } else {
        key::row(queue, Sequence(floor))
    };
    let rows = rows_between(engine, &key::row(queue, Sequence(from)), &until, SWEEP_ROWS)?;
    let mut unmarked = 0;
    for (last, row) in &rows {
        steps.push(Change::Delete(key::row(queue, *last)));
        if let Ok(Row::Big { length }) = Row::parse(queue, *last, row) {
            begin_parts(queue, *last, steps);
            delete_parts(queue, *last, length, steps);
        }
        if marked > 0 && engine.get(&key::marks(queue, *last))?.is_some() {
            steps.push(Change::Delete(key::marks(queue, *last)));
            unmarked += 1;
        }
        if steps.is_full() {
            // A row that is dead may go at any time.
            steps.end();
        }
    }
    let has_more = rows.len() == SWEEP_ROWS;
    Ok((
        rows.last()
            .filter(|_| has_more)
            .map(|(last, _)| last.0.saturating_add(1)),
        unmarked,
    ))
}

/// Deletes some of what a dropped queue has beside rows of messages: marks, and parts that a crash left without a row.
/// `true` when that was all.
fn sweep_rest(engine: &dyn Engine, queue: QueueId, steps: &mut Steps) -> Result<bool, EngineError> {
    let mut names = Vec::new();
    for (from, until) in [key::marks_of(queue), key::parts_of(queue)] {
        engine.scan(&from, &until, &mut |name, _| {
            names.push(name.to_vec());
            if names.len() < SWEEP_ROWS {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
    }
    let is_over = names.len() < SWEEP_ROWS;
    for name in names {
        steps.push(Change::Delete(name));
    }
    Ok(is_over)
}

/// Writes what is still alive of some blocks as rows, a summary with every step. `true` when there was anything.
fn write_blocks(queue: QueueId, blocks: &[Block], state: &mut State, steps: &mut Steps) -> bool {
    let mut row = RowBuilder::new(queue);
    let mut has_rows = false;
    let put = |steps: &mut Steps, row: Option<(Sequence, Vec<u8>)>| {
        if let Some((last, value)) = row {
            steps.push(Change::Put(key::row(queue, last), value));
        }
    };
    for (sequence, body) in blocks.iter().flat_map(Block::live) {
        has_rows = true;
        if steps.is_full() {
            put(steps, row.take());
            state.write(queue, steps);
            steps.end();
        }
        if body.len() <= INLINE_BYTES {
            put(steps, row.push(sequence, body));
        } else {
            put(steps, row.take());
            state.write(queue, steps);
            write_parts(queue, sequence, body, steps);
        }
        state.summary.ready += 1;
        state.summary.bytes += body.len() as u64;
        state.summary.next = sequence.0.saturating_add(1);
    }
    put(steps, row.take());
    has_rows
}

/// Writes a big message: its parts first, its head last, so that a head on disk has all of them.
fn write_parts(queue: QueueId, sequence: Sequence, body: &[u8], steps: &mut Steps) {
    begin_parts(queue, sequence, steps);
    for (part, bytes) in (0..).zip(body.chunks(PART_BYTES)) {
        let row = record::part_row(queue, sequence, part, bytes);
        steps.push(Change::Put(key::part(queue, sequence, part), row));
        if steps.is_full() {
            steps.end();
        }
    }
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    steps.push(Change::Put(
        key::row(queue, sequence),
        record::big_row(queue, sequence, length),
    ));
    steps.push(Change::Delete(key::unfinished(queue, sequence)));
}

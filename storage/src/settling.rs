//! Settles messages that are on disk: moves the floor, marks the middle, deletes what is empty.
//!
//! A range of settled messages is walked row by row, in order, with the rows as they are in the engine. Nothing else
//! changes rows while a plan is made, and each row is visited once a plan. Relies on [`crate::record`] for the rows.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::committed::{State, begin_parts, delete_parts};
use crate::engine::{Change, Engine, EngineError};
use crate::pending::{Work, joined};
use crate::record::{Entry, Marks, Row};
use crate::steps::Steps;
use crate::{QueueId, Sequence, key};

/// Rows fetched at a time.
const ROWS_AT_ONCE: usize = 64;

type Range = (Sequence, Sequence);

/// Applies settlements and purges to a queue's numbers and adds the changes that they need.
pub(crate) fn settle(
    engine: &dyn Engine,
    queue: QueueId,
    work: &[Work],
    (state, steps): (&mut State, &mut Steps),
) -> Result<(), EngineError> {
    let mut ranges = Vec::new();
    for work in work {
        match *work {
            Work::Settle(first, last) => ranges.push((first, last)),
            Work::Purge(through) => ranges.push((Sequence(state.summary.floor), through)),
            Work::Drop => {}
        }
    }
    if state.summary.ready == 0 {
        return Ok(());
    }
    let (dead, partless) = (Vec::new(), Vec::new());
    let mut settling = Settling {
        engine,
        queue,
        state,
        steps,
        dead,
        partless,
        is_changed: false,
    };
    settling.run(&joined(ranges))?;
    settling.finish();
    Ok(())
}

struct Settling<'a> {
    engine: &'a dyn Engine,
    queue: QueueId,
    state: &'a mut State,
    steps: &'a mut Steps,
    /// Rows deleted by this plan, which the engine still shows, in order.
    dead: Vec<Sequence>,
    /// Big messages whose row is deleted, and whose parts have to follow it.
    partless: Vec<(Sequence, u32)>,
    is_changed: bool,
}

impl Settling<'_> {
    fn run(&mut self, ranges: &[Range]) -> Result<(), EngineError> {
        let mut cursor = Sequence(0);
        let mut rest = ranges;
        while let Some((first, last)) = rest.first() {
            let from = cursor.max(*first).max(Sequence(self.state.summary.floor));
            if from > *last {
                rest = &rest[1..];
                continue;
            }
            let rows = self.rows_from(from, *last)?;
            let Some((reached, _)) = rows.last() else {
                break;
            };
            cursor = Sequence(reached.0.saturating_add(1));
            for (last, row) in &rows {
                match Row::parse(self.queue, *last, row) {
                    Ok(row) => self.settle_row(*last, &row, rest)?,
                    Err(damaged) => {
                        tracing::error!(
                            queue = self.queue.0,
                            row = last.0,
                            "{damaged}: the row is left as it is"
                        );
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes the numbers that have changed; the parts of what was deleted go after the rows.
    fn finish(self) {
        if self.is_changed {
            self.state.write(self.queue, self.steps);
        }
        if !self.partless.is_empty() {
            self.steps.end();
        }
        for (sequence, length) in self.partless {
            delete_parts(self.queue, sequence, length, self.steps);
        }
    }

    fn rows_from(
        &self,
        from: Sequence,
        end: Sequence,
    ) -> Result<Vec<(Sequence, Bytes)>, EngineError> {
        let mut rows = Vec::new();
        self.engine.scan(
            &key::row(self.queue, from),
            &key::rows_end(self.queue),
            &mut |found, value| {
                if let Some(key::Key::Row(_, last)) = key::Key::parse(found) {
                    rows.push((last, value));
                    if last >= end {
                        return ControlFlow::Break(());
                    }
                }
                if rows.len() < ROWS_AT_ONCE {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            },
        )?;
        Ok(rows)
    }
}

/// A row with one of its messages' states each.
struct Seen {
    entries: Vec<Entry>,
    marks: Marks,
    /// Settled now: indexes, in order.
    settled: Vec<usize>,
    /// The first that stays alive.
    first_left: Option<Sequence>,
}

impl Settling<'_> {
    fn settle_row(
        &mut self,
        last: Sequence,
        row: &Row,
        ranges: &[Range],
    ) -> Result<(), EngineError> {
        let seen = self.look_at(last, row, ranges)?;
        let Some(&newest) = seen.settled.last() else {
            return Ok(());
        };
        if self.steps.is_full() {
            self.state.write(self.queue, self.steps);
            self.steps.end();
        }
        self.is_changed = true;
        let summary = &mut self.state.summary;
        summary.ready = summary.ready.saturating_sub(seen.settled.len() as u64);
        let bytes: u64 = seen
            .settled
            .iter()
            .map(|index| u64::from(seen.entries[*index].length))
            .sum();
        summary.bytes = summary.bytes.saturating_sub(bytes);
        let had_marks = !seen.marks.is_empty();
        let is_head = self.head(last)? == Some(last);
        match seen.first_left {
            None => {
                self.steps.push(Change::Delete(key::row(self.queue, last)));
                self.dead.push(last);
                if let Row::Big { length } = row {
                    begin_parts(self.queue, last, self.steps);
                    self.partless.push((last, *length));
                }
                if had_marks {
                    self.steps
                        .push(Change::Delete(key::marks(self.queue, last)));
                    self.state.summary.marked -= 1;
                }
                if is_head {
                    self.state.summary.floor = last.0.saturating_add(1);
                    self.state.head = None;
                }
            }
            Some(first_left) if is_head && first_left > seen.entries[newest].sequence => {
                self.state.summary.floor = first_left.0;
            }
            Some(_) => {
                let mut marks = seen.marks;
                seen.settled.iter().for_each(|index| marks.set(*index));
                self.steps.push(Change::Put(
                    key::marks(self.queue, last),
                    marks.encode(self.queue, last),
                ));
                self.state.summary.marked += u32::from(!had_marks);
            }
        }
        Ok(())
    }

    fn look_at(&self, last: Sequence, row: &Row, ranges: &[Range]) -> Result<Seen, EngineError> {
        let entries = match row {
            Row::Messages(entries) => entries.clone(),
            Row::Big { length } => vec![Entry {
                sequence: last,
                start: 0,
                length: *length,
                sum: 0,
            }],
        };
        let marks = if self.state.summary.marked == 0 {
            Marks::default()
        } else {
            let value = self.engine.get(&key::marks(self.queue, last))?;
            value.map_or_else(Marks::default, |value| {
                Marks::parse(self.queue, last, &value).unwrap_or_default()
            })
        };
        let mut seen = Seen {
            entries,
            marks,
            settled: Vec::new(),
            first_left: None,
        };
        let mut rest = ranges;
        for (index, entry) in seen.entries.iter().enumerate() {
            if entry.sequence.0 < self.state.summary.floor || seen.marks.has(index) {
                continue;
            }
            rest = &rest[rest.partition_point(|(_, last)| *last < entry.sequence)..];
            if rest
                .first()
                .is_some_and(|(first, _)| *first <= entry.sequence)
            {
                seen.settled.push(index);
            } else {
                seen.first_left.get_or_insert(entry.sequence);
            }
        }
        Ok(seen)
    }

    /// The first row with a live message, as far as this plan has come.
    fn head(&mut self, here: Sequence) -> Result<Option<Sequence>, EngineError> {
        if self.state.head.is_none() {
            let floor = Sequence(self.state.summary.floor);
            let mut head = None;
            self.engine.scan(
                &key::row(self.queue, floor),
                &key::rows_end(self.queue),
                &mut |found, _| {
                    head = match key::Key::parse(found) {
                        Some(key::Key::Row(_, last)) if self.dead.binary_search(&last).is_err() => {
                            Some(last)
                        }
                        _ => None,
                    };
                    if head.is_some() {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                },
            )?;
            // A row that was only planned is not visible, and cannot be settled either.
            self.state.head = head;
        }
        debug_assert!(
            self.state.head.is_none_or(|head| head <= here),
            "a head behind a row with live messages"
        );
        Ok(self.state.head)
    }
}

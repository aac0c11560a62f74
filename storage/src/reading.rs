//! Reads slices of a queue: rows from disk, then what still waits for its commit, without gap or repetition.
//!
//! The waiting messages are copied out first and the disk is read after that: a message that is committed in between is
//! seen twice and counted once; in the other order it could be missed. Relies on sequences for telling that it is the same.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::engine::{Engine, EngineError};
use crate::error::ReadError;
use crate::gap::end_of_gap;
use crate::key::{self, Key};
use crate::pending::Look;
use crate::record::{self, Damaged, Entry, Marks, Row, Summary};
use crate::{QueueId, Sequence};

/// What a message counts beside its bytes, so that a slice of empty ones is bounded too.
const MESSAGE_BYTES: usize = 16;

/// Messages in order, up to about `limit_bytes` and at least one if there is any.
pub(crate) fn read(
    engine: &dyn Engine,
    queue: QueueId,
    (from, limit_bytes): (Sequence, usize),
    look: Look,
) -> Result<Vec<(Sequence, Bytes)>, ReadError> {
    let mut slice = Slice {
        engine,
        queue,
        limit_bytes,
        bytes: 0,
        look: &look,
        messages: Vec::new(),
    };
    let from = from.max(Sequence(look.gone_below));
    let outcome = match slice.floor()? {
        Some(floor) => slice.read_rows(from.max(floor)),
        None => Ok(()),
    };
    let (mut messages, mut bytes) = (slice.messages, slice.bytes);
    if let Err(error) = outcome {
        // What was read before the damage is good, and the damage comes up again at the next call.
        return if messages.is_empty() {
            Err(error)
        } else {
            Ok(messages)
        };
    }
    let after = messages
        .last()
        .map_or(from, |(last, _)| Sequence(last.0.saturating_add(1)));
    for (sequence, body) in look.waiting {
        if bytes >= limit_bytes && !messages.is_empty() {
            break;
        }
        if sequence >= after {
            bytes += body.len() + MESSAGE_BYTES;
            messages.push((sequence, Bytes::from(body)));
        }
    }
    Ok(messages)
}

struct Slice<'a> {
    engine: &'a dyn Engine,
    queue: QueueId,
    limit_bytes: usize,
    bytes: usize,
    look: &'a Look,
    messages: Vec<(Sequence, Bytes)>,
}

/// Why a row gave no messages.
enum Trouble {
    Damage,
    Engine(EngineError),
}

impl From<Damaged> for Trouble {
    fn from(_: Damaged) -> Self {
        Self::Damage
    }
}

impl From<EngineError> for Trouble {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl Slice<'_> {
    /// The queue's floor on disk; `None` when nothing on disk belongs to it, or no longer.
    fn floor(&self) -> Result<Option<Sequence>, ReadError> {
        let value = self
            .engine
            .get(&key::summary(self.queue))
            .map_err(from_engine)?;
        // A damaged summary hides nothing: every row is looked at.
        Ok(value.map(|value| {
            Sequence(Summary::parse(self.queue, &value).map_or(0, |summary| summary.floor))
        }))
    }

    fn read_rows(&mut self, from: Sequence) -> Result<(), ReadError> {
        let mut outcome = Ok(());
        let mut next = from;
        let (start, end) = (key::row(self.queue, from), key::rows_end(self.queue));
        let scanned = self.engine.scan(&start, &end, &mut |found, value| {
            let Some(Key::Row(_, last)) = Key::parse(found) else {
                return ControlFlow::Continue(());
            };
            if let Err(trouble) = self.add_row(from, last, &value) {
                let first = self.messages.last().map_or(next, |(seen, _)| {
                    next.max(Sequence(seen.0.saturating_add(1)))
                });
                outcome = Err(match trouble {
                    Trouble::Damage => ReadError::Damaged {
                        queue: self.queue.0,
                        first: first.0,
                        next: last.0.saturating_add(1),
                    },
                    Trouble::Engine(error) => from_engine(error),
                });
                return ControlFlow::Break(());
            }
            next = Sequence(last.0.saturating_add(1));
            if self.bytes >= self.limit_bytes {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        match scanned {
            Ok(()) => outcome,
            Err(EngineError::NoRoom) => Err(ReadError::NoRoom),
            Err(EngineError::Broken(reason)) => {
                tracing::error!(
                    queue = self.queue.0,
                    from = next.0,
                    "rows cannot be read: {reason}"
                );
                let next_readable = self.next_readable(next);
                Err(ReadError::Damaged {
                    queue: self.queue.0,
                    first: next.0,
                    next: next_readable,
                })
            }
        }
    }

    /// The lowest sequence after damage from which the engine reads on.
    fn next_readable(&self, from: Sequence) -> u64 {
        let end = key::rows_end(self.queue);
        let reads = |at: u64| {
            let start = key::row(self.queue, Sequence(at));
            self.engine
                .scan(&start, &end, &mut |_, _| ControlFlow::Break(()))
                .is_ok()
        };
        // Behind the last sequence of all there is nothing to be damaged.
        end_of_gap(from.0.into(), |at| u64::try_from(at).map_or(true, reads))
            .and_then(|at| u64::try_from(at).ok())
            .unwrap_or(u64::MAX)
    }

    /// Adds what is alive of a row.
    fn add_row(&mut self, from: Sequence, last: Sequence, value: &Bytes) -> Result<(), Trouble> {
        match Row::parse(self.queue, last, value)? {
            Row::Messages(entries) => {
                let marks = match self.engine.get(&key::marks(self.queue, last))? {
                    Some(marks) => Marks::parse(self.queue, last, &marks)?,
                    // Marks go together with their row: without them, only a row that still stands never had any.
                    None if self.is_gone(last)? => return Ok(()),
                    None => Marks::default(),
                };
                let live = entries
                    .iter()
                    .enumerate()
                    .filter(|(index, entry)| entry.sequence >= from && !marks.has(*index));
                self.add_entries(live.map(|(_, entry)| entry), value)
            }
            Row::Big { length } if last >= from && self.look.is_live(last) => {
                match self.join_parts(last, length) {
                    Ok(body) => {
                        self.bytes += body.len() + MESSAGE_BYTES;
                        self.messages.push((last, body));
                        Ok(())
                    }
                    Err(Trouble::Damage) if self.is_gone(last)? => Ok(()),
                    Err(trouble) => Err(trouble),
                }
            }
            Row::Big { .. } => Ok(()),
        }
    }

    fn add_entries<'e>(
        &mut self,
        entries: impl Iterator<Item = &'e Entry>,
        value: &Bytes,
    ) -> Result<(), Trouble> {
        for entry in entries {
            if !self.look.is_live(entry.sequence) {
                continue;
            }
            if self.bytes >= self.limit_bytes && !self.messages.is_empty() {
                break;
            }
            let body = entry.body(self.queue, value)?;
            self.bytes += body.len() + MESSAGE_BYTES;
            self.messages.push((entry.sequence, value.slice_ref(body)));
        }
        Ok(())
    }

    fn is_gone(&self, last: Sequence) -> Result<bool, Trouble> {
        Ok(self.engine.get(&key::row(self.queue, last))?.is_none())
    }

    fn join_parts(&self, sequence: Sequence, length: u32) -> Result<Bytes, Trouble> {
        let mut body = Vec::with_capacity(length as usize);
        for part in 0..record::parts_of(length) {
            let value = self
                .engine
                .get(&key::part(self.queue, sequence, part))?
                .ok_or(Trouble::Damage)?;
            body.extend_from_slice(record::parse_part(self.queue, sequence, part, &value)?);
        }
        if body.len() == length as usize {
            Ok(Bytes::from(body))
        } else {
            Err(Trouble::Damage)
        }
    }
}

fn from_engine(error: EngineError) -> ReadError {
    match error {
        EngineError::NoRoom => ReadError::NoRoom,
        EngineError::Broken(reason) => ReadError::Stopped(crate::Stopped::because(reason)),
    }
}

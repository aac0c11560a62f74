//! The thread that writes: it gathers a group, writes it as one frame, and announces it.
//!
//! While one commit is synced the next group gathers, so confirmed publishing needs no timer.
//! Unconfirmed messages gather for 5 ms and then wait another 5 ms, in which a consumer that keeps
//! up still takes them off; settlements alone wait 50 ms. A full disk makes it wait; a failed write
//! goes on once in a new segment and then stops the store for good.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::checkpoint::Keeper;
use crate::compaction::Compaction;
use crate::frame::{BLOCK, FrameBuilder, GroupKind, LARGE_BYTES, to_usize};
use crate::inbox::{Demand, Group, Inbox};
use crate::index::{Index, lock};
use crate::log::{Log, LogError, Purpose};
use crate::pending::{Block, Taken, Work, joined};
use crate::terms::{Options, Progress, QueueId, Sequence, Stopped};

/// How long unconfirmed messages gather, and how long they wait after that.
const GATHER: Duration = Duration::from_millis(5);
/// How long settlements wait for company.
const SETTLE_LATEST: Duration = Duration::from_millis(50);
/// How often the free space is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long the thread rests when nothing comes.
const IDLE: Duration = Duration::from_hours(1);

/// What the committer owns.
pub(crate) struct Committer {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) index: Arc<Mutex<Index>>,
    pub(crate) log: Log,
    pub(crate) keeper: Keeper,
    pub(crate) options: Options,
    pub(crate) compaction: Compaction,
    pub(crate) frame: FrameBuilder,
    /// Queues with messages in the frame, and their next sequence behind it.
    pub(crate) written: HashMap<u64, u64>,
    /// Number of the last commit.
    pub(crate) commit: u64,
    /// The group that was closed and waits, and until when.
    pub(crate) ripening: Option<(u64, Instant)>,
    /// A segment was begun since the opening.
    pub(crate) has_begun: bool,
    /// The caller knows that there is no room.
    pub(crate) is_short: bool,
    pub(crate) next_look: Instant,
    /// A frame was written since the last look at the disk: the disk is looked at once more, also
    /// when nothing follows.
    pub(crate) has_to_look: bool,
    pub(crate) next_checkpoint: Instant,
}

/// Why the committer woke up.
enum Wake {
    Close,
    Now,
    /// A gather window is over.
    Tick,
    /// Nothing is asked for, but there is something to tidy up.
    Tidy,
    /// It is time to look at the disk.
    Look,
}

/// How much of a group went into the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Whole,
    Part,
    Nothing,
}

impl Committer {
    /// Runs until the store is closed or fails.
    pub(crate) fn run(mut self) -> Result<(), Stopped> {
        self.keeper.prepare();
        let outcome = self.serve();
        match &outcome {
            Ok(()) => self.inbox.end(),
            Err(stopped) => {
                tracing::error!("{stopped}");
                self.inbox.stop(stopped);
            }
        }
        if self.has_changes() && outcome.is_ok() {
            self.keeper.close(&self.index, Some(self.log.position()));
        } else {
            self.keeper.close(&self.index, None);
        }
        outcome
    }

    fn serve(&mut self) -> Result<(), Stopped> {
        loop {
            match self.wait() {
                Wake::Close => return self.commit_all(),
                Wake::Tick => self.ripen()?,
                Wake::Now => self.commit_all()?,
                Wake::Tidy => self.commit(0, Group::default())?,
                Wake::Look => {}
            }
            self.tidy();
        }
    }

    /// Waits until something has to be done, and says what.
    fn wait(&self) -> Wake {
        let mut known = Demand::Never;
        let mut since = Instant::now();
        loop {
            let due = match known {
                Demand::Never if self.compaction.is_under_way() => return Wake::Tidy,
                Demand::Never if self.is_short || !self.log.slots.is_prepared() => {
                    since + LOOK_EVERY
                }
                Demand::Never if self.has_to_look => self.next_look.max(since),
                Demand::Never if self.has_changes() => self.next_checkpoint.max(since),
                Demand::Never => since + IDLE,
                Demand::Later => since + SETTLE_LATEST,
                Demand::Soon => since + GATHER,
                Demand::Now => return Wake::Now,
                Demand::Close => return Wake::Close,
            };
            let ripe = self.ripening.map(|(_, ripe)| ripe);
            let until = ripe.map_or(due, |ripe| ripe.min(due));
            let risen = self.inbox.bell.wait(known, until);
            if risen > known {
                if known == Demand::Never {
                    since = Instant::now();
                }
                known = risen;
                continue;
            }
            return match known {
                Demand::Never if ripe.is_none() => Wake::Look,
                Demand::Later if ripe.is_none() => Wake::Now,
                _ => Wake::Tick,
            };
        }
    }

    /// One tick: commits the group that has waited and lets the one that gathered wait.
    fn ripen(&mut self) -> Result<(), Stopped> {
        if let Some((ripe, _)) = self.ripening.take() {
            let group = self.inbox.take(ripe);
            self.commit(ripe, group)?;
        }
        if self.inbox.bell.demand() > Demand::Never {
            let (closed, demand) = self.inbox.cut();
            if demand >= Demand::Now {
                // Somebody asked between the tick and the cut, and waits.
                let group = self.inbox.take(closed);
                return self.commit(closed, group);
            }
            self.ripening = Some((closed, Instant::now() + GATHER));
        }
        Ok(())
    }

    fn commit_all(&mut self) -> Result<(), Stopped> {
        self.ripening = None;
        let (through, _) = self.inbox.cut();
        let group = self.inbox.take(through);
        self.commit(through, group)
    }

    /// Writes a group as one frame, with a piece of compaction, and announces it.
    ///
    /// While there is no room for its messages later groups wait behind it. What frees space is
    /// written meanwhile.
    fn commit(&mut self, through: u64, group: Group) -> Result<(), Stopped> {
        let mut groups = VecDeque::from([(through, group)]);
        let (mut relieved, mut is_last_try) = (0_usize, false);
        while let Some((_, group)) = groups.front() {
            match self.try_commit(group)? {
                Written::Whole => {
                    (relieved, is_last_try) = (0, false);
                    if let Some((through, group)) = groups.pop_front()
                        && through > 0
                    {
                        self.inbox.finish(through, group);
                    }
                }
                Written::Part => (relieved, is_last_try) = (0, false),
                Written::Nothing if is_last_try => {
                    return Err(Stopped::because(
                        "it was closed while the disk was full: what was not confirmed is gone",
                    ));
                }
                Written::Nothing => {
                    let is_due = relieved < groups.len()
                        || self.compaction.is_under_way()
                        || self.log.should_seal();
                    if is_due && self.relieve(&groups)? {
                        relieved = groups.len();
                    }
                    if self.wait_for_room(&mut groups) == Demand::Close {
                        self.relieve(&groups)?;
                        is_last_try = true;
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes a group, or a part of one that is long and may be cut apart.
    fn try_commit(&mut self, group: &Group) -> Result<Written, Stopped> {
        self.frame.clear();
        self.written.clear();
        let (added, purpose) = self.add_messages(group)?;
        if added == Written::Nothing {
            self.log.release_bodies();
            lock(&self.index).may_free = true;
            return Ok(added);
        }
        let may_compact = !self.is_short || group.queues.is_empty();
        if may_compact && self.compaction.is_under_way() {
            self.compaction.add_piece(&self.index, &mut self.frame);
        }
        if added == Written::Whole {
            for (queue, taken) in &group.queues {
                self.add_settlements(*queue, taken);
            }
        }
        if self.frame.is_empty() || self.write_frame(purpose)? {
            Ok(added)
        } else {
            Ok(Written::Nothing)
        }
    }

    /// Writes what frees space, of those groups that may be cut apart; `false` when there is no
    /// room even for that. Begins a new segment where the one being written is nearly full: only
    /// what is sealed can be emptied.
    fn relieve(&mut self, groups: &VecDeque<(u64, Group)>) -> Result<bool, Stopped> {
        let must_write = self.log.should_seal();
        if must_write {
            self.log.seal();
        }
        self.frame.clear();
        self.written.clear();
        if self.compaction.is_under_way() {
            self.compaction.add_piece(&self.index, &mut self.frame);
        }
        for (_, group) in groups.iter().filter(|(_, group)| !group.is_whole) {
            for (key, _) in group.facts.iter().filter(|(_, value)| value.is_none()) {
                self.frame.remove(key);
            }
            for (queue, taken) in &group.queues {
                self.add_settlements(*queue, taken);
            }
        }
        if must_write || !self.frame.is_empty() {
            self.write_frame(Purpose::Relief)
        } else {
            Ok(true)
        }
    }

    /// Puts definitions and messages that are not written yet into the frame; large bodies are
    /// written at once.
    fn add_messages(&mut self, group: &Group) -> Result<(Written, Purpose), Stopped> {
        let mut purpose = Purpose::Relief;
        for (key, value) in &group.facts {
            if let Some(value) = value {
                purpose = Purpose::Messages;
                self.frame.put(key, value);
            } else {
                self.frame.remove(key);
            }
        }
        for (queue, taken) in &group.queues {
            if taken.blocks.is_empty() || taken.work.contains(&Work::Drop) {
                continue;
            }
            let mut next = self.known(*queue).unwrap_or(0);
            for block in &taken.blocks {
                let room = if group.is_whole {
                    usize::MAX
                } else {
                    self.part_bytes().saturating_sub(self.frame.body().len())
                };
                if block.live().all(|(sequence, _)| sequence.0 < next) {
                    continue;
                }
                if room == 0 {
                    return Ok((Written::Part, purpose));
                }
                purpose = Purpose::Messages;
                let added = self.add_block((queue.0, &mut next), block, room)?;
                self.written.insert(queue.0, next);
                if added != Written::Whole {
                    return Ok((added, purpose));
                }
            }
        }
        Ok((Written::Whole, purpose))
    }

    /// Bytes of messages after which a frame ends, unless it must not be cut apart.
    fn part_bytes(&self) -> usize {
        let whole = self.options.segment_bytes / 2;
        // On a full disk the rest of the segment may be all that there is.
        let rest = self.log.rest().saturating_sub(2 * BLOCK);
        to_usize(if self.is_short && rest >= BLOCK {
            whole.min(rest)
        } else {
            whole
        })
    }

    /// The first sequence of a queue that the log does not have.
    fn known(&self, queue: QueueId) -> Option<u64> {
        let index = lock(&self.index);
        index.queues.get(&queue.0).map(|queue| queue.next)
    }

    /// Adds the messages of a block from `next` on that have room. A large one is alone in its
    /// block, or its last.
    fn add_block(
        &mut self,
        (queue, next): (u64, &mut u64),
        block: &Block,
        room: usize,
    ) -> Result<Written, Stopped> {
        let from = *next;
        let messages = || {
            let numbered = block.live().map(|(sequence, body)| (sequence.0, body));
            numbered.filter(move |(sequence, _)| *sequence >= from)
        };
        let small = messages()
            .take_while(|(_, body)| body.len() <= LARGE_BYTES)
            .scan(room, |room, (sequence, body)| {
                let has_room = *room > 0;
                *room = room.saturating_sub(body.len());
                has_room.then_some((sequence, body))
            });
        self.frame
            .messages(GroupKind::Messages, (queue, from), small.clone());
        if let Some((last, _)) = small.last() {
            *next = last.saturating_add(1);
        }
        let behind = *next;
        for (sequence, body) in messages().skip_while(|(sequence, _)| *sequence < behind) {
            if body.len() <= LARGE_BYTES {
                return Ok(Written::Part);
            }
            let file = match self.log.write_body((queue, sequence), body, &self.index) {
                Ok(file) => file,
                Err(LogError::NoRoom) => return Ok(Written::Nothing),
                Err(LogError::Failed(stopped)) => return Err(stopped),
            };
            let length = body.len() as u64;
            self.frame.large((queue, *next), sequence, file, length);
            *next = sequence.saturating_add(1);
        }
        Ok(Written::Whole)
    }

    /// Puts what happened to older messages into the frame, no further than what the log has of the
    /// queue.
    fn add_settlements(&mut self, queue: QueueId, taken: &Taken) {
        let (known, delivered) = lock(&self.index)
            .queues
            .get(&queue.0)
            .map_or((None, 0), |queue| (Some(queue.next), queue.delivered_below));
        let written = self.written.get(&queue.0).copied();
        if taken.work.contains(&Work::Drop) {
            if known.is_some() {
                self.frame.drop_queue(queue.0);
            }
            return;
        }
        let Some(next) = known.max(written) else {
            return;
        };
        let Some(last) = next.checked_sub(1) else {
            return;
        };
        let mut ranges = Vec::new();
        for work in &taken.work {
            match work {
                Work::Settle(from, to) if from.0 <= last => {
                    ranges.push((*from, Sequence(to.0.min(last))));
                }
                Work::Purge(through) => self.frame.purge(queue.0, through.0.min(last)),
                Work::Settle(..) | Work::Drop => {}
            }
        }
        if !ranges.is_empty() {
            let ranges: Vec<(u64, u64)> = joined(ranges)
                .into_iter()
                .map(|(first, last)| (first.0, last.0))
                .collect();
            self.frame.settles(queue.0, &ranges);
        }
        if taken.delivered_below > delivered {
            self.frame.numbers(queue.0, next, taken.delivered_below);
        }
    }

    /// Writes the frame and applies it to the index; `false` when there is no room.
    fn write_frame(&mut self, purpose: Purpose) -> Result<bool, Stopped> {
        let commit = self.commit + 1;
        let written = self
            .log
            .write(&mut self.frame, commit, purpose, &self.index);
        let (place, is_new_segment) = match written {
            Ok(written) => written,
            Err(LogError::NoRoom) => return Ok(false),
            Err(LogError::Failed(stopped)) => return Err(stopped),
        };
        self.commit = commit;
        self.has_to_look = true;
        let applied = lock(&self.index).apply(self.frame.body(), place);
        applied.map_err(|malformed| Stopped::because(malformed.to_string()))?;
        self.log.release_bodies();
        // The first segment after an opening seals nothing that the index lacks.
        if is_new_segment && std::mem::replace(&mut self.has_begun, true) {
            self.next_checkpoint = Instant::now();
        }
        Ok(true)
    }

    /// Waits until the disk may have room again, and takes in what comes meanwhile.
    fn wait_for_room(&mut self, groups: &mut VecDeque<(u64, Group)>) -> Demand {
        self.tell_shortage();
        self.keeper.prepare();
        let demand = self.inbox.bell.rest(SETTLE_LATEST);
        if demand > Demand::Never {
            let (through, _) = self.inbox.cut();
            groups.push_back((through, self.inbox.take(through)));
        }
        self.free_dead();
        demand
    }

    fn tell_shortage(&mut self) {
        if !self.is_short {
            self.is_short = true;
            tracing::warn!("the store's disk is nearly full: publishers have to wait");
            self.inbox.announce(Progress::NoRoom);
        }
    }

    /// What is done between commits: dead segments, checkpoints, spares, the disk's room. None of
    /// it can stop the store.
    fn tidy(&mut self) {
        self.free_dead();
        let now = Instant::now();
        if self.has_changes() && now >= self.next_checkpoint {
            let is_begun = self.keeper.checkpoint(&self.index, self.log.position());
            self.next_checkpoint = now
                + if is_begun {
                    self.options.checkpoint_every
                } else {
                    LOOK_EVERY
                };
        }
        if now >= self.next_look {
            self.next_look = now + LOOK_EVERY;
            self.look_at_disk();
        }
    }

    fn has_changes(&self) -> bool {
        self.commit > lock(&self.index).checkpoint
    }

    /// Hands dead segments to the keeper, and looks for one to compact.
    fn free_dead(&mut self) {
        let active = self.log.active();
        let mut index = lock(&self.index);
        if index.may_free {
            let dead = index.take_dead(active);
            if !dead.is_empty() {
                let kept = self.keeper.free(dead);
                index.may_free |= !kept.is_empty();
                index.segments.extend(kept);
            }
            // On a full disk every byte counts.
            let from = if self.is_short {
                0
            } else {
                self.options.compact_from_bytes
            };
            self.compaction.choose(&index, active, from);
        }
        drop(index);
        if !self.log.slots.is_prepared() {
            self.keeper.prepare();
        }
    }

    fn look_at_disk(&mut self) {
        self.has_to_look = false;
        let least = self.options.least_free_bytes;
        let slots = &self.log.slots;
        let free = slots.disk.free_bytes(&slots.folder);
        // What messages may still use; the reserve for settlements counts as kept free, up to a
        // half of it.
        let room = free.saturating_add(slots.next_bytes() + self.log.rest());
        let least = least - slots.reserved_bytes().min(least / 2);
        if room < least {
            self.tell_shortage();
        } else if self.is_short && room >= least.saturating_add(least / 4) && slots.is_prepared() {
            self.is_short = false;
            tracing::info!("the store's disk has room again");
            self.inbox.announce(Progress::Room);
        }
    }
}

/// Runs the committer on a thread of its own.
pub(crate) fn spawn(
    committer: Committer,
) -> std::io::Result<std::thread::JoinHandle<Result<(), Stopped>>> {
    std::thread::Builder::new()
        .name("store".to_owned())
        .spawn(move || committer.run())
}

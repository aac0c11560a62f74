//! The one thread that writes: it gathers, commits, tells.
//!
//! While one commit is being synced the next group gathers, so confirmed publishing needs no timer. Unconfirmed messages
//! gather for 5 ms and then ripen for another 5 ms, in which a consumer that keeps up still takes them off; settlements
//! alone wait 50 ms. A failed commit stops the store for good; a full disk only until there is room.
//! Relies on the inbox for consistent cuts and on [`Committed`] for what to write.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::bell::Demand;
use crate::committed::Committed;
use crate::disk::{Disk, Room, Slot, close};
use crate::engine::EngineError;
use crate::error::Stopped;
use crate::inbox::{Group, Inbox};
use crate::steps::Steps;
use crate::terms::Progress;

/// How long unconfirmed messages gather, and how long they ripen after that.
const GATHER: Duration = Duration::from_millis(5);
/// How long settlements wait for company.
const SETTLE_LATEST: Duration = Duration::from_millis(50);
/// How often the free space is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// After how long without work the store sees to its own affairs.
const IDLE: Duration = Duration::from_millis(500);
/// After how many bytes of rows the engine is given the time to make a snapshot.
const REFRESH_BYTES: u64 = 64 << 20;
/// And how long it rests after that, when still nothing comes.
const TIDY: Duration = Duration::from_hours(1);

/// What the committer owns.
pub(crate) struct Committer {
    inbox: Arc<Inbox>,
    engine: Arc<Slot>,
    disk: Box<dyn Disk>,
    committed: Committed,
    /// The group that was cut and ripens, and until when.
    ripening: Option<(u64, Instant)>,
    /// The caller has been told that there is no room.
    is_short: bool,
    /// Bytes of rows written since the engine was opened.
    unsnapshotted: u64,
    /// The store has seen to its own affairs since the last work.
    is_tidy: bool,
    /// The first look at the disk has been made.
    has_settled_in: bool,
    /// The disk is looked at now and then, not with every commit.
    next_look: Instant,
}

impl Committer {
    pub(crate) fn new(
        inbox: Arc<Inbox>,
        engine: Arc<Slot>,
        disk: Box<dyn Disk>,
        committed: Committed,
    ) -> Self {
        Self {
            inbox,
            engine,
            disk,
            committed,
            ripening: None,
            is_short: false,
            unsnapshotted: 0,
            is_tidy: false,
            has_settled_in: false,
            next_look: Instant::now() + LOOK_EVERY,
        }
    }

    /// Runs until the store is closed or fails.
    pub(crate) fn run(mut self) -> Result<(), Stopped> {
        let outcome = self.serve();
        match &outcome {
            Ok(()) => {
                self.look_at_disk();
                self.disk.witness(self.committed.serial());
                self.inbox.end();
            }
            Err(stopped) => {
                tracing::error!("{stopped}");
                self.disk.suspect();
                self.inbox.stop(stopped);
            }
        }
        outcome
    }

    fn serve(&mut self) -> Result<(), Stopped> {
        loop {
            let wake = self.wait();
            self.is_tidy = matches!(wake, Wake::Idle);
            match wake {
                Wake::Close => return self.commit_last(),
                Wake::Tick => self.ripen()?,
                Wake::Now => self.commit_all()?,
                Wake::Sweep => self.commit(0, Group::default())?,
                Wake::Idle => self.tidy()?,
            }
            if self.inbox.take_suspicion() {
                self.disk.suspect();
            }
            if Instant::now() >= self.next_look {
                self.look_at_disk();
            }
        }
    }

    /// Waits until something has to be done, and says what.
    fn wait(&self) -> Wake {
        let mut known = Demand::Never;
        let mut since = Instant::now();
        loop {
            let due = match known {
                Demand::Never if self.committed.has_to_sweep() => return Wake::Sweep,
                Demand::Never if self.is_short || !self.has_settled_in => since + LOOK_EVERY,
                Demand::Never if self.is_tidy => since + TIDY,
                Demand::Never => since + IDLE,
                Demand::Later => since + SETTLE_LATEST,
                Demand::Soon => since + GATHER,
                Demand::Now => return Wake::Now,
                Demand::Close => return Wake::Close,
            };
            let ripe = self.ripening.map(|(_, ripe)| ripe);
            let risen = self
                .inbox
                .bell
                .wait(known, ripe.map_or(due, |ripe| ripe.min(due)));
            if risen > known {
                if known == Demand::Never {
                    since = Instant::now();
                }
                known = risen;
                continue;
            }
            return match known {
                Demand::Never if ripe.is_none() => Wake::Idle,
                Demand::Later if ripe.is_none() => Wake::Now,
                _ => Wake::Tick,
            };
        }
    }

    /// One tick: commits the group that has ripened and lets the one that gathered ripen.
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

    fn commit_last(&mut self) -> Result<(), Stopped> {
        self.commit_all()?;
        let mut steps = Steps::default();
        self.committed.plan_riders(&mut steps);
        self.write(steps)
    }

    fn commit(&mut self, through: u64, group: Group) -> Result<(), Stopped> {
        let broken = |error: EngineError| Stopped::because(error.to_string());
        let engine = self.engine.get().map_err(broken)?;
        let steps = self
            .committed
            .plan(engine.as_ref(), &group)
            .map_err(broken)?;
        drop(engine);
        self.write(steps)?;
        if through > 0 {
            self.inbox.finish(through, group);
        }
        Ok(())
    }

    /// Writes a plan, however long a full disk makes it wait.
    fn write(&mut self, steps: Steps) -> Result<(), Stopped> {
        if steps.is_empty() {
            return Ok(());
        }
        let mut steps = steps;
        self.committed.number(&mut steps);
        let bytes = steps.bytes();
        let steps = steps.finish();
        loop {
            if self.disk.room() == Room::None {
                self.wait_for_room()?;
            }
            let engine = self.engine.get();
            match engine.and_then(|engine| engine.commit(&steps).map(|()| engine.disk_bytes())) {
                Ok(disk_bytes) => {
                    self.unsnapshotted += bytes;
                    self.inbox.disk_bytes.store(disk_bytes, Ordering::Relaxed);
                    return Ok(());
                }
                // The steps hold whole values and no differences: to apply them twice is to apply them once.
                Err(EngineError::NoRoom) => self.open_again()?,
                Err(EngineError::Broken(reason)) => return Err(Stopped::because(reason)),
            }
        }
    }

    /// Opens the engine anew: one that found no room for a write takes no further ones.
    fn open_again(&mut self) -> Result<(), Stopped> {
        if let Some(engine) = self.engine.take() {
            close(engine);
        }
        loop {
            self.wait_for_room()?;
            match self.disk.open() {
                Ok(engine) => {
                    self.engine.put(engine);
                    return Ok(());
                }
                Err(EngineError::NoRoom) => {}
                Err(EngineError::Broken(reason)) => return Err(Stopped::because(reason)),
            }
        }
    }

    /// Waits until the disk has room for at least what is under way.
    fn wait_for_room(&mut self) -> Result<(), Stopped> {
        self.look_at_disk();
        self.tell_shortage();
        loop {
            if self.inbox.bell.rest(LOOK_EVERY) == Demand::Close {
                return Err(Stopped::because(
                    "it was closed while the disk was full: what was not confirmed is gone",
                ));
            }
            if self.disk.room() >= Room::Little {
                return Ok(());
            }
        }
    }

    fn tell_shortage(&mut self) {
        if !self.is_short {
            self.is_short = true;
            tracing::warn!("the store's disk is nearly full: publishers have to wait");
            self.inbox.announce(Progress::NoRoom);
        }
    }

    fn look_at_disk(&mut self) {
        if !std::mem::replace(&mut self.has_settled_in, true) {
            self.disk.settle_in();
            self.disk.witness(self.committed.serial());
        }
        self.next_look = Instant::now() + LOOK_EVERY;
        match self.disk.room() {
            Room::None | Room::Little => self.tell_shortage(),
            Room::Plenty if self.is_short => {
                self.is_short = false;
                self.disk.restore();
                tracing::info!("the store's disk has room again");
                self.inbox.announce(Progress::Room);
            }
            Room::Enough | Room::Plenty => {}
        }
    }

    /// What can be done while nobody waits: dead bytes go back to the disk, and the engine makes its snapshot.
    fn tidy(&mut self) -> Result<(), Stopped> {
        self.disk.witness(self.committed.serial());
        let disk_bytes = self.inbox.disk_bytes.load(Ordering::Relaxed);
        let tidied = if self
            .disk
            .wants_compaction(self.committed.live_bytes(), disk_bytes)
        {
            self.disk.compact(&self.engine)
        } else if self.unsnapshotted >= REFRESH_BYTES {
            self.disk.refresh(&self.engine)
        } else {
            return Ok(());
        };
        match tidied {
            Ok(()) => {
                self.unsnapshotted = 0;
                let now = self
                    .engine
                    .get()
                    .map_or(disk_bytes, |engine| engine.disk_bytes());
                self.inbox.disk_bytes.store(now, Ordering::Relaxed);
                tracing::debug!(before = disk_bytes, now, "the store's rows were tidied up");
                Ok(())
            }
            // The old rows are still the ones in use.
            Err(EngineError::NoRoom) if self.engine.get().is_ok() => Ok(()),
            Err(EngineError::NoRoom) => self.open_again(),
            Err(EngineError::Broken(reason)) => Err(Stopped::because(reason)),
        }
    }
}

/// Why the committer woke up.
enum Wake {
    Close,
    Now,
    /// A gather window is over.
    Tick,
    /// Nothing is asked for, but dead rows wait for their deletion.
    Sweep,
    /// Nothing was asked for in a while.
    Idle,
}

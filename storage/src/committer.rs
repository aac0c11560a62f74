//! The one thread that writes: it gathers, commits, tells.
//!
//! While one commit is being synced the next group gathers, so confirmed publishing needs no timer. Unconfirmed messages
//! gather for 5 ms and then ripen for another 5 ms, in which a consumer that keeps up still takes them off; settlements
//! alone wait 50 ms. A failed commit stops the store for good; a full disk only until there is room.
//! Relies on the inbox for consistent cuts and on [`Committed`] for what to write.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bell::Demand;
use crate::committed::Committed;
use crate::disk::{Disk, Slot};
use crate::engine::EngineError;
use crate::error::Stopped;
use crate::inbox::{Group, Inbox};
use crate::steps::Steps;

/// How long unconfirmed messages gather, and how long they ripen after that.
const GATHER: Duration = Duration::from_millis(5);
/// How long settlements wait for company.
const SETTLE_LATEST: Duration = Duration::from_millis(50);
/// How often a full disk is looked at again.
const ROOM_EVERY: Duration = Duration::from_millis(200);

/// What the committer owns.
pub(crate) struct Committer {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) engine: Arc<Slot>,
    pub(crate) disk: Box<dyn Disk>,
    pub(crate) committed: Committed,
    /// The group that was cut and ripens, and until when.
    pub(crate) ripening: Option<(u64, Instant)>,
}

impl Committer {
    /// Runs until the store is closed or fails.
    pub(crate) fn run(mut self) -> Result<(), Stopped> {
        let outcome = self.serve();
        match &outcome {
            Ok(()) => self.inbox.end(),
            Err(stopped) => {
                tracing::error!("{stopped}");
                self.inbox.stop(stopped);
            }
        }
        outcome
    }

    fn serve(&mut self) -> Result<(), Stopped> {
        loop {
            match self.wait() {
                Demand::Close => return self.commit_last(),
                Demand::Soon => self.ripen()?,
                Demand::Later | Demand::Now => self.commit_all()?,
                Demand::Never => self.commit(0, Group::default())?,
            }
        }
    }

    /// Waits until something has to be done, and says what: `Soon` is a tick of the gather window, `Never` is sweeping.
    fn wait(&self) -> Demand {
        let mut known = Demand::Never;
        let mut since = Instant::now();
        loop {
            let due = match known {
                Demand::Never if self.committed.has_to_sweep() => return Demand::Never,
                Demand::Never => None,
                Demand::Later => Some(since + SETTLE_LATEST),
                Demand::Soon => Some(since + GATHER),
                Demand::Now | Demand::Close => return known,
            };
            let ripe = self.ripening.map(|(_, ripe)| ripe);
            let until = [due, ripe].into_iter().flatten().min();
            let risen = self.inbox.bell.wait(known, until);
            if risen > known {
                if known == Demand::Never {
                    since = Instant::now();
                }
                known = risen;
            } else if ripe.is_some() || known == Demand::Soon {
                return Demand::Soon;
            } else {
                return known;
            }
        }
    }

    /// One tick: commits the group that has ripened and lets the one that gathered ripen.
    fn ripen(&mut self) -> Result<(), Stopped> {
        if let Some((ripe, _)) = self.ripening.take() {
            let group = self.inbox.take(ripe);
            self.commit(ripe, group)?;
        }
        if self.inbox.bell.demand() > Demand::Never {
            self.ripening = Some((self.inbox.cut(), Instant::now() + GATHER));
        }
        Ok(())
    }

    fn commit_all(&mut self) -> Result<(), Stopped> {
        self.ripening = None;
        let through = self.inbox.cut();
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
        let steps = steps.finish();
        if steps.is_empty() {
            return Ok(());
        }
        let engine = self.engine.get();
        let outcome = engine.and_then(|engine| engine.commit(&steps));
        outcome.map_err(|error| Stopped::because(error.to_string()))
    }
}

//! What the committer asks of the place where the rows live, beside reading and writing them.
//!
//! The real one is a folder ([`crate::folder`]); tests put one underneath whose engine fails when it is told to.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::engine::{Engine, EngineError};

/// How much room is left, from worst to best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// Nothing can be written.
    None,
    /// What is under way can be written, but nothing new should come.
    Little,
    /// Work goes on if it has not been held back, and stays held back if it has.
    Enough,
    /// Work that was held back may go on.
    Plenty,
}

/// A place that can open an engine, again and again, and knows how much room is left.
pub trait Disk: Send {
    /// Opens the rows again after [`EngineError::NoRoom`], when the engine before is gone.
    fn open(&mut self) -> Result<Arc<dyn Engine>, EngineError>;
    /// How much room there is.
    fn room(&mut self) -> Room;
    /// There is plenty of room: makes good what a full disk used up.
    fn restore(&mut self);
    /// What an opening leaves to be done once work has begun: second safeties.
    fn settle_in(&mut self);
    /// Makes a note, beside the rows, of how far they have come: rows that come less far later have lost something.
    fn witness(&mut self, serial: u64);
    /// Rows could not be read: the next opening has to look at every one of them.
    fn suspect(&mut self);
    /// Closes the engine and opens it again, which lets it make a snapshot: what was written since the last one is the time of the
    /// next start, and at risk from damage.
    fn refresh(&mut self, engine: &Slot) -> Result<(), EngineError>;
    /// Whether so few of the engine's bytes are alive that the rows should be copied to a new place.
    fn wants_compaction(&self, live_bytes: u64, disk_bytes: u64) -> bool;
    /// Copies the rows to a new place, closes the old engine, and opens the new one in its stead.
    fn compact(&mut self, engine: &Slot) -> Result<(), EngineError>;
}

/// The engine in use, which is replaced while readers go on.
#[derive(Default)]
pub struct Slot(RwLock<Option<Arc<dyn Engine>>>);

impl Slot {
    /// A slot with an engine in it.
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Self(RwLock::new(Some(engine)))
    }

    /// The engine, unless it is being replaced.
    pub fn get(&self) -> Result<Arc<dyn Engine>, EngineError> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .ok_or(EngineError::NoRoom)
    }

    /// Takes the engine out. Readers that hold it finish first: their calls are short.
    pub fn take(&self) -> Option<Arc<dyn Engine>> {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Replaces the engine. Readers that come in the meantime wait; without a new engine the slot stays empty.
    pub fn replace(
        &self,
        exchange: impl FnOnce(Arc<dyn Engine>) -> Result<Arc<dyn Engine>, EngineError>,
    ) -> Result<(), EngineError> {
        let mut slot = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let engine = slot.take().ok_or(EngineError::NoRoom)?;
        *slot = Some(exchange(engine)?);
        Ok(())
    }

    /// Puts an engine in.
    pub fn put(&self, engine: Arc<dyn Engine>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(engine);
    }
}

/// Waits until nobody else holds the engine, and closes it.
pub fn close(engine: Arc<dyn Engine>) {
    while Arc::strong_count(&engine) > 1 {
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(engine);
}

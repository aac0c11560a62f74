//! What the committer asks of the place where the rows live, beside reading and writing them.
//!
//! The real one is a folder ([`crate::folder`]); tests put one underneath whose engine fails when it is told to.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::engine::{Engine, EngineError};

/// A place that can open an engine, again and again, and knows how much room is left.
pub trait Disk: Send {
    /// Opens the rows. Called again after [`EngineError::NoRoom`], when the engine before it is gone.
    fn open(&mut self) -> Result<Arc<dyn Engine>, EngineError>;
    /// Whether there is room for another commit.
    fn has_room(&mut self) -> bool;
    /// Whether there is so much room that work which was held back may go on. Restores what [`Disk::has_room`] used up.
    fn has_room_again(&mut self) -> bool;
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
}

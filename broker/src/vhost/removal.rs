//! Empties a vhost that is being deleted. Depends on `queues`, `exchanges` and `detaching`.

use std::sync::Arc;

use super::{DeleteCondition, Vhost};
use crate::delivery::effects::{Effects, REMOVAL_STEPS};
use crate::fault::Fault;
use crate::lock::write;
use crate::queue::Queue;

/// Queues and exchanges that are still to be removed from a vhost.
#[derive(Debug)]
pub(crate) struct VhostContents {
    exchanges: Vec<Arc<str>>,
    queues: Vec<Arc<Queue>>,
}

impl Vhost {
    /// Lists the contents to remove. From now on nothing can be declared in this vhost.
    pub(crate) fn begin_removal(&self) -> VhostContents {
        let mut tables = write(&self.tables);
        tables.is_deleted = true;
        VhostContents {
            exchanges: tables.exchanges.keys().cloned().collect(),
            queues: tables.queues.values().cloned().collect(),
        }
    }

    /// Removes as much as the budget allows. False when nothing is left.
    pub(crate) fn remove_some_contents(
        &self,
        contents: &mut VhostContents,
        effects: &mut Effects,
    ) -> Result<bool, Fault> {
        while !effects.is_spent() {
            // A queue whose exchanges are gone has few bindings left to find.
            if let Some(exchange) = contents.exchanges.pop() {
                effects.spend(REMOVAL_STEPS);
                self.drop_exchange(&mut write(&self.tables), &exchange, effects)?;
            } else if let Some(queue) = contents.queues.pop() {
                effects.spend(REMOVAL_STEPS);
                self.remove_queue(&queue, DeleteCondition::default(), effects)?;
            } else if !self.detach_next(effects)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

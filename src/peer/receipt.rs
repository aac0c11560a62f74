//! What the recipient's wrap tells a sender who asked (`send --wait`): never more than what has
//! happened.

use serde::{Deserialize, Serialize};

/// `{"id","state","reason","way"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The id of the message.
    pub id: String,
    /// What became of it.
    pub state: ReceiptState,
    /// Why it is held or was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// By which way it went in: `plugin`, `inbox`, `api`, `hook`, `keyboard`, `inbox-command`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub way: Option<String>,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReceiptState {
    /// It waits in the session; not final.
    Held,
    /// It is with the agent, and not in the model's context yet; not final.
    HandedOver,
    /// It is in the model's context.
    Delivered,
    /// It could not be parsed, or its id was used twice; it will never be delivered.
    DeadLettered,
    /// It went with its queue, which was deleted.
    Deleted,
    /// It was purged.
    Purged,
    /// Its time to live passed in the queue.
    Expired,
    /// The queue was full.
    Dropped,
}

impl Receipt {
    /// The bytes of the receipt's body.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a receipt; anything else is none.
    pub fn parse(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    /// Whether nothing more will come.
    pub fn is_final(&self) -> bool {
        !matches!(self.state, ReceiptState::Held | ReceiptState::HandedOver)
    }
}

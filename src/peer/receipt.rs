//! What the recipient's wrap tells a sender who asked (`send --wait`): never more than what has happened.

use serde::{Deserialize, Serialize};

/// `{"id","state","reason"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The id of the message.
    pub id: String,
    /// What became of it.
    pub state: ReceiptState,
    /// Why it is held or was refused, or by which way it went in (`hook`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReceiptState {
    /// It waits in the session; not final.
    Held,
    /// Its `\r` was written, or the hook's delivery was taken.
    Injected,
    /// It was refused; it will never be injected.
    DeadLettered,
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
        self.state != ReceiptState::Held
    }
}

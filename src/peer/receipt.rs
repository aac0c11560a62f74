//! The receipts that a recipient's wrap sends to a sender who asked for them (`send --wait`). They
//! report only what has happened.

use serde::{Deserialize, Serialize};

use crate::name::SessionName;

/// `{"id","to","state","reason","way"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The id of the message.
    pub id: String,
    /// The recipient; the members of a group get messages of one id. Older sessions leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
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
    /// It was answered. A session never sends this state; the answer itself shows it.
    Answered,
    /// It could not be parsed, its id was used twice, or too many messages of other users waited;
    /// it will never be delivered.
    DeadLettered,
    /// It was deleted with its queue.
    Deleted,
    /// It was purged.
    Purged,
    /// Its time to live passed in the queue.
    Expired,
    /// The queue was full.
    Dropped,
    /// No queue accepts it. Never told by a session: its sender knows it from the broker.
    Returned,
}

impl ReceiptState {
    /// In words for a person.
    pub fn word(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::HandedOver => "handed over",
            Self::Delivered => "delivered",
            Self::Answered => "answered",
            Self::DeadLettered => "dead-lettered",
            Self::Deleted => "deleted with its queue",
            Self::Purged => "purged",
            Self::Expired => "expired",
            Self::Dropped => "dropped: the queue was full",
            Self::Returned => "returned",
        }
    }
}

impl Receipt {
    /// The bytes of the receipt's body.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a receipt; `None` for anything else.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let receipt: Self = serde_json::from_slice(body).ok()?;
        let is_told = !matches!(
            receipt.state,
            ReceiptState::Answered | ReceiptState::Returned
        );
        is_told.then_some(receipt)
    }

    /// Whether receipts go to a queue of this name. Only to a queue of ours: a header of a message
    /// must not make us publish into another session.
    pub fn may_go_to(queue: &str) -> bool {
        SessionName::new(queue).is_ok_and(|name| name.as_str() == queue && name.is_answer_queue())
    }

    /// Whether the receipt is about the message with this id to this recipient.
    pub fn is_about(&self, id: &str, to: &str) -> bool {
        self.id == id && self.to.as_deref().is_none_or(|own| own == to)
    }

    /// Whether this is the session's last receipt about the message.
    pub fn is_final(&self) -> bool {
        !matches!(self.state, ReceiptState::Held | ReceiptState::HandedOver)
    }
}

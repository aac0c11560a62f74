//! The numbers of methods. Depends on `cursor`.

use super::cursor::ByteCursor;

/// The class and the number of a method. In a close: those of the method that caused it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MethodId {
    pub(crate) class: u16,
    pub(crate) method: u16,
}

impl MethodId {
    /// In a close that no method caused.
    pub(crate) const NONE: Self = Self::new(0, 0);

    pub(crate) const CONNECTION_START: Self = Self::new(10, 10);
    pub(crate) const CONNECTION_START_OK: Self = Self::new(10, 11);
    pub(crate) const CONNECTION_SECURE: Self = Self::new(10, 20);
    pub(crate) const CONNECTION_SECURE_OK: Self = Self::new(10, 21);
    pub(crate) const CONNECTION_TUNE: Self = Self::new(10, 30);
    pub(crate) const CONNECTION_TUNE_OK: Self = Self::new(10, 31);
    pub(crate) const CONNECTION_OPEN: Self = Self::new(10, 40);
    pub(crate) const CONNECTION_OPEN_OK: Self = Self::new(10, 41);
    pub(crate) const CONNECTION_CLOSE: Self = Self::new(10, 50);
    pub(crate) const CONNECTION_CLOSE_OK: Self = Self::new(10, 51);
    pub(crate) const CONNECTION_BLOCKED: Self = Self::new(10, 60);
    pub(crate) const CONNECTION_UNBLOCKED: Self = Self::new(10, 61);
    pub(crate) const CONNECTION_UPDATE_SECRET_OK: Self = Self::new(10, 71);
    pub(crate) const CHANNEL_OPEN_OK: Self = Self::new(20, 11);
    pub(crate) const CHANNEL_FLOW_OK: Self = Self::new(20, 21);
    pub(crate) const CHANNEL_CLOSE: Self = Self::new(20, 40);
    pub(crate) const CHANNEL_CLOSE_OK: Self = Self::new(20, 41);
    pub(crate) const ACCESS_REQUEST_OK: Self = Self::new(30, 11);
    pub(crate) const EXCHANGE_DECLARE_OK: Self = Self::new(40, 11);
    pub(crate) const EXCHANGE_DELETE_OK: Self = Self::new(40, 21);
    pub(crate) const EXCHANGE_BIND_OK: Self = Self::new(40, 31);
    pub(crate) const EXCHANGE_UNBIND_OK: Self = Self::new(40, 51);
    pub(crate) const QUEUE_DECLARE_OK: Self = Self::new(50, 11);
    pub(crate) const QUEUE_BIND_OK: Self = Self::new(50, 21);
    pub(crate) const QUEUE_PURGE_OK: Self = Self::new(50, 31);
    pub(crate) const QUEUE_DELETE_OK: Self = Self::new(50, 41);
    pub(crate) const QUEUE_UNBIND_OK: Self = Self::new(50, 51);
    pub(crate) const BASIC_QOS_OK: Self = Self::new(60, 11);
    pub(crate) const BASIC_CONSUME_OK: Self = Self::new(60, 21);
    pub(crate) const BASIC_CANCEL: Self = Self::new(60, 30);
    pub(crate) const BASIC_CANCEL_OK: Self = Self::new(60, 31);
    pub(crate) const BASIC_PUBLISH: Self = Self::new(60, 40);
    pub(crate) const BASIC_GET_EMPTY: Self = Self::new(60, 72);
    pub(crate) const BASIC_ACK: Self = Self::new(60, 80);
    pub(crate) const BASIC_RECOVER_OK: Self = Self::new(60, 111);
    pub(crate) const BASIC_NACK: Self = Self::new(60, 120);
    pub(crate) const CONFIRM_SELECT_OK: Self = Self::new(85, 11);
    pub(crate) const TX_SELECT_OK: Self = Self::new(90, 11);
    pub(crate) const TX_COMMIT_OK: Self = Self::new(90, 21);
    pub(crate) const TX_ROLLBACK_OK: Self = Self::new(90, 31);

    pub(crate) const fn new(class: u16, method: u16) -> Self {
        Self { class, method }
    }

    /// Reads the numbers of a method frame; 0 for what is missing.
    pub(crate) fn of(payload: &[u8]) -> Self {
        let mut cursor = ByteCursor::new(payload);
        Self::new(cursor.u16().unwrap_or(0), cursor.u16().unwrap_or(0))
    }
}

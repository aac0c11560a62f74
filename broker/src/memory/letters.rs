//! What dead letters hold that have left their queue and are in no other yet.
//!
//! They have a part of the limit of their own: messages expire, are pushed out and are rejected
//! while memory is short, because that may be what frees memory. Once the part is full, further
//! messages stay in their queue, or with the client that rejects them, until letters have arrived.
//! That frees them without more memory: a letter waits for the store alone.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use super::{
    ENTRY_CHARGE_BYTES, LIMIT, MIB, held, is_short, is_transient_full, part, transient_bytes,
};

static HELD: AtomicUsize = AtomicUsize::new(0);

/// How often [`room_for_letters`] looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The bytes of one letter, until this is dropped. They are on the account already.
#[derive(Debug)]
pub(crate) struct LetterBytes(usize);

impl LetterBytes {
    pub(crate) fn new(message: usize) -> Self {
        let bytes = message + ENTRY_CHARGE_BYTES;
        HELD.fetch_add(bytes, Relaxed);
        Self(bytes)
    }
}

impl Drop for LetterBytes {
    fn drop(&mut self) {
        HELD.fetch_sub(self.0, Relaxed);
    }
}

/// Whether letters hold what they may, so that no further message becomes one.
pub(crate) fn are_letters_full() -> bool {
    HELD.load(Relaxed) >= part(16, MIB, 16 * MIB)
}

/// Whether letters that stay in memory must not take more of it than their messages gave back.
pub(crate) fn is_tight_for_letters() -> bool {
    is_short() || is_transient_full()
}

/// Whether they may take some one by one nevertheless. The rest of the limit is left to publishers
/// whose messages leave memory (`publisher_grants`).
pub(crate) fn is_some_left_for_letters() -> bool {
    match LIMIT.load(Relaxed) {
        0 => true,
        limit => held() < limit - limit / 32 && transient_bytes() as u64 <= limit / 8 * 5,
    }
}

/// Waits until they hold less.
pub(crate) async fn room_for_letters() {
    while are_letters_full() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

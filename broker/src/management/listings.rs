//! Runs expensive requests on blocking threads, so that no expression, sort order or number of
//! items delays the threads that serve. A few run at once, and fewer for one user, so that no user
//! blocks the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::response::Response;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Api;
use super::auth::Caller;
use super::paging::{Collected, Listed, ListingQuery};
use super::refusal::ApiError;
use super::user_memory;
use crate::lock::lock;

const AT_ONCE: usize = 4;
const OF_ONE_USER: usize = 2;
/// How long a request waits for its slot.
const SLOT_WITHIN: Duration = Duration::from_secs(10);

/// The slots for expensive requests.
#[derive(Debug)]
pub(super) struct Listings {
    all: Arc<Semaphore>,
    of_user: Mutex<HashMap<Arc<str>, Arc<Semaphore>>>,
}

/// A slot for work; free again when this is dropped.
#[derive(Debug)]
pub(super) struct WorkSlot {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Default for Listings {
    fn default() -> Self {
        Self {
            all: Arc::new(Semaphore::new(AT_ONCE)),
            of_user: Mutex::default(),
        }
    }
}

impl Listings {
    /// Waits for a user's slot.
    async fn slot(&self, user: &Arc<str>) -> Result<WorkSlot, ApiError> {
        let own = self.of(user);
        let slot = async {
            let own = own.acquire_owned().await?;
            let all = Arc::clone(&self.all).acquire_owned().await?;
            Ok::<_, tokio::sync::AcquireError>(WorkSlot {
                _own: own,
                _all: all,
            })
        };
        match tokio::time::timeout(SLOT_WITHIN, slot).await {
            Ok(Ok(slot)) => Ok(slot),
            _ => Err(ApiError::busy("too many requests at once")),
        }
    }

    fn of(&self, user: &Arc<str>) -> Arc<Semaphore> {
        let mut users = lock(&self.of_user);
        // A semaphore that only the map holds has no work and no waiters.
        users.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
        let new = || Arc::new(Semaphore::new(OF_ONE_USER));
        Arc::clone(users.entry(Arc::clone(user)).or_insert_with(new))
    }
}

/// Runs work on a blocking thread, and frees the slot when it ends. If the requester hangs up, the
/// work still runs to its end and keeps the slot until then.
async fn on_a_thread<T: Send + 'static>(
    slot: WorkSlot,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let working = tokio::task::spawn_blocking(move || {
        let made = work();
        drop(slot);
        made
    });
    working
        .await
        .map_err(|_| ApiError::failed("the request failed"))
}

impl Api {
    /// Responds with a listing of what `collect` finds.
    pub(super) async fn list<T: Listed, I: IntoIterator<Item = T>>(
        &self,
        caller: &Caller,
        listing: ListingQuery,
        collect: impl FnOnce() -> I + Send + 'static,
    ) -> Result<Response, ApiError> {
        let collect = |into: &mut Collected<'_, T>| into.extend(collect());
        self.list_into(caller, listing, collect).await
    }

    /// Like [`Self::list`], with a collector that may take locks or fail.
    pub(super) async fn list_into<T: Listed>(
        &self,
        caller: &Caller,
        listing: ListingQuery,
        collect: impl FnOnce(&mut Collected<'_, T>) -> Result<(), ApiError> + Send + 'static,
    ) -> Result<Response, ApiError> {
        let mut holding = self.holdings.of(&caller.name);
        let work = move || {
            let mut collected = Collected::new(&mut holding);
            collect(&mut collected)?;
            let text = listing.show(collected)?;
            user_memory::with_holding(text, holding)
        };
        Ok(user_memory::json_response(
            self.run_in_slot(caller, work).await?,
        ))
    }

    /// Runs a caller's work on a blocking thread once it has a slot.
    ///
    /// # Errors
    /// Fails if the caller's permissions changed while it waited for a slot.
    pub(super) async fn run_in_slot<T: Send + 'static>(
        &self,
        caller: &Caller,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        Self::in_slot(self.slot(caller).await?, work).await
    }

    /// Waits for a slot of the caller. Refused if its rights have changed by then.
    pub(super) async fn slot(&self, caller: &Caller) -> Result<WorkSlot, ApiError> {
        let slot = self.listings.slot(&caller.name).await?;
        caller.check_unchanged(self)?;
        Ok(slot)
    }

    /// Runs work on a blocking thread in a slot.
    pub(super) async fn in_slot<T: Send + 'static>(
        slot: WorkSlot,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        on_a_thread(slot, work).await?
    }

    /// Responds with what `work` returns, as JSON.
    pub(super) async fn respond_with(
        &self,
        caller: &Caller,
        work: impl FnOnce() -> Result<Value, ApiError> + Send + 'static,
    ) -> Result<Response, ApiError> {
        let holding = self.holdings.of(&caller.name);
        let work = move || {
            let text = serde_json::to_vec(&work()?);
            let text = text.map_err(|error| ApiError::failed(error.to_string()))?;
            user_memory::with_holding(text, holding)
        };
        Ok(user_memory::json_response(
            self.run_in_slot(caller, work).await?,
        ))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use std::sync::mpsc::{SyncSender, sync_channel};

    use super::*;
    use crate::lock::write;
    use crate::management::tests::TestApi;

    const LONG: Duration = Duration::from_secs(20);

    /// Work that ends when something is sent to it. It returns whether that arrived.
    fn blocked() -> (SyncSender<()>, impl FnOnce() -> bool + Send) {
        let (end, ended) = sync_channel(1);
        (end, move || ended.recv_timeout(LONG).is_ok())
    }

    async fn make(
        listings: &Listings,
        user: &str,
        work: impl FnOnce() -> bool + Send + 'static,
    ) -> bool {
        let slot = listings.slot(&user.into()).await.unwrap();
        on_a_thread(slot, work).await.unwrap()
    }

    #[tokio::test]
    async fn a_listing_that_takes_long_holds_up_nobody() {
        // One thread serves: if the work blocked it, nothing could end the work.
        let listings = Listings::default();
        let (end, work) = blocked();
        let (made, ()) = tokio::join!(make(&listings, "ada", work), async {
            end.send(()).unwrap();
        });
        assert!(made, "the thread that serves was blocked");
    }

    #[tokio::test]
    async fn what_waited_for_its_turn_is_refused_where_its_user_has_lost_a_right() {
        let test = TestApi::start().await;
        let (api, caller) = (&test.api, test.ada());
        let both = [api.slot(&caller).await, api.slot(&caller).await];
        assert!(both.iter().all(Result::is_ok));
        let (waited, ()) = tokio::join!(api.slot(&caller), async {
            write(&api.broker.users).forbid("ada", "/");
            drop(both);
        });
        assert!(waited.is_err(), "the rights of before");
        assert!(api.slot(&caller).await.is_err());
        test.stop().await;
    }

    #[tokio::test]
    async fn a_user_with_many_costly_listings_waits_and_another_does_not() {
        let listings = Arc::new(Listings::default());
        let (mut ends, mut making) = (Vec::new(), tokio::task::JoinSet::new());
        for _ in 0..20 {
            let (end, work) = blocked();
            let listings = Arc::clone(&listings);
            ends.push(end);
            making.spawn(async move { make(&listings, "ada", work).await });
        }
        while listings.all.available_permits() > AT_ONCE - OF_ONE_USER {
            tokio::task::yield_now().await;
        }
        assert!(make(&listings, "bob", || true).await);
        let free = listings.all.available_permits();
        assert_eq!(free, AT_ONCE - OF_ONE_USER, "two of one user at once");
        for end in ends {
            end.send(()).unwrap();
        }
        while let Some(made) = making.join_next().await {
            assert!(made.unwrap());
        }
        assert!(make(&listings, "bob", || true).await);
        assert_eq!(lock(&listings.of_user).len(), 1, "idle users are forgotten");
    }
}

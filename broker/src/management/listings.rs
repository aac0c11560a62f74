//! Runs expensive requests on blocking threads, so that no expression, sort order or number of
//! items delays the threads that serve. A few run at once, and fewer for one user, so that no user
//! blocks the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::response::Response;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::Api;
use super::auth::Caller;
use super::held;
use super::paging::{Listed, Listing};
use super::refusal::ApiError;
use crate::lock::lock;

const AT_ONCE: usize = 4;
const OF_ONE_USER: usize = 2;
/// How long a request waits for its turn.
const TURN_WITHIN: Duration = Duration::from_secs(10);

/// The listings that are being made.
#[derive(Debug)]
pub(super) struct Listings {
    all: Arc<Semaphore>,
    of_user: Mutex<HashMap<Arc<str>, Arc<Semaphore>>>,
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
    /// Does a user's work on a thread of its own, once it is that user's turn. Work whose requester
    /// has gone goes on to its end and keeps its place until then.
    async fn make<T: Send + 'static>(
        &self,
        user: &Arc<str>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let own = self.of(user);
        let turn = async {
            let own = own.acquire_owned().await?;
            let all = Arc::clone(&self.all).acquire_owned().await?;
            Ok::<_, tokio::sync::AcquireError>((own, all))
        };
        let Ok(Ok(turn)) = tokio::time::timeout(TURN_WITHIN, turn).await else {
            return Err(ApiError::busy("too many listings at once"));
        };
        let working = tokio::task::spawn_blocking(move || {
            let made = work();
            drop(turn);
            made
        });
        working
            .await
            .map_err(|_| ApiError::failed("the listing failed"))
    }

    fn of(&self, user: &Arc<str>) -> Arc<Semaphore> {
        let mut users = lock(&self.of_user);
        // A semaphore that only the map holds has no work and no waiters.
        users.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
        let new = || Arc::new(Semaphore::new(OF_ONE_USER));
        Arc::clone(users.entry(Arc::clone(user)).or_insert_with(new))
    }
}

impl Api {
    /// Answers a listing of what `collect` finds.
    pub(super) async fn list<T: Listed>(
        &self,
        caller: &Caller,
        listing: Listing,
        collect: impl FnOnce() -> Vec<T> + Send + 'static,
    ) -> Result<Response, ApiError> {
        let answer = move || listing.show(collect());
        self.work_out(caller, answer).await
    }

    /// Does a user's work on a thread of its own.
    pub(super) async fn aside<T: Send + 'static>(
        &self,
        user: &Arc<str>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        self.listings.make(user, work).await
    }

    /// Answers what `work` gives, as JSON.
    pub(super) async fn work_out(
        &self,
        caller: &Caller,
        work: impl FnOnce() -> Result<Value, ApiError> + Send + 'static,
    ) -> Result<Response, ApiError> {
        let holding = self.holdings.of(&caller.name);
        let work = move || {
            let text = serde_json::to_vec(&work()?);
            let text = text.map_err(|error| ApiError::failed(error.to_string()))?;
            held::held(text, holding)
        };
        let answer = self.aside(&caller.name, work).await??;
        Ok(held::json_response(answer))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use std::sync::mpsc::{SyncSender, sync_channel};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// Work that ends when something is sent to it. It returns whether that arrived.
    fn blocked() -> (SyncSender<()>, impl FnOnce() -> bool + Send) {
        let (end, ended) = sync_channel(1);
        (end, move || ended.recv_timeout(LONG).is_ok())
    }

    #[tokio::test]
    async fn a_listing_that_takes_long_holds_up_nobody() {
        // One thread serves: if the work blocked it, nothing could end the work.
        let listings = Listings::default();
        let (end, work) = blocked();
        let user = "ada".into();
        let (made, ()) = tokio::join!(listings.make(&user, work), async {
            end.send(()).unwrap();
        });
        assert!(made.unwrap(), "the thread that serves was blocked");
    }

    #[tokio::test]
    async fn a_user_with_many_costly_listings_waits_and_another_does_not() {
        let listings = Arc::new(Listings::default());
        let (mut ends, mut making) = (Vec::new(), tokio::task::JoinSet::new());
        for _ in 0..20 {
            let (end, work) = blocked();
            let listings = Arc::clone(&listings);
            ends.push(end);
            making.spawn(async move { listings.make(&"ada".into(), work).await.unwrap() });
        }
        while listings.all.available_permits() > AT_ONCE - OF_ONE_USER {
            tokio::task::yield_now().await;
        }
        assert!(listings.make(&"bob".into(), || true).await.unwrap());
        let free = listings.all.available_permits();
        assert_eq!(free, AT_ONCE - OF_ONE_USER, "two of one user at once");
        for end in ends {
            end.send(()).unwrap();
        }
        while let Some(made) = making.join_next().await {
            assert!(made.unwrap());
        }
        assert!(listings.make(&"bob".into(), || true).await.unwrap());
        assert_eq!(lock(&listings.of_user).len(), 1, "idle users are forgotten");
    }
}

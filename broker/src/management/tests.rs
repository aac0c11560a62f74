//! The state of the API on a broker without ports, for unit tests. Its administrator is `ada`,
//! whose password is `pw`.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::sync::Arc;

use futures_util::FutureExt;

use super::auth::{AuthMethod, Caller};
use super::{Api, BrokerFacts, HttpScheme, SharedApi};
use crate::lock::{lock, read, write};
use crate::tests::once_free;
use crate::vhost::Declare;
use crate::{Broker, BrokerConfig, FirstUser};

pub(super) struct TestApi {
    pub(super) api: SharedApi,
    broker: Broker,
    folder: tempfile::TempDir,
}

impl TestApi {
    pub(super) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let broker = Self::start_in(&folder).await;
        let about = BrokerFacts {
            listening: Vec::new(),
            data_dir: folder.path().into(),
            memory_limit_bytes: 0,
            local_user: None,
            archive: None,
        };
        Self {
            api: Api::new(Arc::clone(&broker.state), about, HttpScheme::Http),
            broker,
            folder,
        }
    }

    async fn start_in(folder: &tempfile::TempDir) -> Broker {
        let config = || BrokerConfig {
            port: 0,
            management_port: None,
            data_dir: folder.path().join("data"),
            first_user: Some(FirstUser {
                name: "ada".into(),
                password: "pw".into(),
            }),
            ..BrokerConfig::default()
        };
        once_free(async || Broker::start(config()).await).await
    }

    /// Declares so many queues in the first vhost.
    pub(super) fn declare_queues(&self, count: usize) {
        let broker = &self.api.broker;
        let vhost = broker.vhost("/").unwrap();
        for number in 0..count {
            let mut effects = broker.begin_unit();
            let name = format!("queue-{number}");
            let declare = Declare {
                connection: 0,
                limit: broker.limits.queues,
                ..Declare::transient(&name)
            };
            let declared = vhost.declare_queue(declare, &mut effects);
            broker.end_unit(effects);
            assert!(declared.is_ok());
        }
    }

    /// The administrator as she is now.
    pub(super) fn ada(&self) -> Caller {
        let user = read(&self.api.broker.users).get("ada").cloned().unwrap();
        Caller {
            name: "ada".into(),
            user,
            by: AuthMethod::Socket,
            is_owner: false,
        }
    }

    /// The administrator as she was before she was deleted, as a request has her that came then.
    pub(super) fn deleted_ada(&self) -> Caller {
        let caller = self.ada();
        write(&self.api.broker.users).remove("ada");
        caller
    }

    /// The response to a request of hers, made while all her slots for costly work are taken; says
    /// whether it waited for one.
    pub(super) async fn without_slots<T>(&self, request: impl Future<Output = T>) -> (T, bool) {
        let caller = self.ada();
        let slots = [self.api.slot(&caller).await, self.api.slot(&caller).await];
        assert!(slots.iter().all(Result::is_ok));
        let mut request = std::pin::pin!(request);
        if let Some(response) = request.as_mut().now_or_never() {
            return (response, false);
        }
        drop(slots);
        (request.await, true)
    }

    /// Starts another broker on the store, and says how many sign-ins of the page it finds.
    pub(super) async fn sign_ins_after_a_restart(self) -> usize {
        drop(self.api);
        self.broker.shutdown().await.unwrap();
        let later = Self::start_in(&self.folder).await;
        let found = lock(&later.state.sign_ins).len();
        later.shutdown().await.unwrap();
        found
    }

    pub(super) async fn stop(self) {
        drop(self.api);
        self.broker.shutdown().await.unwrap();
    }
}

//! A broker in the process of the test.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::time::{Duration, Instant};

use broker::{Broker, BrokerConfig};

/// Starts a broker in a folder whose last one may still write, or whose lock a process that another
/// test starts has until it runs its program. Fails if the folder is in use for longer than
/// `limit`.
pub(crate) async fn start_broker(config: &BrokerConfig, limit: Duration) -> Broker {
    let until = Instant::now() + limit;
    loop {
        match Broker::start(config.clone()).await {
            Ok(broker) => return broker,
            Err(error) if format!("{error:?}").contains("InUse") && Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

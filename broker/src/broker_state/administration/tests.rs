//! Vhosts that are deleted while others use them.

#![allow(clippy::unwrap_used)]
use std::sync::Arc;

use crate::config::BrokerConfig;
use crate::exchange::{Declaration, ExchangeType};
use crate::fault::ReplyCode;
use crate::lock::read;
use crate::tests::opened;
use crate::vhost::{Declare, VhostLabels};
use crate::wakeup;
use crate::wire::table::Table;

/// It was made, and the old one's deletion then took its record away: the next start had none.
#[tokio::test(flavor = "multi_thread")]
async fn a_vhost_is_made_again_once_the_old_one_is_gone_and_then_survives_a_restart() {
    let (broker, (_wakeup, folder)) = opened().await;
    broker.put_vhost("v", VhostLabels::default()).unwrap();
    // A deletion needs the users for the rights that end with the vhost.
    let users = read(&broker.users);
    let deleting = {
        let broker = Arc::clone(&broker);
        std::thread::spawn(move || broker.remove_vhost("v").map(drop))
    };
    while broker.vhost("v").is_some() {
        std::thread::yield_now();
    }
    let refused = broker.put_vhost("v", VhostLabels::default());
    assert_eq!(refused.unwrap_err().code, ReplyCode::ResourceLocked);
    assert!(broker.vhost("v").is_none());
    drop(users);
    deleting.join().unwrap().unwrap();
    broker.put_vhost("v", VhostLabels::default()).unwrap();
    broker.store.clone().close().unwrap();
    let config = BrokerConfig {
        data_dir: folder.path().join("data"),
        ..BrokerConfig::default()
    };
    let (waker, _wakeup) = wakeup::channel().unwrap();
    let broker = crate::open(&config, waker).await.unwrap();
    assert!(broker.vhost("v").is_some());
    broker.store.clone().close().unwrap();
}

/// What a connection that was still in it declared stayed in the store for good, and came into the
/// next vhost of that name.
#[tokio::test]
async fn nothing_is_declared_in_a_vhost_that_is_deleted() {
    let (broker, _kept) = opened().await;
    broker.put_vhost("v", VhostLabels::default()).unwrap();
    let vhost = broker.vhost("v").unwrap();
    broker.remove_vhost("v").unwrap();
    let declaration = Declaration {
        kind: ExchangeType::Fanout,
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: Table::new(),
    };
    let declare = Declare {
        durable: true,
        ..Declare::transient("q")
    };
    let mut effects = broker.begin();
    for refused in [
        vhost.declare_exchange("x", declaration).map(drop),
        vhost.declare_queue(declare, &mut effects).map(drop),
    ] {
        assert_eq!(refused.unwrap_err().code, ReplyCode::ConnectionForced);
    }
    broker.end(effects);
    broker.store.clone().close().unwrap();
}

//! Power cuts under the real binary: topology is on the disk, and not in the page cache alone,
//! before its `-ok` is sent.

#[path = "../../storage/tests/store/random.rs"]
mod random;
#[path = "../../storage/tests/store/power/record.rs"]
mod record;

use std::path::PathBuf;

use lapin::Channel;
use lapin::options::{
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;

use crate::real::Real;
use crate::running::{Running, confirming, declare, durable};
use crate::support::{Place, Server};
use record::{Platter, parse, record_into};

/// Disks that are built of one cut.
const DISKS: u64 = 8;

/// A broker whose changes of files are recorded.
struct Recorded {
    real: Real,
    record: PathBuf,
}

/// The length of the record at the moment that the power fails.
struct PowerCut(usize);

impl Recorded {
    fn start() -> Self {
        let place = Place::new();
        let record = place.path().join("record");
        let mut command = place.command();
        record_into(&mut command, &place.home().join("data"), &record);
        let server = Server::start_by(command, 0, 0, &[]);
        let real = Real { server, place };
        Self { real, record }
    }

    /// The power fails now.
    fn cut(&self) -> PowerCut {
        let record = std::fs::metadata(&self.record).unwrap();
        PowerCut(usize::try_from(record.len()).unwrap())
    }

    /// Starts a broker on each of some disks that the cut may have left.
    async fn after(&self, cut: &PowerCut) -> Vec<Running> {
        let record = std::fs::read(&self.record).unwrap();
        let mut platter = Platter::default();
        for entry in parse(&record[..cut.0]) {
            platter.follow(&entry);
        }
        let mut started = Vec::new();
        for disk in 1..=DISKS {
            let folder = tempfile::tempdir().unwrap();
            let home = self.real.place.home();
            let data = (home.to_str().unwrap(), "data");
            platter.cut(&mut random::Random(disk * 7 + 3), data, folder.path());
            started.push(Running::on(folder).await);
        }
        started
    }
}

async fn channel(running: &Running) -> Channel {
    confirming(&running.connect().await).await
}

async fn exists(running: &Running, queue: &str) -> bool {
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let channel = channel(running).await;
    let found = channel.queue_declare(queue.into(), passive, FieldTable::default());
    found.await.is_ok()
}

/// Whether a message with this key gets from the exchange to a queue.
async fn is_routed(running: &Running, exchange: &str, key: &str) -> bool {
    let mandatory = lapin::options::BasicPublishOptions {
        mandatory: true,
        ..lapin::options::BasicPublishOptions::default()
    };
    let channel = channel(running).await;
    let properties = lapin::BasicProperties::default();
    let sent = channel.basic_publish(exchange.into(), key.into(), mandatory, b"x", properties);
    let confirmation = sent.await.unwrap().await.unwrap();
    confirmation.is_ack() && confirmation.take_message().is_none()
}

#[tokio::test(flavor = "multi_thread")]
async fn topology_that_was_confirmed_outlives_a_power_cut() {
    let recorded = Recorded::start();
    let channel = recorded.real.connect().await.create_channel().await;
    let channel = channel.unwrap();
    let none = FieldTable::default;
    for queue in ["goes", "stays"] {
        declare(&channel, queue, durable()).await;
    }
    let declared = recorded.cut();
    let lasting = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let kind = lapin::ExchangeKind::Direct;
    let made = channel.exchange_declare("post".into(), kind, lasting, none());
    made.await.unwrap();
    let bind = QueueBindOptions::default();
    let bound = channel.queue_bind("stays".into(), "post".into(), "key".into(), bind, none());
    bound.await.unwrap();
    let bound = recorded.cut();
    let deleted = channel.queue_delete("goes".into(), QueueDeleteOptions::default());
    deleted.await.unwrap();
    let deleted = recorded.cut();
    for running in recorded.after(&declared).await {
        assert!(exists(&running, "goes").await && exists(&running, "stays").await);
    }
    for running in recorded.after(&bound).await {
        assert!(is_routed(&running, "post", "key").await);
    }
    for running in recorded.after(&deleted).await {
        assert!(!exists(&running, "goes").await);
        assert!(is_routed(&running, "post", "key").await);
    }
}

//! A wall clock that is set while messages and queues wait for their end.
//!
//! Before the broker counted its own time, a clock set back by two hours made every running time
//! to live end two hours late.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};

use crate::real::Real;
use crate::running::{confirming, declare, durable, persistent, publish};
use crate::support::{PATIENCE, Place, Server, free_port};

/// Longer than every time to live here, and far shorter than the two hours.
const LIMIT: Duration = PATIENCE;

/// The library, where cargo puts what an example builds.
fn shim() -> PathBuf {
    let target = std::env::current_exe().unwrap();
    let target = target.ancestors().nth(2).unwrap();
    let library = target.join("examples").join("libclock_shim.so");
    if !library.exists() {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "--example", "clock_shim"]);
        let built = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status();
        assert!(built.unwrap().success());
    }
    library
}

/// A broker whose wall clock the test can set by writing seconds into a file.
fn with_a_clock_to_set() -> (Real, PathBuf) {
    let place = Place::new();
    let offset = place.path().join("offset");
    set(&offset, 0);
    let (port, management) = (free_port(), free_port());
    let server = Server::start_by(with_shim(&place, &offset), port, management, &[]);
    (Real { server, place }, offset)
}

fn with_shim(place: &Place, offset: &Path) -> Command {
    let mut command = place.command();
    command.env("LD_PRELOAD", shim());
    command.env("CBROKER_CLOCK_OFFSET", offset);
    command
}

fn set(offset: &Path, seconds: i64) {
    std::fs::write(offset, seconds.to_string()).unwrap();
}

async fn count(channel: &Channel, queue: &str) -> Option<u32> {
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let found = channel.queue_declare(queue.into(), passive, FieldTable::default());
    found.await.ok().map(|queue| queue.message_count())
}

async fn wait_until_empty(channel: &Channel, queue: &str) {
    let until = Instant::now() + LIMIT;
    while count(channel, queue).await != Some(0) {
        assert!(
            Instant::now() < until,
            "the message outlived its time to live"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn living(milliseconds: u32) -> BasicProperties {
    persistent().with_expiration(milliseconds.to_string().into())
}

#[tokio::test]
async fn a_message_expires_in_time_though_the_clock_was_set_back() {
    let (real, offset) = with_a_clock_to_set();
    let channel = confirming(&real.connect().await).await;
    declare(&channel, "short", durable()).await;
    publish(&channel, "short", b"gone soon", living(2000)).await;
    set(&offset, -7200);
    wait_until_empty(&channel, "short").await;
}

#[tokio::test]
async fn an_unused_queue_expires_in_time_though_the_clock_was_set_back() {
    let (real, offset) = with_a_clock_to_set();
    let mut arguments = FieldTable::default();
    arguments.insert("x-expires".into(), AMQPValue::LongInt(2000));
    let connection = real.connect().await;
    let channel = connection.create_channel().await.unwrap();
    let declared = channel.queue_declare("brief".into(), durable(), arguments);
    declared.await.unwrap();
    set(&offset, -7200);
    let until = Instant::now() + LIMIT;
    loop {
        // Looking at a queue by AMQP would renew its life: the management API does not.
        let queues = real.server.api(&real.place, "/api/queues");
        if queues.as_array().unwrap().is_empty() {
            break;
        }
        assert!(Instant::now() < until, "the queue outlived x-expires");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_clock_set_forward_ends_nothing_early() {
    let (real, offset) = with_a_clock_to_set();
    let channel = confirming(&real.connect().await).await;
    declare(&channel, "long", durable()).await;
    publish(&channel, "long", b"stays", living(3_600_000)).await;
    set(&offset, 7200);
    publish(&channel, "long", b"stays too", living(3_600_000)).await;
    assert_eq!(count(&channel, "long").await, Some(2));
}

#[tokio::test]
async fn a_message_stored_before_the_clock_was_set_back_expires_after_a_restart() {
    let (mut real, offset) = with_a_clock_to_set();
    let channel = confirming(&real.connect().await).await;
    declare(&channel, "short", durable()).await;
    publish(&channel, "short", b"gone soon", living(3000)).await;
    real.server.kill();
    set(&offset, -7200);
    let (port, management) = (real.server.port, real.server.management_port.unwrap());
    real.server = Server::start_by(with_shim(&real.place, &offset), port, management, &[]);
    let channel = real.connect().await.create_channel().await.unwrap();
    wait_until_empty(&channel, "short").await;
}

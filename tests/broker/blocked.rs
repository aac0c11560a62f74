//! Publishers are told to wait when memory is short.

use crate::raw::Raw;
use crate::running::Running;

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_is_told_that_memory_is_low_and_a_consumer_is_not() {
    // One byte is always exceeded.
    let running = Running::with(|config| config.memory_limit_bytes = 1).await;
    let port = running.port();
    let told = tokio::task::spawn_blocking(move || {
        let mut bystander = Raw::open(port);
        let mut publisher = Raw::open(port);
        let blocked = loop {
            publisher.publish(1, "nowhere", b"x");
            publisher.method(1, (20, 20), b"\x01");
            let (_, channel, payload) = publisher.next().unwrap();
            if channel == 0 {
                break payload;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        };
        bystander.method(1, (20, 20), b"\x01");
        bystander.expect(1, (20, 21));
        blocked
    });
    let blocked = told.await.unwrap();
    assert_eq!(&blocked[..4], [0, 10, 0, 60]);
    assert_eq!(&blocked[5..], b"low on memory");
}

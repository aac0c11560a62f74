//! The Unix socket of the broker.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use crate::running::Running;

#[tokio::test(flavor = "multi_thread")]
async fn the_unix_socket_is_this_users_alone_and_goes_with_the_broker() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broker.sock");
    let at = path.clone();
    let mut running = Running::with(move |config| config.unix_socket = Some(at)).await;
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let dialled = path.clone();
    let start = tokio::task::spawn_blocking(move || {
        let mut stream = UnixStream::connect(dialled).unwrap();
        stream.write_all(b"AMQP\0\0\x09\x01").unwrap();
        let mut start = [0; 11];
        stream.read_exact(&mut start).unwrap();
        start
    });
    assert_eq!(
        &start.await.unwrap()[7..],
        [0, 10, 0, 10],
        "connection.start"
    );
    running.stop().await;
    assert!(!path.exists());
}

//! The end of a connection that has not logged in.

#![allow(clippy::unwrap_used)]
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::fault::{Fault, ReplyCode};
use crate::tests::opened;

/// The handshake did not notice the end of the broker, which waited until it cut the socket.
#[tokio::test]
async fn a_connection_without_a_login_ends_when_it_is_told_to() {
    const LONG: Duration = Duration::from_hours(1);
    let (broker, _kept) = opened().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (read, write) = listener.accept().await.unwrap().0.into_split();
    let end = || SocketEnd {
        host: "127.0.0.1".to_owned(),
        port: 1,
    };
    let accepted = AcceptedSocket {
        read: Box::new(read),
        write: Box::new(write),
        peer: end(),
        local: end(),
        is_tls: false,
        place: None,
    };
    let serving = tokio::spawn(serve(Arc::clone(&broker), accepted));
    while broker.connections().is_empty() {
        tokio::task::yield_now().await;
    }
    let fault = Fault::connection(ReplyCode::ConnectionForced, "the broker ends");
    let ended = tokio::time::timeout(Duration::from_secs(5), broker.end_all(&fault, LONG));
    assert!(ended.await.is_ok());
    serving.await.unwrap();
    broker.store.clone().close().unwrap();
}

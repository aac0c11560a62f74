//! The end of a connection that has not logged in.

#![allow(clippy::unwrap_used)]
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::fault::{Fault, ReplyCode};
use crate::registry::ConnectionEnding;
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

/// Every part of a connection has a limit of its own, so that the broker ended a few seconds later
/// without this one. Here nothing serves the connection, and so nothing else ends it.
#[tokio::test]
async fn a_connection_that_does_not_end_is_cut_once_the_patience_is_over() {
    let (broker, _kept) = opened().await;
    let end = || SocketEnd {
        host: "127.0.0.1".to_owned(),
        port: 1,
    };
    let connection = ConnectionHandle::new(broker.next_id(), (end(), end()), false, 0);
    let connection = Arc::new(connection);
    lock(&broker.connections).insert(connection.id, Arc::clone(&connection));
    let fault = Fault::connection(ReplyCode::ConnectionForced, "the broker ends");
    let patience = Duration::from_millis(10);
    let ended = tokio::time::timeout(Duration::from_secs(20), broker.end_all(&fault, patience));
    assert!(ended.await.is_ok(), "the broker waits for ever");
    let ending = connection.ending.subscribe();
    assert!(*ending.borrow() == Some(ConnectionEnding::Cut));
    broker.store.clone().close().unwrap();
}

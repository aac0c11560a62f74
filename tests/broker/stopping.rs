//! The end of `serve`: no client delays it for ever.

use std::io::{Read, Write};
use std::net::TcpStream;

use rustix::process::Signal;

use crate::raw::Raw;
use crate::real::Real;
use crate::support::wait_until;

/// The user and the password of a broker's URL.
fn login(url: &str) -> (String, String) {
    let login = url.split("//").nth(1).unwrap().rsplit_once('@').unwrap().0;
    let (user, password) = login.split_once(':').unwrap();
    (user.to_owned(), password.to_owned())
}

/// Two limits end these clients: that of the end of all connections, and those of the connection
/// itself (for an answer to `connection.close`, and for its last frames), which alone take a few
/// seconds longer. `broker/src/connection/tests.rs` tests the first without the others.
#[test]
fn clients_that_answer_nothing_do_not_keep_the_broker_from_its_end() {
    let mut real = Real::start();
    let (user, password) = login(&real.url());
    // It is never read again, so it does not answer `connection.close`; heartbeats are off.
    let mut deaf = Raw::open_as(real.server.port, &user, &password);
    let _before_login = Raw::silent(real.server.port);
    let management = ("127.0.0.1", real.server.management_port.unwrap());
    let mut half = TcpStream::connect(management).unwrap();
    half.write_all(b"GET /api/overview HTTP/1.1\r\nhost: loc")
        .unwrap();
    let mut kept = TcpStream::connect(management).unwrap();
    kept.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .unwrap();
    kept.read_exact(&mut [0; 12]).unwrap();
    real.server.signal(Signal::TERM);
    let mut ended = None;
    wait_until(
        || {
            ended = real.server.try_wait();
            ended.is_some()
        },
        || "the end of the broker".to_owned(),
    );
    assert_eq!(ended.unwrap().code(), Some(0));
    let (code, _) = deaf.closed().unwrap();
    assert_eq!(code, 320, "it was told to close");
}

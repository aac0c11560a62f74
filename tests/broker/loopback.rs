//! `localhost` may mean 127.0.0.1 or `[::1]`: whoever names no address is served on both.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};

use crate::support::{Place, Server, free_port, skip};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// Whether an AMQP server answers there with its `connection.start`.
fn speaks_amqp(address: IpAddr, port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect((address, port)) else {
        return false;
    };
    stream.write_all(b"AMQP\0\0\x09\x01").unwrap();
    let mut start = [0; 11];
    stream.read_exact(&mut start).is_ok() && start[7..] == [0, 10, 0, 10]
}

/// Whether the management API answers there and asks who it is.
fn speaks_http(address: IpAddr, port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect((address, port)) else {
        return false;
    };
    let ask = "GET /api/overview HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(ask.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.starts_with("HTTP/1.1 401")
}

fn has_v6() -> bool {
    let has = TcpListener::bind((V6, 0)).is_ok();
    if !has {
        skip("this machine has no [::1]");
    }
    has
}

#[test]
fn free_ports_are_the_same_on_both_loopback_addresses() {
    if !has_v6() {
        return;
    }
    let server = Server::start(&Place::new());
    let management = server.management_port.unwrap();
    for address in [V4, V6] {
        assert!(speaks_amqp(address, server.port), "{address}");
        assert!(speaks_http(address, management), "{address}");
    }
}

#[test]
fn given_ports_are_taken_on_both_loopback_addresses_again_after_a_kill() {
    if !has_v6() {
        return;
    }
    let place = Place::new();
    let (port, management) = (free_port(), free_port());
    let mut server = Server::start_with(&place, port, management, &[]);
    assert!(speaks_amqp(V6, port) && speaks_http(V6, management));
    server.kill_and_restart(&place);
    assert!(speaks_amqp(V6, port) && speaks_http(V6, management));
}

#[test]
fn an_address_that_was_named_is_the_only_one() {
    if !has_v6() {
        return;
    }
    for (named, other) in [(V4, V6), (V6, V4)] {
        let place = Place::new();
        let named_so = ["--bind", &named.to_string()];
        let server = Server::start_with(&place, free_port(), free_port(), &named_so);
        let management = server.management_port.unwrap();
        assert!(speaks_amqp(named, server.port) && speaks_http(named, management));
        place.ok(["send", "--to", "a", "-m", "x"]);
        assert!(
            place.ok(["list"]).contains('a'),
            "and by the management API"
        );
        assert!(!speaks_amqp(other, server.port) && !speaks_http(other, management));
    }
}

#[test]
fn a_port_that_another_program_has_on_one_address_is_not_served_on_the_other() {
    // Whoever connects to `localhost` could reach the other program instead.
    if !has_v6() {
        return;
    }
    for address in [V4, V6] {
        let place = Place::new();
        let port = free_port();
        let other = TcpListener::bind((address, port)).unwrap();
        other.set_nonblocking(true).unwrap();
        let in_use = format!("port {port} is in use");
        let ports = [port.to_string(), free_port().to_string()];
        for verb in ["start", "serve"] {
            let started = place.run([verb, "--port", &ports[0], "--mgmt-port", &ports[1]]);
            started
                .fails(1, &in_use)
                .hints("choose another with --port");
        }
        let asked = other.accept().map(|(_, address)| address);
        assert!(asked.is_err(), "it was sent something: {asked:?}");
    }
}

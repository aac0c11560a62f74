//! A client that does not read what it has asked for.

use std::time::Duration;

use crate::loaded::{PLAIN, declare, declaring, method, publishing};
use crate::raw::{Raw, short};
use crate::running::Running;
use crate::support::wait_until;

/// Code of the answer to a look at a queue that is missing or another connection's, on a channel
/// that ends with it.
fn look(bystander: &mut Raw, queue: &str) -> u16 {
    bystander.method(2, (20, 10), &short(""));
    bystander.expect(2, (20, 11));
    let passive = [&b"\0\0"[..], &short(queue), b"\x01\0\0\0\0"].concat();
    bystander.method(2, (50, 10), &passive);
    let (code, _) = bystander.closed().unwrap();
    bystander.method(2, (20, 41), b"");
    code
}

/// A get, and a nack that puts the message back.
fn get_and_nack(queue: &str) -> Vec<u8> {
    let get = method(1, (60, 70), &[&b"\0\0"[..], &short(queue), b"\0"].concat());
    let nack = method(1, (60, 120), &[&0_u64.to_be_bytes()[..], b"\x03"].concat());
    [get, nack].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_answers_that_a_client_does_not_read_waits_until_it_reads_them() {
    let running = Running::new().await;
    let port = running.port();
    let seen = tokio::task::spawn_blocking(move || {
        let (mut client, mut bystander) = (Raw::open(port), Raw::open(port));
        declare(&mut client, "q");
        client.bytes(&publishing(1, ("", "q"), 0, PLAIN, &vec![7; 1_000_000]));
        client.bytes(&get_and_nack("q").repeat(40));
        client.method(1, (50, 10), &declaring("behind", b"\0"));
        for _ in 0..10 {
            assert_eq!(look(&mut bystander, "behind"), 404);
            std::thread::sleep(Duration::from_millis(100));
        }
        while !client.next().unwrap().2.starts_with(&[0, 50, 0, 11]) {}
        bystander.method(1, (50, 10), &declaring("behind", b"\x01"));
        bystander.expect(1, (50, 11));
    });
    seen.await.unwrap();
}

/// What its sockets take is a few MiB; the rest waits in the broker.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_though_much_waits_for_it_is_cut_off() {
    let running = Running::with(|config| config.limits.unread = Duration::from_secs(1)).await;
    let port = running.port();
    let seen = tokio::task::spawn_blocking(move || {
        let (mut client, mut bystander) = (Raw::open(port), Raw::open(port));
        let exclusive = [&b"\0\0"[..], &short("own"), b"\x04\0\0\0\0"].concat();
        client.method(1, (50, 10), &exclusive);
        client.expect(1, (50, 11));
        client.bytes(&publishing(1, ("", "own"), 0, PLAIN, &vec![7; 1_000_000]));
        assert_eq!(look(&mut bystander, "own"), 405, "it is there");
        client.bytes(&get_and_nack("own").repeat(100));
        wait_until(
            || look(&mut bystander, "own") != 405,
            || "it is there for ever".into(),
        );
    });
    seen.await.unwrap();
}

/// The store waits for a commit that has begun, and everybody's confirms wait for the store.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_goes_to_its_end_though_its_client_reads_nothing() {
    /// More than one unit of work gives a message to.
    const QUEUES: u32 = 5_000;
    let running = Running::new().await;
    let port = running.port();
    let seen = tokio::task::spawn_blocking(move || {
        let (mut client, mut bystander) = (Raw::open(port), Raw::open(port));
        for number in 0..QUEUES {
            let queue = format!("q{number}");
            declare(&mut bystander, &queue);
            let names = [short(&queue), short("amq.fanout"), short("")].concat();
            let bind = [&b"\0\0"[..], &names, b"\0\0\0\0\0"].concat();
            bystander.method(1, (50, 20), &bind);
            bystander.expect(1, (50, 21));
        }
        client.method(1, (90, 10), b"");
        client.expect(1, (90, 11));
        let mandatory = publishing(1, ("", "nowhere"), 1, PLAIN, &vec![7; 1_000_000]);
        client.bytes(&mandatory.repeat(30));
        client.bytes(&publishing(1, ("amq.fanout", ""), 0, PLAIN, b"x"));
        client.method(1, (90, 20), b"");
        for number in 0..QUEUES {
            let passive = declaring(&format!("q{number}"), b"\x01");
            let has_it = || {
                bystander.method(1, (50, 10), &passive);
                let ok = bystander.expect(1, (50, 11));
                ok[1 + usize::from(ok[0])..].starts_with(&1_u32.to_be_bytes())
            };
            wait_until(has_it, || format!("q{number} is still empty"));
        }
        while !client.next().unwrap().2.starts_with(&[0, 90, 0, 21]) {}
    });
    seen.await.unwrap();
}

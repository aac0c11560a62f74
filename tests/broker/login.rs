//! Logins as an attacker tries them: forged log lines, guessed passwords, the user `guest`, and
//! SCRAM, which sends no password.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use lapin::{Connection, ConnectionProperties};
use sha2::{Digest, Sha256};

use crate::raw::{Raw, long, short};
use crate::running::{PASSWORD, Running, USER};

/// Control characters, line ends and overrides that must not come back or reach a log.
const FORGED: &str = "x\r\n2026 INFO forged\x1b[2J\u{202e}";

fn is_clean(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() || c == '\u{202e}')
}

/// A client that was asked for its login.
fn asked(port: u16) -> Raw {
    let mut raw = Raw::silent(port);
    raw.bytes(b"AMQP\0\0\x09\x01");
    raw.expect(0, (10, 10));
    raw
}

/// Logs in with this mechanism and response; the client understands a refusal.
fn start(port: u16, mechanism: &str, response: &[u8]) -> Raw {
    let mut raw = asked(port);
    start_ok(&mut raw, mechanism, response);
    raw
}

/// `connection.start-ok`.
fn start_ok(raw: &mut Raw, mechanism: &str, response: &[u8]) {
    let claim = [short("authentication_failure_close"), b"t\x01".to_vec()].concat();
    let table = [short("capabilities"), b"F".to_vec(), long(&claim)].concat();
    let arguments = [
        long(&table),
        short(mechanism),
        long(response),
        short("en_US"),
    ]
    .concat();
    raw.method(0, (10, 11), &arguments);
}

fn plain(port: u16, password: &str) -> Raw {
    start(port, "PLAIN", response(password).as_bytes())
}

fn response(password: &str) -> String {
    format!("\0{USER}\0{password}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_mechanism_or_vhost_does_not_come_back_as_it_was_sent() {
    let running = Running::new().await;
    let port = running.port();
    let told = tokio::task::spawn_blocking(move || {
        let (_, mechanism) = start(port, FORGED, b"").closed().unwrap();
        let mut raw = plain(port, PASSWORD);
        let tune = raw.expect(0, (10, 30));
        raw.method(0, (10, 31), &tune);
        raw.method(0, (10, 40), &[short(FORGED), b"\0\0".to_vec()].concat());
        (mechanism, raw.closed().unwrap().1)
    });
    let (mechanism, vhost) = told.await.unwrap();
    assert!(
        is_clean(&mechanism) && mechanism.contains("forged"),
        "{mechanism:?}"
    );
    assert!(is_clean(&vhost) && vhost.contains("forged"), "{vhost:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_login_is_not_answered_and_ends_after_a_while() {
    let running = Running::new().await;
    let port = running.port();
    let ended = tokio::task::spawn_blocking(move || {
        let malformed: [&[u8]; 3] = [b"", b"ada", b"\0ada"];
        let mut all = malformed.map(|response| (Instant::now(), start(port, "PLAIN", response)));
        all.each_mut().map(|(begun, raw)| {
            assert_eq!(raw.next(), None, "an answer");
            begun.elapsed()
        })
    });
    for waited in ended.await.unwrap() {
        // A slow machine makes it longer only.
        assert!(waited >= Duration::from_secs(3), "after {waited:?}");
    }
    // An empty password is one that is wrong.
    let told = tokio::task::spawn_blocking(move || plain(port, "").closed().unwrap());
    assert_eq!(told.await.unwrap().0, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_passwords_a_second_are_not_tried_even_side_by_side() {
    let running = Running::new().await;
    let port = running.port();
    let refused = tokio::task::spawn_blocking(move || {
        for _ in 0..10 {
            assert_eq!(plain(port, "guess").closed().unwrap().0, 403);
        }
        let mut tries: Vec<Raw> = (0..40).map(|_| asked(port)).collect();
        // All of these wait at once; only a few of them are looked at, right as they are.
        for raw in &mut tries {
            start_ok(raw, "PLAIN", response(PASSWORD).as_bytes());
        }
        let outcomes = tries.iter_mut().map(|raw| raw.next().unwrap().2);
        outcomes
            .filter(|payload| payload[..4] == [0, 10, 0, 50])
            .count()
    });
    let refused = refused.await.unwrap();
    assert!(
        (1..40).contains(&refused),
        "{refused} of 40 were refused unseen"
    );
}

fn mac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// The client's half of RFC 5802 up to the server's last word: its signature, or how it refused.
fn scram(port: u16, user: &str, password: &str) -> Result<Raw, (u16, String)> {
    let first = format!("n={user},r=clientnonce");
    let mut raw = start(port, "SCRAM-SHA-256", format!("n,,{first}").as_bytes());
    let challenge = raw.expect(0, (10, 20))[4..].to_vec();
    let challenge = String::from_utf8(challenge).unwrap();
    let field = |name: &str| {
        let fields = challenge
            .split(',')
            .find_map(|field| field.strip_prefix(name));
        fields.unwrap().to_owned()
    };
    let salt = STANDARD.decode(field("s=")).unwrap();
    let rounds: u32 = field("i=").parse().unwrap();
    assert!(field("r=").starts_with("clientnonce") && field("r=").len() > 30);
    let salted: [u8; 32] =
        pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(password.as_bytes(), &salt, rounds);
    let client_key = mac(&salted, b"Client Key");
    let unproved = format!("c=biws,r={}", field("r="));
    let signed = format!("{first},{challenge},{unproved}");
    let signature = mac(&Sha256::digest(client_key), signed.as_bytes());
    let proof: Vec<u8> = client_key
        .iter()
        .zip(signature)
        .map(|(a, b)| a ^ b)
        .collect();
    let last = format!("{unproved},p={}", STANDARD.encode(proof));
    raw.method(0, (10, 21), &long(last.as_bytes()));
    let (_, _, payload) = raw.next().unwrap();
    if payload[..4] == [0, 10, 0, 50] {
        let text = String::from_utf8_lossy(&payload[7..7 + usize::from(payload[6])]);
        return Err((
            u16::from_be_bytes([payload[4], payload[5]]),
            text.into_owned(),
        ));
    }
    let expected = STANDARD.encode(mac(&mac(&salted, b"Server Key"), signed.as_bytes()));
    assert_eq!(payload[..4], [0, 10, 0, 20]);
    assert_eq!(
        payload[8..],
        *format!("v={expected}").as_bytes(),
        "the server proved itself"
    );
    Ok(raw)
}

#[tokio::test(flavor = "multi_thread")]
async fn scram_logs_in_without_the_password_and_both_sides_prove_it() {
    let mut running = Running::new().await;
    let logged_in = |port: u16| {
        tokio::task::spawn_blocking(move || {
            let mut raw = scram(port, USER, PASSWORD).ok().unwrap();
            raw.method(0, (10, 21), &long(b""));
            let tune = raw.expect(0, (10, 30));
            raw.method(0, (10, 31), &tune);
            raw.method(0, (10, 40), &[short("/"), b"\0\0".to_vec()].concat());
            raw.expect(0, (10, 41));
        })
    };
    logged_in(running.port()).await.unwrap();
    running.restart().await;
    logged_in(running.port()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn scram_refuses_a_wrong_password_and_an_unknown_name_alike() {
    let running = Running::new().await;
    let port = running.port();
    let outcomes = tokio::task::spawn_blocking(move || {
        let wrong = scram(port, USER, "guess").err().unwrap();
        let unknown = scram(port, "nobody", "guess").err().unwrap();
        (wrong, unknown)
    });
    let (wrong, unknown) = outcomes.await.unwrap();
    assert_eq!((wrong.0, &wrong.1), (403, &unknown.1));
    assert!(wrong.1.contains("SCRAM-SHA-256"), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn guest_is_refused_unless_it_is_allowed() {
    for (allow_guest, is_let_in) in [(false, false), (true, true)] {
        let running = Running::with(|config| config.allow_guest = allow_guest).await;
        let url = format!("amqp://guest:guest@127.0.0.1:{}/%2f", running.port());
        let connected = Connection::connect_with_runtime(
            &url,
            ConnectionProperties::default(),
            cbroker::peer::runtime::current(),
        )
        .await;
        assert_eq!(connected.is_ok(), is_let_in);
    }
}

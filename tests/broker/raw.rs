//! A client that may be wrong on purpose: frames by hand over a blocking socket.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::running::{PASSWORD, USER};
use crate::support::PATIENCE;

pub(crate) struct Raw {
    stream: TcpStream,
}

/// A frame as it came: type, channel, payload.
pub(crate) type Frame = (u8, u16, Vec<u8>);

pub(crate) fn short(text: &str) -> Vec<u8> {
    let mut out = vec![u8::try_from(text.len()).unwrap()];
    out.extend_from_slice(text.as_bytes());
    out
}

pub(crate) fn long(bytes: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    out.extend_from_slice(bytes);
    out
}

/// The entry of the capabilities, with these claims.
fn capabilities(names: &[&str]) -> Vec<u8> {
    let mut inner = Vec::new();
    for name in names {
        inner.extend(short(name));
        inner.extend(b"t\x01");
    }
    let mut table = short("capabilities");
    table.push(b'F');
    table.extend(long(&inner));
    table
}

impl Raw {
    pub(crate) fn silent(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        // A broker that is silent or holds a publisher for ever ends the test, not the whole run.
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream }
    }

    /// Logged in to `/` with channel 1 open.
    pub(crate) fn open(port: u16) -> Self {
        Self::open_as(port, USER, PASSWORD)
    }

    pub(crate) fn open_as(port: u16, user: &str, password: &str) -> Self {
        let mut raw = Self::logged_in_as(port, user, password, 0);
        raw.method(1, (20, 10), &short(""));
        raw.expect(1, (20, 11));
        raw
    }

    pub(crate) fn logged_in(port: u16, heartbeat_s: u16) -> Self {
        Self::logged_in_as(port, USER, PASSWORD, heartbeat_s)
    }

    pub(crate) fn logged_in_as(port: u16, user: &str, password: &str, heartbeat_s: u16) -> Self {
        let mut raw = Self::before_open(port, (user, password), heartbeat_s, b"");
        raw.expect(0, (10, 41));
        raw
    }

    /// Sent all of a login, with these entries in the client's properties too; the answer to
    /// `connection.open` is not read yet.
    pub(crate) fn before_open(
        port: u16,
        (user, password): (&str, &str),
        heartbeat_s: u16,
        properties: &[u8],
    ) -> Self {
        let mut raw = Self::silent(port);
        raw.bytes(b"AMQP\0\0\x09\x01");
        raw.expect(0, (10, 10));
        let capabilities = capabilities(&[
            "authentication_failure_close",
            "consumer_cancel_notify",
            "connection.blocked",
        ]);
        let mut ok = long(&[&capabilities[..], properties].concat());
        ok.extend(short("PLAIN"));
        ok.extend(long(format!("\0{user}\0{password}").as_bytes()));
        ok.extend(short("en_US"));
        raw.method(0, (10, 11), &ok);
        let tune = raw.expect(0, (10, 30));
        let mut tune_ok = tune[..6].to_vec();
        tune_ok.extend(heartbeat_s.to_be_bytes());
        raw.method(0, (10, 31), &tune_ok);
        let mut open = short("/");
        open.extend(b"\0\0");
        raw.method(0, (10, 40), &open);
        raw
    }

    /// The socket, for another thread.
    pub(crate) fn stream(&self) -> TcpStream {
        self.stream.try_clone().unwrap()
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let mut frame = vec![kind];
        frame.extend(channel.to_be_bytes());
        frame.extend(long(payload));
        frame.push(0xCE);
        self.bytes(&frame);
    }

    pub(crate) fn method(&mut self, channel: u16, (class, method): (u16, u16), arguments: &[u8]) {
        let mut payload = class.to_be_bytes().to_vec();
        payload.extend(method.to_be_bytes());
        payload.extend_from_slice(arguments);
        self.frame(1, channel, &payload);
    }

    /// A whole publish to the default exchange without properties.
    pub(crate) fn publish(&mut self, channel: u16, queue: &str, body: &[u8]) {
        let mut publish = b"\0\0\0".to_vec();
        publish.extend(short(queue));
        publish.push(0);
        self.method(channel, (60, 40), &publish);
        self.header(channel, body.len() as u64);
        if !body.is_empty() {
            self.frame(3, channel, body);
        }
    }

    /// The same with delivery mode 2.
    pub(crate) fn publish_persistent(&mut self, channel: u16, queue: &str, body: &[u8]) {
        let mut publish = b"\0\0\0".to_vec();
        publish.extend(short(queue));
        publish.push(0);
        self.method(channel, (60, 40), &publish);
        let mut header = b"\0\x3c\0\0".to_vec();
        header.extend((body.len() as u64).to_be_bytes());
        header.extend(b"\x10\0\x02");
        self.frame(2, channel, &header);
        self.frame(3, channel, body);
    }

    /// Whether nothing comes for so long.
    pub(crate) fn is_silent_for(&mut self, time: Duration) -> bool {
        let before = self.stream.read_timeout().unwrap();
        self.stream.set_read_timeout(Some(time)).unwrap();
        let is_silent = self.stream.peek(&mut [0]).is_err();
        self.stream.set_read_timeout(before).unwrap();
        is_silent
    }

    pub(crate) fn header(&mut self, channel: u16, size: u64) {
        let mut header = b"\0\x3c\0\0".to_vec();
        header.extend(size.to_be_bytes());
        header.extend(b"\0\0");
        self.frame(2, channel, &header);
    }

    /// The next frame, or None at the end of the stream or after [`PATIENCE`]. Heartbeats count.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 7];
        self.stream.read_exact(&mut head).ok()?;
        let size = u32::from_be_bytes(head[3..7].try_into().unwrap()) as usize;
        let mut payload = vec![0; size + 1];
        self.stream.read_exact(&mut payload).ok()?;
        assert_eq!(payload.pop(), Some(0xCE), "frames end with CE");
        Some((head[0], u16::from_be_bytes([head[1], head[2]]), payload))
    }

    /// The arguments of the next method, which must be this one.
    pub(crate) fn expect(&mut self, channel: u16, (class, method): (u16, u16)) -> Vec<u8> {
        let (kind, on, payload) = self.next().unwrap();
        let ids = [class.to_be_bytes(), method.to_be_bytes()].concat();
        assert_eq!(
            (kind, on, &payload[..4]),
            (1, channel, &ids[..]),
            "{payload:?}"
        );
        payload[4..].to_vec()
    }

    /// Code and text of the next close of the channel or connection; None when the socket just
    /// ends.
    pub(crate) fn closed(&mut self) -> Option<(u16, String)> {
        loop {
            let (kind, _, payload) = self.next()?;
            let ids = payload.get(..4).unwrap_or_default();
            if kind == 1 && (ids == [0, 10, 0, 50] || ids == [0, 20, 0, 40]) {
                let code = u16::from_be_bytes([payload[4], payload[5]]);
                let text = &payload[7..7 + usize::from(payload[6])];
                return Some((code, String::from_utf8(text.to_vec()).unwrap()));
            }
        }
    }
}

//! A blocking AMQP client: opens a connection and one channel, asks one thing at a time.
//!
//! The loads of [`crate::load`] take the socket over once the topology stands.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::wire::{self, Frame, Payload, method};

const PATIENCE: Duration = Duration::from_mins(2);

/// Where a broker is and who asks.
#[derive(Clone)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) vhost: String,
}

impl Address {
    /// From `amqp://user:password@host:port/vhost`; what is missing is guest, guest, 5672 and `/`.
    pub(crate) fn parse(url: &str) -> Option<Self> {
        let rest = url.strip_prefix("amqp://")?;
        let (authority, vhost) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, place) = authority
            .rsplit_once('@')
            .unwrap_or(("guest:guest", authority));
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        let (host, port) = place.split_once(':').unwrap_or((place, "5672"));
        let vhost = if vhost.is_empty() {
            "/".to_owned()
        } else {
            vhost.replace("%2F", "/").replace("%2f", "/")
        };
        Some(Self {
            host: host.to_owned(),
            port: port.parse().ok()?,
            user: user.to_owned(),
            password: password.to_owned(),
            vhost,
        })
    }
}

/// What a queue survives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Durable,
    Transient,
}

/// How a consumer settles what it gets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settling {
    Automatic,
    /// One ack with `multiple` every so many deliveries, under this prefetch.
    Every {
        deliveries: u32,
        prefetch: u16,
    },
}

/// An open connection with channel 1.
pub(crate) struct Client {
    stream: TcpStream,
    pub(crate) frame_max: usize,
    incoming: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(address: &Address) -> io::Result<Self> {
        let stream = TcpStream::connect((address.host.as_str(), address.port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut client = Self {
            stream,
            frame_max: 131_072,
            incoming: Vec::new(),
        };
        client.stream.write_all(b"AMQP\0\0\x09\x01")?;
        client.wait(method::CONNECTION_START)?;
        let secret = format!("\0{}\0{}", address.user, address.password);
        let start_ok = Payload::method(method::CONNECTION_START_OK)
            .blob(b"")
            .name("PLAIN");
        client.send(0, &start_ok.blob(secret.as_bytes()).name("en_US"))?;
        let tune = client.wait(method::CONNECTION_TUNE)?;
        let offered = wire::read_u32(&tune, 6);
        let frame_max = if offered == 0 {
            131_072
        } else {
            offered.min(131_072)
        };
        client.frame_max = frame_max as usize;
        client.send(
            0,
            &Payload::method(method::CONNECTION_TUNE_OK)
                .short(2047)
                .long(frame_max)
                .short(0),
        )?;
        client.send(
            0,
            &Payload::method(method::CONNECTION_OPEN)
                .name(&address.vhost)
                .name("")
                .byte(0),
        )?;
        client.wait(method::CONNECTION_OPEN_OK)?;
        client.call(
            &Payload::method(method::CHANNEL_OPEN).name(""),
            method::CHANNEL_OPEN_OK,
        )?;
        Ok(client)
    }

    /// Declares a queue; the number of messages that wait in it.
    pub(crate) fn declare(&mut self, queue: &str, life: Life) -> io::Result<u32> {
        let durable = if life == Life::Durable { 2 } else { 0 };
        let request = Payload::method(method::QUEUE_DECLARE)
            .short(0)
            .name(queue)
            .byte(durable)
            .blob(b"");
        let answer = self.call(&request, method::QUEUE_DECLARE_OK)?;
        let name_length = answer.get(4).copied().unwrap_or(0) as usize;
        Ok(wire::read_u32(&answer, 5 + name_length))
    }

    pub(crate) fn delete(&mut self, queue: &str) -> io::Result<()> {
        let request = Payload::method(method::QUEUE_DELETE)
            .short(0)
            .name(queue)
            .byte(0);
        self.call(&request, method::QUEUE_DELETE_OK).map(drop)
    }

    pub(crate) fn declare_exchange(&mut self, exchange: &str, kind: &str) -> io::Result<()> {
        let request = Payload::method(method::EXCHANGE_DECLARE)
            .short(0)
            .name(exchange)
            .name(kind);
        self.call(&request.byte(0).blob(b""), method::EXCHANGE_DECLARE_OK)
            .map(drop)
    }

    pub(crate) fn delete_exchange(&mut self, exchange: &str) -> io::Result<()> {
        let request = Payload::method(method::EXCHANGE_DELETE)
            .short(0)
            .name(exchange)
            .byte(0);
        self.call(&request, method::EXCHANGE_DELETE_OK).map(drop)
    }

    pub(crate) fn bind(&mut self, queue: &str, exchange: &str, key: &str) -> io::Result<()> {
        let request = Payload::method(method::QUEUE_BIND)
            .short(0)
            .name(queue)
            .name(exchange)
            .name(key);
        self.call(&request.byte(0).blob(b""), method::QUEUE_BIND_OK)
            .map(drop)
    }

    pub(crate) fn confirm(&mut self) -> io::Result<()> {
        self.call(
            &Payload::method(method::CONFIRM_SELECT).byte(0),
            method::CONFIRM_SELECT_OK,
        )
        .map(drop)
    }

    pub(crate) fn consume(&mut self, queue: &str, settling: Settling) -> io::Result<()> {
        if let Settling::Every { prefetch, .. } = settling {
            let qos = Payload::method(method::BASIC_QOS)
                .long(0)
                .short(prefetch)
                .byte(0);
            self.call(&qos, method::BASIC_QOS_OK)?;
        }
        let no_ack = if settling == Settling::Automatic {
            2
        } else {
            0
        };
        let request = Payload::method(method::BASIC_CONSUME)
            .short(0)
            .name(queue)
            .name("load")
            .byte(no_ack);
        self.call(&request.blob(b""), method::BASIC_CONSUME_OK)
            .map(drop)
    }

    pub(crate) fn close(mut self) -> io::Result<()> {
        let request = Payload::method(method::CONNECTION_CLOSE)
            .short(200)
            .name("done")
            .short(0)
            .short(0);
        self.send(0, &request)?;
        self.wait(method::CONNECTION_CLOSE_OK).map(drop)
    }

    /// Bytes as they are, for messages that were laid out beforehand.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Waits for one method and gives its payload.
    pub(crate) fn wait(&mut self, wanted: u32) -> io::Result<Vec<u8>> {
        loop {
            let (kind, payload) = self.next_frame()?;
            if kind != wire::METHOD {
                continue;
            }
            match wire::read_u32(&payload, 0) {
                found if found == wanted => return Ok(payload),
                method::CONNECTION_CLOSE | method::CHANNEL_CLOSE => {
                    return Err(wire::fault(format!(
                        "closed: {}",
                        wire::close_reason(&payload)
                    )));
                }
                _ => {}
            }
        }
    }

    /// The next whole frame, whatever it is.
    pub(crate) fn next_frame(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut chunk = [0; 16_384];
        loop {
            if let Some(frame) = Frame::split(&self.incoming)? {
                let (kind, payload, length) = (frame.kind, frame.payload.to_vec(), frame.length);
                self.incoming.drain(..length);
                return Ok((kind, payload));
            }
            let read = self.stream.read(&mut chunk)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.incoming.extend(&chunk[..read]);
        }
    }

    /// The socket and what was already read from it.
    pub(crate) fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.stream, self.incoming)
    }

    fn call(&mut self, request: &Payload, answer: u32) -> io::Result<Vec<u8>> {
        self.send(1, request)?;
        self.wait(answer)
    }

    fn send(&mut self, channel: u16, payload: &Payload) -> io::Result<()> {
        let mut bytes = Vec::new();
        payload.frame(wire::METHOD, channel, &mut bytes);
        self.stream.write_all(&bytes)
    }
}

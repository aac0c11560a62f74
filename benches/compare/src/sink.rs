//! A broker that does nothing: it takes publishes and hands them to the consumer of that key, byte
//! for byte.
//!
//! What the load reaches against it is the load's own ceiling on this machine. It stores nothing,
//! routes by the routing key alone, and confirms once a read.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::client::Address;
use crate::wire::{self, Frame, Payload, method};

type Consumers = Arc<Mutex<HashMap<String, TcpStream>>>;

/// Starts it on a free port; it ends with the process.
pub(crate) fn start() -> io::Result<Address> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    let consumers = Consumers::default();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let consumers = Arc::clone(&consumers);
            thread::spawn(move || Session::new(stream, consumers).serve());
        }
    });
    let guest = || "guest".to_owned();
    Ok(Address {
        host: "127.0.0.1".into(),
        port,
        user: guest(),
        password: guest(),
        vhost: "/".into(),
    })
}

struct Session {
    stream: TcpStream,
    consumers: Consumers,
    answers: Vec<u8>,
    forward: Vec<u8>,
    key: String,
    delivered: u64,
    published: u64,
    confirms: bool,
}

impl Session {
    fn new(stream: TcpStream, consumers: Consumers) -> Self {
        let (answers, forward, key) = (Vec::new(), Vec::new(), String::new());
        Self {
            stream,
            consumers,
            answers,
            forward,
            key,
            delivered: 0,
            published: 0,
            confirms: false,
        }
    }

    fn serve(mut self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        let mut greeting = [0; 8];
        self.stream.read_exact(&mut greeting)?;
        let start = Payload::method(method::CONNECTION_START)
            .byte(0)
            .byte(9)
            .blob(b"")
            .blob(b"PLAIN")
            .blob(b"en_US");
        self.answer(0, &start);
        let mut incoming = vec![0; 256 * 1024];
        let mut filled = 0;
        loop {
            self.flush()?;
            let read = self.stream.read(&mut incoming[filled..])?;
            if read == 0 {
                return Ok(());
            }
            filled += read;
            let mut at = 0;
            let published = self.published;
            while let Some(frame) = Frame::split(&incoming[at..filled])? {
                at += frame.length;
                self.take(&frame);
            }
            incoming.copy_within(at..filled, 0);
            filled -= at;
            if self.confirms && self.published > published {
                self.answer(
                    1,
                    &Payload::method(method::BASIC_ACK)
                        .long_long(self.published)
                        .byte(1),
                );
            }
        }
    }

    fn take(&mut self, frame: &Frame<'_>) {
        let answer = match frame.method() {
            None => return self.pass_on(frame),
            Some(method::BASIC_PUBLISH) => return self.begin(frame.payload),
            Some(method::BASIC_CONSUME) => {
                let queue = short_string(frame.payload, 6).to_owned();
                if let Ok(stream) = self.stream.try_clone() {
                    self.consumers
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(queue, stream);
                }
                Payload::method(method::BASIC_CONSUME_OK).name("load")
            }
            Some(method::CONNECTION_START_OK) => {
                let tune = Payload::method(method::CONNECTION_TUNE)
                    .short(2047)
                    .long(131_072)
                    .short(0);
                return self.answer(0, &tune);
            }
            Some(method::CONNECTION_OPEN) => {
                return self.answer(0, &Payload::method(method::CONNECTION_OPEN_OK).byte(0));
            }
            Some(method::CONNECTION_CLOSE) => {
                return self.answer(0, &Payload::method(method::CONNECTION_CLOSE_OK));
            }
            Some(method::CHANNEL_OPEN) => Payload::method(method::CHANNEL_OPEN_OK).blob(b""),
            Some(method::QUEUE_DECLARE) => Payload::method(method::QUEUE_DECLARE_OK)
                .name("")
                .long(0)
                .long(0),
            Some(method::QUEUE_DELETE) => Payload::method(method::QUEUE_DELETE_OK).long(0),
            Some(method::BASIC_QOS) => Payload::method(method::BASIC_QOS_OK),
            Some(method::CONFIRM_SELECT) => {
                self.confirms = true;
                Payload::method(method::CONFIRM_SELECT_OK)
            }
            Some(_) => return,
        };
        self.answer(1, &answer);
    }

    fn begin(&mut self, publish: &[u8]) {
        let exchange = publish.get(6).copied().unwrap_or(0) as usize;
        let key = short_string(publish, 7 + exchange);
        if key != self.key {
            key.clone_into(&mut self.key);
        }
        self.published += 1;
        self.delivered += 1;
        let deliver = Payload::method(method::BASIC_DELIVER)
            .name("load")
            .long_long(self.delivered)
            .byte(0);
        deliver
            .name("")
            .name(&self.key)
            .frame(wire::METHOD, 1, &mut self.forward);
    }

    fn pass_on(&mut self, frame: &Frame<'_>) {
        if frame.kind != wire::HEARTBEAT {
            wire::frame(frame.kind, 1, frame.payload, &mut self.forward);
        }
    }

    fn answer(&mut self, channel: u16, payload: &Payload) {
        payload.frame(wire::METHOD, channel, &mut self.answers);
    }

    /// One write to the consumer, one to the peer.
    fn flush(&mut self) -> io::Result<()> {
        if !self.forward.is_empty() {
            let consumer = {
                let consumers = self
                    .consumers
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                consumers
                    .get(&self.key)
                    .and_then(|stream| stream.try_clone().ok())
            };
            if let Some(mut consumer) = consumer {
                consumer.write_all(&self.forward)?;
            }
            self.forward.clear();
        }
        self.stream.write_all(&self.answers)?;
        self.answers.clear();
        Ok(())
    }
}

fn short_string(bytes: &[u8], at: usize) -> &str {
    let length = bytes.get(at).copied().unwrap_or(0) as usize;
    bytes
        .get(at + 1..at + 1 + length)
        .and_then(|name| std::str::from_utf8(name).ok())
        .unwrap_or_default()
}

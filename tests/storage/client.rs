//! A client that is fast enough for a million messages: it writes whole runs of frames and reads
//! into one buffer.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;

use crate::support::PATIENCE;

const QUEUE: &str = "waiting";
/// Deliveries that may be open at once.
const PREFETCH: u16 = 2000;
/// Deliveries settled by one ack.
const ACK_EVERY: u64 = 500;

type Method = (u16, u16);
const CONNECTION_START: Method = (10, 10);
const CONNECTION_START_OK: Method = (10, 11);
const CONNECTION_TUNE: Method = (10, 30);
const CONNECTION_TUNE_OK: Method = (10, 31);
const CONNECTION_OPEN: Method = (10, 40);
const CONNECTION_OPEN_OK: Method = (10, 41);
const CHANNEL_OPEN: Method = (20, 10);
const CHANNEL_OPEN_OK: Method = (20, 11);
const QUEUE_DECLARE: Method = (50, 10);
const QUEUE_DECLARE_OK: Method = (50, 11);
const BASIC_QOS: Method = (60, 10);
const BASIC_QOS_OK: Method = (60, 11);
const BASIC_CONSUME: Method = (60, 20);
const BASIC_CONSUME_OK: Method = (60, 21);
const BASIC_PUBLISH: Method = (60, 40);
const BASIC_DELIVER: Method = (60, 60);
const BASIC_ACK: Method = (60, 80);
const CONFIRM_SELECT: Method = (85, 10);
const CONFIRM_SELECT_OK: Method = (85, 11);

/// A connection with one channel, as `guest`.
pub(crate) struct Client {
    stream: TcpStream,
    incoming: BufReader<TcpStream>,
}

fn short(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

fn frame(kind: u8, channel: u16, payload: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    out.extend(channel.to_be_bytes());
    out.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    out.extend_from_slice(payload);
    out.push(0xCE);
}

fn method((class, method): Method, arguments: &[u8]) -> Vec<u8> {
    [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat()
}

impl Client {
    /// Connects and declares the queue. Returns how many messages wait in it.
    pub(crate) fn open(port: u16) -> (Self, u64) {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let incoming = BufReader::with_capacity(256 * 1024, stream.try_clone().unwrap());
        let mut client = Self { stream, incoming };
        client.write(b"AMQP\0\0\x09\x01");
        client.expect(CONNECTION_START);
        let login = [
            long(b""),
            short("PLAIN"),
            long(b"\0guest\0guest"),
            short("en_US"),
        ]
        .concat();
        client.send(0, CONNECTION_START_OK, &login);
        let mut tune = client.expect(CONNECTION_TUNE);
        tune[6..8].fill(0);
        client.send(0, CONNECTION_TUNE_OK, &tune[..8]);
        client.call(
            0,
            (CONNECTION_OPEN, CONNECTION_OPEN_OK),
            &[&short("/")[..], b"\0\0"].concat(),
        );
        client.call(1, (CHANNEL_OPEN, CHANNEL_OPEN_OK), &short(""));
        let durable = [&b"\0\0"[..], &short(QUEUE), b"\x02", &long(b"")].concat();
        let declared = client.call(1, (QUEUE_DECLARE, QUEUE_DECLARE_OK), &durable);
        let count = declared[1 + QUEUE.len()..].first_chunk::<4>().unwrap();
        (client, u64::from(u32::from_be_bytes(*count)))
    }

    /// Publishes messages `0..count`, so many at a time, and waits for every confirm.
    pub(crate) fn fill(&mut self, count: u64, at_once: u64, body: impl Fn(u64) -> Vec<u8>) {
        self.call(1, (CONFIRM_SELECT, CONFIRM_SELECT_OK), b"\0");
        let publish = method(
            BASIC_PUBLISH,
            &[&b"\0\0\0"[..], &short(QUEUE), b"\0"].concat(),
        );
        let mut sent = 0;
        let mut confirmed = 0;
        while confirmed < count {
            let mut run = Vec::new();
            let until = count.min(confirmed + at_once);
            for number in sent..until {
                let body = body(number);
                frame(1, 1, &publish, &mut run);
                // Only the delivery mode is given: persistent.
                let header = [
                    &b"\0\x3c\0\0"[..],
                    &(body.len() as u64).to_be_bytes(),
                    b"\x10\0\x02",
                ];
                frame(2, 1, &header.concat(), &mut run);
                frame(3, 1, &body, &mut run);
            }
            sent = until;
            self.write(&run);
            let ack = self.expect(BASIC_ACK);
            let tag = u64::from_be_bytes(ack[..8].try_into().unwrap());
            confirmed = if ack[8] == 1 { tag } else { confirmed.max(tag) };
        }
    }

    /// Takes messages `0..count` in this order, checks each body, and settles them.
    pub(crate) fn drain(&mut self, count: u64, body: impl Fn(u64) -> Vec<u8>) {
        let prefetch = [&[0; 4][..], &PREFETCH.to_be_bytes(), &[0]].concat();
        self.call(1, (BASIC_QOS, BASIC_QOS_OK), &prefetch);
        let consume = [
            &b"\0\0"[..],
            &short(QUEUE),
            &short("drain"),
            b"\0",
            &long(b""),
        ]
        .concat();
        self.call(1, (BASIC_CONSUME, BASIC_CONSUME_OK), &consume);
        for number in 0..count {
            let deliver = self.expect(BASIC_DELIVER);
            let tag = u64::from_be_bytes(deliver[6..14].try_into().unwrap());
            let (kind, header) = self.next();
            assert_eq!(kind, 2, "a header follows");
            let (kind, found) = self.next();
            assert_eq!(kind, 3, "one frame of body follows");
            assert_eq!(
                u64::from_be_bytes(header[4..12].try_into().unwrap()),
                found.len() as u64
            );
            assert!(
                found == body(number),
                "message {number} is another or damaged"
            );
            if (number + 1) % ACK_EVERY == 0 || number + 1 == count {
                self.send(1, BASIC_ACK, &[&tag.to_be_bytes()[..], &[1]].concat());
            }
        }
    }

    /// Says goodbye, so that all acks before it have been taken.
    pub(crate) fn close(mut self) {
        self.call(1, ((20, 40), (20, 41)), &[0; 7]);
    }

    fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    fn send(&mut self, channel: u16, ids: Method, arguments: &[u8]) {
        let mut bytes = Vec::new();
        frame(1, channel, &method(ids, arguments), &mut bytes);
        self.write(&bytes);
    }

    fn call(&mut self, channel: u16, (ask, answer): (Method, Method), arguments: &[u8]) -> Vec<u8> {
        self.send(channel, ask, arguments);
        self.expect(answer)
    }

    /// The next frame: its type and payload.
    fn next(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 7];
        self.incoming.read_exact(&mut head).unwrap();
        let size = u32::from_be_bytes(head[3..7].try_into().unwrap()) as usize;
        let mut payload = vec![0; size + 1];
        self.incoming.read_exact(&mut payload).unwrap();
        assert_eq!(payload.pop(), Some(0xCE), "frames end with CE");
        (head[0], payload)
    }

    /// The arguments of the next method, which must be this one.
    fn expect(&mut self, (class, method): Method) -> Vec<u8> {
        let (kind, payload) = self.next();
        let ids = [class.to_be_bytes(), method.to_be_bytes()].concat();
        assert_eq!((kind, &payload[..4]), (1, &ids[..]), "{payload:?}");
        payload[4..].to_vec()
    }
}

//! Publishers and consumers as two small state machines over non-blocking sockets, and the loop
//! that drives many.
//!
//! A thread drives any number of them with `poll`; sockets are filled and emptied in large pieces,
//! so that the load costs far less than any broker under it (`sink` shows how much less).

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::client::{Client, Settling};
use crate::confirms::Confirms;
use crate::histogram::Histogram;
use crate::message::{Arriving, Clock, Layout};
use crate::wire::{self, Frame, Payload, method};

const READ_AT_ONCE: usize = 256 * 1024;
const WRITE_AT_ONCE: usize = 64 * 1024;

/// How fast a publisher goes.
#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// As fast as the socket takes it, this many messages.
    Flood { limit: u64 },
    /// With publisher confirms, at most this many unconfirmed.
    Confirmed { outstanding: u64, limit: u64 },
    /// This many a second, evenly.
    Steady { per_second: u64 },
}

impl Pace {
    /// Nanoseconds until the message after `count` others is due, where the clock decides that.
    fn until_due(self, count: u64, began: u64, now: u64) -> Option<u64> {
        let Self::Steady { per_second } = self else {
            return None;
        };
        let due_at = began + (count + 1) * 1_000_000_000 / per_second;
        Some(due_at.saturating_sub(now))
    }
}

/// What the main thread watches while loads run.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) published: AtomicU64,
    pub(crate) confirmed: AtomicU64,
    pub(crate) consumed: AtomicU64,
    /// No more publishes; consumers go on until `finished`.
    pub(crate) stop: AtomicBool,
    pub(crate) finished: AtomicBool,
}

/// What all ends of one load share.
#[derive(Clone)]
pub(crate) struct Watch {
    pub(crate) counters: Arc<Counters>,
    clock: Clock,
}

impl Watch {
    pub(crate) fn start() -> Self {
        Self {
            counters: Arc::default(),
            clock: Clock::start(),
        }
    }
}

/// One end of a load.
pub(crate) struct End {
    stream: TcpStream,
    incoming: Vec<u8>,
    filled: usize,
    outgoing: Vec<u8>,
    written: usize,
    role: Role,
    /// Messages that this end published or received.
    pub(crate) count: u64,
    pub(crate) latencies: Histogram,
    watch: Watch,
}

enum Role {
    Publisher {
        layout: Layout,
        pace: Pace,
        batch: Vec<u8>,
        copies: usize,
        confirms: Confirms,
        began: u64,
    },
    Consumer {
        arriving: Arriving,
        settling: Settling,
        expect: Expect,
        tag: u64,
        unacked: u32,
    },
}

/// Which sequence numbers a consumer may see.
#[derive(Clone, Copy)]
pub(crate) enum Expect {
    /// Each exactly one above the last: it is alone on its queue.
    Next(u64),
    /// Each above the last: others share the queue.
    Above(Option<u64>),
}

impl End {
    pub(crate) fn publisher(
        client: Client,
        layout: Layout,
        pace: Pace,
        watch: &Watch,
    ) -> io::Result<Self> {
        let copies = (WRITE_AT_ONCE / layout.bytes.len()).max(1);
        let batch = layout.repeated(copies);
        let confirms = Confirms::new(if let Pace::Confirmed { outstanding, .. } = pace {
            outstanding
        } else {
            0
        });
        let began = watch.clock.nanoseconds();
        let role = Role::Publisher {
            layout,
            pace,
            batch,
            copies,
            confirms,
            began,
        };
        Self::new(client, role, watch)
    }

    pub(crate) fn consumer(
        client: Client,
        size: usize,
        settling: Settling,
        expect: Expect,
        watch: &Watch,
    ) -> io::Result<Self> {
        let role = Role::Consumer {
            arriving: Arriving::new(size),
            settling,
            expect,
            tag: 0,
            unacked: 0,
        };
        Self::new(client, role, watch)
    }

    fn new(client: Client, role: Role, watch: &Watch) -> io::Result<Self> {
        let (stream, early) = client.into_parts();
        stream.set_nonblocking(true)?;
        let filled = early.len();
        let mut incoming = early;
        incoming.resize(READ_AT_ONCE.max(filled), 0);
        Ok(Self {
            stream,
            incoming,
            filled,
            outgoing: Vec::new(),
            written: 0,
            role,
            count: 0,
            latencies: Histogram::default(),
            watch: watch.clone(),
        })
    }

    /// All that this end wanted to publish is published and, where asked, confirmed.
    fn is_done(&self) -> bool {
        let stopped = self.watch.counters.stop.load(Ordering::Relaxed);
        match &self.role {
            Role::Consumer { .. } => self.watch.counters.finished.load(Ordering::Relaxed),
            Role::Publisher { pace, confirms, .. } => {
                let written = self.written == self.outgoing.len();
                written
                    && match *pace {
                        Pace::Flood { limit } => stopped || self.count >= limit,
                        Pace::Confirmed { limit, .. } => {
                            confirms.all_confirmed() && (stopped || self.count >= limit)
                        }
                        Pace::Steady { .. } => stopped,
                    }
            }
        }
    }

    /// Prepares what may be published now; returns how long to wait if it is too early.
    fn refill(&mut self) -> Option<u64> {
        let Role::Publisher {
            layout,
            pace,
            batch,
            copies,
            confirms,
            began,
        } = &mut self.role
        else {
            return None;
        };
        if self.written < self.outgoing.len() || self.watch.counters.stop.load(Ordering::Relaxed) {
            return None;
        }
        let now = self.watch.clock.nanoseconds();
        let room = match *pace {
            Pace::Flood { limit } => limit - self.count,
            Pace::Confirmed { limit, .. } => confirms.room().min(limit - self.count),
            Pace::Steady { per_second } => {
                let due = u64::try_from(
                    u128::from(now - *began) * u128::from(per_second) / 1_000_000_000,
                )
                .unwrap_or(0);
                due.saturating_sub(self.count)
            }
        };
        if room == 0 {
            return pace.until_due(self.count, *began, now);
        }
        let taken = usize::try_from(room).unwrap_or(usize::MAX).min(*copies);
        for copy in 0..taken {
            let sequence = self.count + copy as u64;
            layout.stamp(batch, copy, sequence, now);
            if matches!(pace, Pace::Confirmed { .. }) {
                confirms.published(now);
            }
        }
        self.count += taken as u64;
        self.watch
            .counters
            .published
            .fetch_add(taken as u64, Ordering::Relaxed);
        self.outgoing.clear();
        self.outgoing
            .extend_from_slice(&batch[..taken * layout.bytes.len()]);
        self.written = 0;
        pace.until_due(self.count, *began, now)
    }

    fn write(&mut self) -> io::Result<()> {
        while self.written < self.outgoing.len() {
            match self.stream.write(&self.outgoing[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(wrote) => self.written += wrote,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read(&mut self) -> io::Result<()> {
        match self.stream.read(&mut self.incoming[self.filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => self.filled += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
        self.parse()
    }

    /// Takes every whole frame out of what was read.
    fn parse(&mut self) -> io::Result<()> {
        let incoming = std::mem::take(&mut self.incoming);
        let mut at = 0;
        let mut arrived = 0;
        let now = self.watch.clock.nanoseconds();
        while let Some(frame) = Frame::split(&incoming[at..self.filled])? {
            at += frame.length;
            arrived += u64::from(self.take(&frame, now)?);
        }
        self.incoming = incoming;
        self.incoming.copy_within(at..self.filled, 0);
        self.filled -= at;
        if self.filled * 2 > self.incoming.len() {
            self.incoming.resize(self.incoming.len() * 2, 0);
        }
        if arrived > 0 {
            self.watch
                .counters
                .consumed
                .fetch_add(arrived, Ordering::Relaxed);
            self.acknowledge();
        }
        Ok(())
    }

    /// Whether the frame completed a delivery.
    #[inline]
    fn take(&mut self, frame: &Frame<'_>, now: u64) -> io::Result<bool> {
        match (&mut self.role, frame.kind) {
            (Role::Consumer { arriving, .. }, wire::HEADER) => {
                arriving.begin(frame.payload).map(|()| false)
            }
            (
                Role::Consumer {
                    arriving, expect, ..
                },
                wire::BODY,
            ) => {
                let Some(arrived) = arriving.take(frame.payload)? else {
                    return Ok(false);
                };
                expect.check(arrived.sequence)?;
                self.latencies.record(now.saturating_sub(arrived.sent));
                self.count += 1;
                Ok(true)
            }
            (_, wire::METHOD) => self.take_method(frame, now).map(|()| false),
            (_, wire::HEARTBEAT) => Ok(false),
            (_, kind) => Err(wire::fault(format!(
                "a frame of type {kind} in the wrong place"
            ))),
        }
    }

    #[inline]
    fn take_method(&mut self, frame: &Frame<'_>, now: u64) -> io::Result<()> {
        match (&mut self.role, wire::read_u32(frame.payload, 0)) {
            (Role::Consumer { tag, unacked, .. }, method::BASIC_DELIVER) => {
                let name_length = frame.payload.get(4).copied().unwrap_or(0) as usize;
                *tag = wire::read_u64(frame.payload, 5 + name_length);
                *unacked += 1;
                Ok(())
            }
            (Role::Publisher { confirms, .. }, method::BASIC_ACK) => {
                let tag = wire::read_u64(frame.payload, 4);
                let multiple = frame.payload.get(12) == Some(&1);
                let settled = confirms.settle(tag, multiple, now, &mut self.latencies);
                self.watch
                    .counters
                    .confirmed
                    .fetch_add(settled, Ordering::Relaxed);
                Ok(())
            }
            (_, method::CONNECTION_CLOSE | method::CHANNEL_CLOSE) => Err(wire::fault(format!(
                "closed: {}",
                wire::close_reason(frame.payload)
            ))),
            (_, method::BASIC_NACK) => Err(wire::fault("a publish was refused")),
            _ => Ok(()),
        }
    }

    fn acknowledge(&mut self) {
        let Role::Consumer {
            settling: Settling::Every { deliveries, .. },
            tag,
            unacked,
            ..
        } = &mut self.role
        else {
            return;
        };
        if *unacked < *deliveries {
            return;
        }
        *unacked = 0;
        if self.written == self.outgoing.len() {
            self.outgoing.clear();
            self.written = 0;
        }
        let ack = Payload::method(method::BASIC_ACK).long_long(*tag).byte(1);
        ack.frame(wire::METHOD, 1, &mut self.outgoing);
    }
}

impl Expect {
    #[inline]
    fn check(&mut self, sequence: u64) -> io::Result<()> {
        match self {
            Self::Next(next) if *next == sequence => *next += 1,
            Self::Above(last) if last.is_none_or(|last| last < sequence) => *last = Some(sequence),
            Self::Next(next) => {
                return Err(wire::fault(format!(
                    "message {sequence} where {next} was due"
                )));
            }
            Self::Above(last) => {
                return Err(wire::fault(format!("message {sequence} after {last:?}")));
            }
        }
        Ok(())
    }
}

/// Drives all `ends` until each is done, and gives them back.
pub(crate) fn drive(mut ends: Vec<End>) -> io::Result<Vec<End>> {
    // The usual 50 µs would put messages that are due every 100 µs out in pairs.
    #[cfg(target_os = "linux")]
    rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1))?;
    for end in &mut ends {
        end.parse()?;
    }
    loop {
        let mut shortest_wait = 20_000_000;
        let mut busy = false;
        for end in &mut ends {
            if let Some(wait) = end.refill() {
                shortest_wait = shortest_wait.min(wait);
            }
            end.write()?;
            busy |= !end.is_done();
        }
        if !busy {
            return Ok(ends);
        }
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: i64::try_from(shortest_wait).unwrap_or(0),
        };
        let ready: Vec<PollFlags> = {
            let mut polled: Vec<PollFd<'_>> = ends
                .iter()
                .map(|end| PollFd::new(&end.stream, end.interest()))
                .collect();
            poll(&mut polled, Some(&timeout))?;
            polled.iter().map(PollFd::revents).collect()
        };
        for (end, flags) in ends.iter_mut().zip(ready) {
            if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                end.read()?;
            }
        }
    }
}

impl End {
    fn interest(&self) -> PollFlags {
        let can_write_more = self.written < self.outgoing.len() || self.wants_flood();
        if can_write_more {
            PollFlags::IN | PollFlags::OUT
        } else {
            PollFlags::IN
        }
    }

    fn wants_flood(&self) -> bool {
        match &self.role {
            Role::Publisher {
                pace: Pace::Flood { limit },
                ..
            } => self.count < *limit && !self.watch.counters.stop.load(Ordering::Relaxed),
            _ => false,
        }
    }
}

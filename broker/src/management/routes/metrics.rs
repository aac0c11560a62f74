//! The metrics in the text format of Prometheus.

use std::fmt::{self, Write};
use std::time::Instant;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::Routes;
use crate::inspect::{self, QueueSnapshot};
use crate::management::auth::Caller;
use crate::management::refusal::ApiError;
use crate::management::user_memory::{self, UserHolding};
use crate::management::{Api, SharedApi, system_metrics};

pub(super) fn routes(routes: Routes) -> Routes {
    routes.get("/metrics", "figures for Prometheus", metrics)
}

/// One family of samples: its name without the prefix, and what it means.
struct MetricFamily {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
}

/// The response as it grows, charged to the caller.
struct MetricsText {
    lines: String,
    /// Bytes of what the lines are made of.
    beside: usize,
    holding: UserHolding,
}

impl MetricsText {
    fn of(holding: UserHolding) -> Self {
        Self {
            lines: String::new(),
            beside: 0,
            holding,
        }
    }

    /// Refused if the user's limit is exceeded.
    fn hold(&mut self) -> Result<(), ApiError> {
        self.holding.set(self.lines.capacity() + self.beside)
    }

    fn family(&mut self, family: &MetricFamily) {
        let MetricFamily { name, kind, help } = family;
        self.line(format_args!("# HELP cbroker_{name} {help}"));
        self.line(format_args!("# TYPE cbroker_{name} {kind}"));
    }

    fn single(&mut self, name: &'static str, kind: &'static str, help: &'static str, value: u64) {
        self.family(&MetricFamily { name, kind, help });
        self.line(format_args!("cbroker_{name} {value}"));
    }

    fn line(&mut self, line: fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.lines, "{line}");
    }
}

async fn metrics(State(api): State<SharedApi>, caller: Caller) -> Result<Response, ApiError> {
    caller.monitors()?;
    let shared = SharedApi::clone(&api);
    let mut text = MetricsText::of(api.holdings.of(&caller.name));
    let work = move || {
        everything(&shared, &mut text)?;
        user_memory::with_holding(text.lines.into_bytes(), text.holding)
    };
    let text = api.run_in_slot(&caller, work).await?;
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

fn everything(api: &Api, text: &mut MetricsText) -> Result<(), ApiError> {
    api.rates.observe(&api.broker, Instant::now());
    process(api, text);
    traffic(api, text);
    queues(api, text)
}

fn process(api: &Api, text: &mut MetricsText) {
    let alarms = api.broker.alarm_state();
    let (disk_bytes, pending_bytes) = inspect::store_bytes(&api.broker);
    let (descriptors, most) = system_metrics::descriptors();
    text.family(&MetricFamily {
        name: "build_info",
        kind: "gauge",
        help: "The version that runs.",
    });
    text.line(format_args!(
        "cbroker_build_info{{version=\"{}\"}} 1",
        env!("CARGO_PKG_VERSION")
    ));
    for (name, help, value) in [
        (
            "uptime_seconds",
            "Since the start.",
            api.started.elapsed().as_secs(),
        ),
        (
            "process_resident_memory_bytes",
            "Memory of the process.",
            system_metrics::memory_bytes(),
        ),
        ("process_open_fds", "Open file descriptors.", descriptors),
        ("process_max_fds", "How many there may be.", most),
        ("store_disk_bytes", "Size of the store on disk.", disk_bytes),
        (
            "store_pending_bytes",
            "Bytes that wait for their commit.",
            pending_bytes,
        ),
        (
            "disk_free_bytes",
            "Free room on the store's disk.",
            system_metrics::disk_free_bytes(&api.about.data_dir),
        ),
        (
            "alarm_memory",
            "1 while publishers wait for memory.",
            alarms.is_memory_high.into(),
        ),
        (
            "alarm_disk",
            "1 while publishers wait for room on disk.",
            alarms.is_disk_full.into(),
        ),
        (
            "alarm_store_stopped",
            "1 after the store has failed.",
            alarms.is_stopped.into(),
        ),
    ] {
        text.single(name, "gauge", help, value);
    }
}

type MetricSample = (&'static str, &'static str, u64);

fn traffic(api: &Api, text: &mut MetricsText) {
    for (name, help, value) in counted(api) {
        text.single(name, "counter", help, value);
    }
    let connections = inspect::connections(&api.broker);
    let channels = connections
        .iter()
        .map(|connection| connection.channel_count() as u64)
        .sum();
    let queues = api.rates.overall().queues.counts;
    for (name, help, value) in [
        ("connections", "Open connections.", connections.len() as u64),
        ("channels", "Open channels.", channels),
        (
            "messages_ready",
            "Messages that wait for a consumer.",
            queues[7],
        ),
        (
            "messages_unacked",
            "Messages in consumers' hands.",
            queues[8],
        ),
        (
            "longest_work_unit_steps",
            "The most work that was done before others were served, in steps like one delivery.",
            api.broker.totals.longest_work_unit.get(),
        ),
    ] {
        text.single(name, "gauge", help, value);
    }
}

fn counted(api: &Api) -> [MetricSample; 14] {
    let (totals, overall) = (&api.broker.totals, api.rates.overall());
    let (queues, channels) = (overall.queues.counts, overall.channels.counts);
    let opened = totals.connections_opened.get();
    let closed = totals.connections_closed.get();
    let (entered, left) = (totals.channels_opened.get(), totals.channels_closed.get());
    let (made, gone) = (totals.queues_declared.get(), totals.queues_deleted.get());
    [
        (
            "connections_opened_total",
            "Connections ever opened.",
            opened,
        ),
        (
            "connections_closed_total",
            "Connections ever closed.",
            closed,
        ),
        ("channels_opened_total", "Channels ever opened.", entered),
        ("channels_closed_total", "Channels ever closed.", left),
        ("queues_declared_total", "Queues ever declared.", made),
        ("queues_deleted_total", "Queues ever deleted.", gone),
        (
            "logins_refused_total",
            "Wrong names and passwords.",
            totals.logins_refused.get(),
        ),
        (
            "messages_published_total",
            "Messages that clients published.",
            channels[0],
        ),
        (
            "messages_confirmed_total",
            "Publishes that were confirmed.",
            channels[1],
        ),
        (
            "messages_unroutable_total",
            "Publishes that came back.",
            channels[2],
        ),
        (
            "messages_delivered_total",
            "Messages handed to consumers.",
            queues[2],
        ),
        (
            "messages_got_total",
            "Messages fetched one by one.",
            queues[3],
        ),
        ("messages_acked_total", "Messages acknowledged.", queues[4]),
        (
            "messages_redelivered_total",
            "Messages handed out again.",
            queues[5],
        ),
    ]
}

/// A metric of each queue: name, type, help text, and its value in a snapshot.
type QueueFamily = (
    &'static str,
    &'static str,
    &'static str,
    fn(&QueueSnapshot) -> u64,
);

const QUEUE_FAMILIES: [QueueFamily; 5] = [
    (
        "queue_messages_ready",
        "gauge",
        "Messages that wait in a queue.",
        |seen| seen.ready,
    ),
    (
        "queue_messages_unacked",
        "gauge",
        "Messages of a queue in consumers' hands.",
        |seen| seen.unsettled,
    ),
    (
        "queue_message_bytes",
        "gauge",
        "Bytes of bodies that wait in a queue.",
        |seen| seen.ready_bytes,
    ),
    (
        "queue_consumers",
        "gauge",
        "Consumers of a queue.",
        |seen| seen.consumers as u64,
    ),
    (
        "queue_messages_published_total",
        "counter",
        "Messages that ever entered a queue.",
        |seen| seen.counters.published,
    ),
];

/// The number of queues between two updates of the user's charge.
const COUNTED: usize = 64;

fn queues(api: &Api, text: &mut MetricsText) -> Result<(), ApiError> {
    let mut seen = Vec::new();
    for vhost in api.broker.vhosts() {
        for queue in inspect::queues(&vhost) {
            let one = (labels(queue.vhost(), queue.name()), queue.snapshot());
            text.beside += size_of_val(&one) + one.0.capacity();
            seen.push(one);
            if seen.len().is_multiple_of(COUNTED) {
                text.hold()?;
            }
        }
    }
    text.single("queues", "gauge", "Queues.", seen.len() as u64);
    for (name, kind, help, value) in QUEUE_FAMILIES {
        text.family(&MetricFamily { name, kind, help });
        for some in seen.chunks(COUNTED) {
            for (labels, snapshot) in some {
                text.line(format_args!(
                    "cbroker_{name}{{{labels}}} {}",
                    value(snapshot)
                ));
            }
            text.hold()?;
        }
    }
    Ok(())
}

fn labels(vhost: &str, queue: &str) -> String {
    format!("vhost=\"{}\",queue=\"{}\"", escaped(vhost), escaped(queue))
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::{COUNTED, MetricsText, labels, queues};
    use crate::management::tests::TestApi;

    #[tokio::test]
    async fn figures_of_many_queues_are_held_while_they_are_made() {
        let test = TestApi::start().await;
        test.declare_queues(2 * COUNTED);
        let ada = "ada".into();
        let mut text = MetricsText::of(test.api.holdings.of(&ada));
        queues(&test.api, &mut text).unwrap();
        assert!(test.api.holdings.of_user("ada") > text.lines.len());
        let mut others = test.api.holdings.of(&ada);
        while others.set(others.bytes() + 4096).is_ok() {}
        let mut text = MetricsText::of(test.api.holdings.of(&ada));
        assert!(queues(&test.api, &mut text).is_err());
        test.stop().await;
    }

    #[test]
    fn a_name_cannot_break_out_of_its_label() {
        assert_eq!(
            labels("/", "a\"b\\c\nd"),
            "vhost=\"/\",queue=\"a\\\"b\\\\c\\nd\""
        );
    }
}

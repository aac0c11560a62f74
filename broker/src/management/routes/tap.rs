//! The tap as server-sent events: recent events first, then new ones as they happen.
//!
//! There are two kinds of event: `seen`, an array of lines, and `missed`, the number of lines that
//! this listener was too slow for. Lines of vhosts that the caller cannot enter are left out. A
//! body is shown only to callers who can read a queue that the message went to. The property
//! `user_id` of a line is checked: publishing refuses every name but the publisher's own. The
//! stream ends when the caller loses its tag, its password or its sign-in, also when the sign-in
//! expires. This module knows no envelope.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::Stream;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::Routes;
use crate::management::auth::Caller;
use crate::management::refusal::ApiError;
use crate::management::{SharedApi, views};
use crate::tap::{Batch, TapEvent, TapEventKind, TapListener, TapQueue, TapReaders};
use crate::users::Operation;
use crate::vhost::{REPLY_TO, REPLY_TO_PREFIX};

/// The most lines in one event. Each may contain 4 KiB of a body, and each tap that begins at the
/// same time delays other requests by one event.
const BATCH: usize = 16;
/// How often a sign-in that has not ended yet is checked again: other requests extend it, and the
/// clock of the machine may be set.
const LOOK_AGAIN: Duration = Duration::from_mins(1);

pub(super) fn routes(routes: Routes) -> Routes {
    routes.get(
        "/api/tap",
        "the last publishes and settles, and those to come, as server-sent events",
        listen,
    )
}

struct TapStream {
    api: SharedApi,
    caller: Caller,
    listener: TapListener,
    changes: watch::Receiver<u64>,
}

async fn listen(
    State(api): State<SharedApi>,
    caller: Caller,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let changes = api.broker.access_changes.subscribe();
    // As of after the subscription: no change is missed.
    let caller = caller.recheck(&api)?;
    caller.monitors()?;
    let listener = api.broker.tap.listen(&caller.name).map_err(|error| {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", error.to_string())
    })?;
    let tapping = TapStream {
        api,
        caller,
        listener,
        changes,
    };
    let events = futures_util::stream::unfold(tapping, |mut tapping| async move {
        let event = tapping.next().await?;
        Some((Ok(event), tapping))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}

impl TapStream {
    /// Returns the next event; `None` if the caller may not listen any more.
    async fn next(&mut self) -> Option<Event> {
        // Yields after each event.
        tokio::task::yield_now().await;
        loop {
            match self.listener.take(BATCH) {
                Batch::Missed(count) => {
                    return Some(Event::default().event("missed").data(count.to_string()));
                }
                Batch::Lines(lines) if !lines.is_empty() => return self.event(&lines),
                Batch::Lines(_) => {}
            }
            let life = self.caller.sign_in_life(&self.api);
            tokio::select! {
                () = self.listener.wait() => {}
                () = over(life) => self.look_again()?,
                changed = self.changes.changed() => {
                    changed.ok()?;
                    self.look_again()?;
                }
            }
        }
    }

    /// Returns the caller with its current rights; `None` if it may not listen any more.
    fn look_again(&mut self) -> Option<()> {
        self.changes.borrow_and_update();
        let caller = self.caller.clone().recheck(&self.api).ok()?;
        caller.monitors().ok()?;
        self.caller = caller;
        Some(())
    }

    fn event(&mut self, batch: &[Arc<TapEvent>]) -> Option<Event> {
        let life = self.caller.sign_in_life(&self.api);
        if self.changes.has_changed().ok()? || life.is_some_and(|life| life.is_zero()) {
            self.look_again()?;
        }
        let lines: Value = batch
            .iter()
            .filter(|seen| self.caller.sees(&seen.vhost))
            .map(|seen| line(seen, may_read(&self.caller, seen)))
            .collect();
        Some(Event::default().event("seen").data(lines.to_string()))
    }
}

/// Waits until a sign-in of this life may have ended; without a sign-in, for ever.
async fn over(life: Option<Duration>) {
    match life {
        Some(life) => tokio::time::sleep(life.min(LOOK_AGAIN)).await,
        None => std::future::pending().await,
    }
}

/// Whether the caller can read the message from a queue. Of an exclusive queue, only the user of
/// its connection and the publisher can. A message that reached no queue is shown to users who
/// could have bound a queue to its exchange. An answer to a name without a queue, as the page uses
/// one, is shown to its publisher only.
fn may_read(caller: &Caller, seen: &TapEvent) -> bool {
    let may = |name: &str| caller.may(&seen.vhost, Operation::Read, name).is_ok();
    let is_own = || views::properties(&seen.properties)["user_id"] == *caller.name;
    let may_take = |queue: &TapQueue| {
        may(&queue.name)
            && match &queue.readers {
                TapReaders::Permitted => true,
                TapReaders::Connection(user) => *user == caller.name || is_own(),
                TapReaders::Gone => is_own(),
            }
    };
    match &seen.queue {
        Some(queue) => may_take(queue),
        None if seen.routed.is_empty() && seen.exchange.is_empty() => {
            let key = String::from_utf8_lossy(&seen.routing_key);
            let is_answer = key.starts_with("amq.");
            may("") && may(&key) && (!is_answer || is_own())
        }
        None if seen.routed.is_empty() => may(&String::from_utf8_lossy(&seen.exchange)),
        None => seen.routed.iter().any(may_take),
    }
}

fn line(seen: &TapEvent, is_open: bool) -> Value {
    let what = match seen.what {
        TapEventKind::Published => "published",
        TapEventKind::Acked => "acked",
        TapEventKind::Taken => "taken",
        TapEventKind::Returned => "returned",
        TapEventKind::Rejected => "rejected",
    };
    let (excerpt, encoding) = match shown(&seen.excerpt) {
        _ if !is_open => (String::new(), "hidden"),
        Some(text) => (text.to_owned(), "string"),
        None => (STANDARD.encode(&seen.excerpt), "base64"),
    };
    let properties = if is_open {
        views::properties(&seen.properties)
    } else {
        json!({})
    };
    let routing_key = String::from_utf8_lossy(&seen.routing_key);
    // Whoever knows a whole reply address can answer there.
    let routing_key = if !is_open && routing_key.starts_with(REPLY_TO_PREFIX) {
        REPLY_TO
    } else {
        &*routing_key
    };
    json!({
        "what": what,
        "at_ms": seen.at_ms,
        "vhost": seen.vhost,
        "exchange": String::from_utf8_lossy(&seen.exchange),
        "routing_key": routing_key,
        "queue": seen.queue.as_ref().map(|queue| &*queue.name),
        "properties": properties,
        "excerpt": excerpt,
        "encoding": encoding,
        "body_bytes": seen.body_bytes,
    })
}

/// The excerpt as text: the cut may have split its last character.
fn shown(excerpt: &[u8]) -> Option<&str> {
    match std::str::from_utf8(excerpt) {
        Ok(text) => Some(text),
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&excerpt[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn a_character_cut_in_half_is_left_off_and_other_bytes_are_no_text() {
        assert_eq!(shown("aä".as_bytes()), Some("aä"));
        assert_eq!(shown(&"aä".as_bytes()[..2]), Some("a"));
        assert_eq!(shown(b"a\xffb"), None);
    }
}

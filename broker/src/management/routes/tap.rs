//! The tap as server-sent events: what was seen lately, then everything as it happens (SPEC §7.15).
//!
//! Two kinds of event: `seen`, an array of lines, and `missed`, how many went by while this listener was too slow.
//! Lines of vhosts that the caller may not enter are left out. Nothing here knows an envelope.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::Stream;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::Routes;
use crate::management::auth::Caller;
use crate::management::refusal::Refusal;
use crate::management::{Shared, views};
use crate::tap::{Listener, Seen, What};

/// Lines in one event at most.
const BATCH: usize = 200;

pub(super) fn routes(routes: Routes) -> Routes {
    routes.get(
        "/api/tap",
        "the last publishes and settles, and those to come, as server-sent events",
        listen,
    )
}

struct Tapping {
    caller: Caller,
    listener: Listener,
    before: VecDeque<Seen>,
}

async fn listen(
    State(api): State<Shared>,
    caller: Caller,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refusal> {
    caller.monitors()?;
    let (listener, before) = api.realm.tap.listen();
    let tapping = Tapping {
        caller,
        listener,
        before: before.into(),
    };
    let events = futures_util::stream::unfold(tapping, |mut tapping| async move {
        let event = tapping.next().await?;
        Some((Ok(event), tapping))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}

impl Tapping {
    /// The next event; `None` when the broker ends.
    async fn next(&mut self) -> Option<Event> {
        if !self.before.is_empty() {
            let batch: Vec<Seen> = self.before.drain(..self.before.len().min(BATCH)).collect();
            return Some(self.event(&batch));
        }
        let mut batch = match self.listener.live.recv().await {
            Ok(seen) => vec![seen],
            Err(RecvError::Lagged(count)) => {
                return Some(Event::default().event("missed").data(count.to_string()));
            }
            Err(RecvError::Closed) => return None,
        };
        // What else is there already travels along.
        while batch.len() < BATCH {
            match self.listener.live.try_recv() {
                Ok(seen) => batch.push(seen),
                Err(TryRecvError::Lagged(_) | TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        Some(self.event(&batch))
    }

    fn event(&self, batch: &[Seen]) -> Event {
        let lines: Value = batch
            .iter()
            .filter(|seen| self.caller.sees(&seen.vhost))
            .map(line)
            .collect();
        Event::default().event("seen").data(lines.to_string())
    }
}

fn line(seen: &Seen) -> Value {
    let what = match seen.what {
        What::Published => "published",
        What::Acked => "acked",
        What::Returned => "returned",
    };
    let (excerpt, encoding) = match shown(&seen.excerpt) {
        Some(text) => (text.to_owned(), "string"),
        None => (STANDARD.encode(&seen.excerpt), "base64"),
    };
    json!({
        "what": what,
        "at_ms": seen.at_ms,
        "vhost": seen.vhost,
        "exchange": String::from_utf8_lossy(&seen.exchange),
        "routing_key": String::from_utf8_lossy(&seen.routing_key),
        "queue": seen.queue,
        "properties": views::properties(&seen.properties),
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

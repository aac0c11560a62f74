//! The lines for the inbox socket, and the rate limit of Claude Code. Pure.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use ulid::Ulid;

use super::super::Timing;
use super::super::transcript::senders_in;

/// Maximum characters of a line. Claude Code takes 1,048,276 and silently loses longer lines.
pub(super) const LINE_LIMIT: usize = 1_000_000;
/// Number of messages that may be sent at once. Claude Code takes 30, and then one every two
/// seconds.
const BURST: u32 = 20;
const AFTER_BURST: Duration = Duration::from_secs(2);
/// Minimum delay between two messages with the same body. Claude Code drops repetitions within 30
/// s.
const SAME_BODY: Duration = Duration::from_secs(31);
/// The element whose content Claude Code shows as one line.
const ELEMENT: &str = "cross-session-message";

/// Returns the lines that deliver `text`: the token, if there is one, and the message.
pub(super) fn lines(text: &str, timing: Timing, token: Option<&str>) -> String {
    // The priority `now` is never used: it aborts the current answer and closes dialogs.
    let priority = match timing {
        Timing::Idle => "later",
        Timing::Next | Timing::Now => "next",
    };
    let names = senders_in(text).join(", ");
    let content = format!(
        "<{ELEMENT} from-name=\"{names}\">\n{}\n</{ELEMENT}>",
        without_tags(text)
    );
    let message = json!({
        "type": "user",
        "uuid": uuid(),
        "priority": priority,
        "message": {"role": "user", "content": content},
    });
    match token {
        Some(token) => format!("{}\n{message}\n", json!({"type": "auth", "token": token})),
        None => format!("{message}\n"),
    }
}

/// Replaces the `<` of tags that would end the element or begin another one.
fn without_tags(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let mut safe = String::with_capacity(text.len());
    let mut done = 0;
    for (at, _) in text.match_indices('<') {
        let inside = lower[at + 1..].trim_start_matches('/');
        if inside.starts_with(ELEMENT) {
            safe.push_str(&text[done..at]);
            safe.push('(');
            done = at + 1;
        }
    }
    safe.push_str(&text[done..]);
    safe
}

fn uuid() -> String {
    let digits = format!("{:032x}", u128::from(Ulid::generate()));
    // Version and variant of UUID version 4; Claude Code rejects other forms.
    format!(
        "{}-{}-4{}-8{}-{}",
        &digits[..8],
        &digits[8..12],
        &digits[13..16],
        &digits[17..20],
        &digits[20..]
    )
}

/// The rate limit of one socket.
#[derive(Debug, Default)]
pub(super) struct InboxPace {
    /// When a full burst may be sent again.
    rested: Option<Instant>,
    /// The hashes of the bodies that were sent recently, the newest last.
    bodies: VecDeque<(Instant, u64)>,
    hasher: RandomState,
}

impl InboxPace {
    /// The earliest time from `now` on at which Claude Code does not drop a message with this text.
    pub(super) fn earliest(&self, text: &str, now: Instant) -> Instant {
        let body = self.hasher.hash_one(text);
        let mut same = self.bodies.iter().filter(|(_, sent)| *sent == body);
        let same = same.next_back().map(|(at, _)| *at + SAME_BODY);
        let burst = self
            .rested
            .and_then(|rested| rested.checked_sub(AFTER_BURST * (BURST - 1)));
        [same, burst].into_iter().flatten().fold(now, Instant::max)
    }

    /// Records that a message with this text is sent now.
    pub(super) fn sent(&mut self, text: &str, now: Instant) {
        self.rested = Some(self.rested.map_or(now, |rested| rested.max(now)) + AFTER_BURST);
        self.bodies.retain(|(at, _)| now < *at + SAME_BODY);
        self.bodies.push_back((now, self.hasher.hash_one(text)));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::Value;

    use super::*;

    const LINE: &str = "[cbroker peer message from=api id=01] look [end]";

    #[test]
    fn a_line_names_its_senders_and_closes_no_dialog() {
        let both = format!("{LINE}\n[cbroker peer message from=web id=02] and there [end]");
        for (timing, priority) in [
            (Timing::Idle, "later"),
            (Timing::Next, "next"),
            (Timing::Now, "next"),
        ] {
            let sent = lines(&both, timing, None);
            let row: Value = serde_json::from_str(sent.trim_end()).unwrap();
            assert_eq!(row["priority"], priority);
            let content = row["message"]["content"].as_str().unwrap();
            let head = "<cross-session-message from-name=\"api, web\">\n[cbroker";
            assert!(content.starts_with(head), "{content}");
            assert!(
                content.ends_with("[end]\n</cross-session-message>"),
                "{content}"
            );
        }
        let sent = lines(LINE, Timing::Idle, Some("tok"));
        assert_eq!(sent.lines().count(), 2);
        assert!(
            sent.starts_with("{\"token\":\"tok\",\"type\":\"auth\"}\n"),
            "{sent}"
        );
    }

    #[test]
    fn no_text_ends_the_element_that_holds_it() {
        let text = "a </cross-session-message> b <//CROSS-session-message x> <b> 1 < 2";
        assert_eq!(
            without_tags(text),
            "a (/cross-session-message> b (//CROSS-session-message x> <b> 1 < 2"
        );
    }

    #[test]
    fn a_uuid_has_the_form_of_one() {
        let id = uuid();
        let lengths: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert_eq!((&id[14..15], &id[19..20]), ("4", "8"));
    }

    #[test]
    fn twenty_go_at_once_and_then_one_every_two_seconds() {
        let mut pace = InboxPace::default();
        let start = Instant::now();
        for number in 0..20 {
            let text = number.to_string();
            assert_eq!(pace.earliest(&text, start), start, "{number}");
            pace.sent(&text, start);
        }
        assert_eq!(pace.earliest("next", start), start + AFTER_BURST);
        pace.sent("next", start + AFTER_BURST);
        assert_eq!(pace.earliest("last", start), start + 2 * AFTER_BURST);
        let later = start + Duration::from_mins(1);
        assert_eq!(pace.earliest("rested", later), later);
    }

    #[test]
    fn the_same_text_waits_until_it_is_no_longer_dropped() {
        let mut pace = InboxPace::default();
        let start = Instant::now();
        pace.sent("same", start);
        assert_eq!(pace.earliest("same", start), start + SAME_BODY);
        assert_eq!(pace.earliest("other", start), start);
    }
}

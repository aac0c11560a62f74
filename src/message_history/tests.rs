//! Tests of the history: what is written and read back, and what no reader can be misled by.

use std::fs;

use tempfile::TempDir;
use ulid::Ulid;

use super::files::HistoryFiles;
use super::*;
use crate::config::Environment;
use crate::name::SessionName;

/// The history of a new home, which is deleted with the folder.
pub(super) fn history() -> (TempDir, MessageHistory) {
    let folder = tempfile::tempdir().unwrap();
    let environment = Environment::from_iter([("CBROKER_HOME", folder.path())]);
    let history = MessageHistory::of(&Home::of(&environment).unwrap());
    (folder, history)
}

#[test]
fn the_end_of_an_id_stands_for_it() {
    let (_folder, history) = history();
    for id in ["01JD3ZQ8V4AAAAAA", "01JD3ZQ8V4BBAAAA", "AAAAAA"] {
        let sent = HistoryEntry::new(DateTime::UNIX_EPOCH, id, HistoryEvent::Sent, "backend");
        history.note(&sent).unwrap();
    }
    let like = |text: &str| Vec::from_iter(history.ids_like(text).unwrap());
    assert_eq!(like("v4bbaaaa"), ["01JD3ZQ8V4BBAAAA"]);
    assert_eq!(like("AAAAAA"), ["AAAAAA"], "an id itself comes first");
    assert_eq!(like("aaaaaa"), ["01JD3ZQ8V4AAAAAA", "AAAAAA"]);
    assert_eq!(like("AAAA"), [] as [&str; 0], "too short");
}

#[test]
fn the_conversation_has_each_text_once_and_what_became_of_it() {
    let (_folder, history) = history();
    let says = |text: &str| MessageText {
        from: "frontend".into(),
        text: text.into(),
        cut_from: None,
        whole: None,
        correlation_id: None,
        to_keep: None,
    };
    let entry = |id, event| HistoryEntry::new(DateTime::UNIX_EPOCH, id, event, "backend");
    for entry in [
        entry("unknown", HistoryEvent::Held),
        entry("a", HistoryEvent::Sent).saying(says("one")),
        entry("b", HistoryEvent::Received).saying(says("two")),
        entry("a", HistoryEvent::Received).saying(says("one")),
        entry("b", HistoryEvent::Held).with_detail("draft"),
        entry("a", HistoryEvent::Delivered).with_detail("plugin"),
        entry("a", HistoryEvent::DeadLettered).with_detail("id used twice"),
        // Its sender hears late; and a copy of it was left in the queue by a crash.
        entry("a", HistoryEvent::Confirmed),
        entry("a", HistoryEvent::Expired),
    ] {
        history.note(&entry).unwrap();
    }
    let told = history.conversation(usize::MAX).unwrap();
    let told: Vec<_> = told
        .iter()
        .map(|told| {
            (
                told.message.text.as_str(),
                told.state,
                told.detail.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("one", HistoryEvent::Delivered, Some("plugin")),
            ("two", HistoryEvent::Held, Some("draft"))
        ]
    );
}

/// A sender can hear of its message when that has already gone on.
#[test]
fn what_the_broker_says_of_a_publish_replaces_only_sent() {
    use HistoryEvent::{Confirmed, Deleted, Delivered, Received, Sent, Unconfirmed};
    for said in [Confirmed, Unconfirmed] {
        assert!(said.replaces(Sent), "{said:?}");
        for before in [Received, Delivered, Deleted] {
            assert!(!said.replaces(before), "{said:?} after {before:?}");
        }
    }
}

#[test]
fn a_long_text_is_kept_whole_beside_its_line() {
    let (_folder, history) = history();
    let (a, b) = (
        &SessionName::new("a").unwrap(),
        &SessionName::new("b").unwrap(),
    );
    let text = "a long text. ".repeat(8_000);
    let envelope = Envelope::new(Ulid::nil(), DateTime::UNIX_EPOCH, a, b, text.clone());
    let sent = HistoryEntry::new(DateTime::UNIX_EPOCH, &envelope.id, HistoryEvent::Sent, "b");
    let before = history.version();
    history
        .note(&sent.saying(MessageText::of(&envelope)))
        .unwrap();
    assert_ne!(history.version(), before);
    let told = history.conversation(100).unwrap().remove(0).message;
    assert_eq!((told.text.len(), told.cut_from), (100, Some(text.len())));
    let whole = history.message("b", &envelope.id, None).unwrap().unwrap();
    assert_eq!((whole.text, whole.cut_from), (text.clone(), None));
    assert_eq!(history.message("a", &envelope.id, None).unwrap(), None);
    // What was changed on disk is no longer that text.
    let kept = fs::read_dir(history.texts(HistoryFiles::User))
        .unwrap()
        .next()
        .unwrap();
    fs::write(kept.unwrap().path(), "another text").unwrap();
    let whole = history.message("b", &envelope.id, None).unwrap().unwrap();
    assert_eq!(whole.cut_from, Some(text.len()));
}

#[test]
fn a_long_text_is_cut_between_characters() {
    let (a, b) = (
        &SessionName::new("a").unwrap(),
        &SessionName::new("b").unwrap(),
    );
    let text = format!("x{}", "é".repeat(TEXT_BYTES));
    let envelope = Envelope::new(Ulid::nil(), DateTime::UNIX_EPOCH, a, b, text.clone());
    let kept = MessageText::of(&envelope);
    assert_eq!(kept.text.len(), TEXT_BYTES - 1);
    assert_eq!(kept.cut_from, Some(text.len()));
}

#[test]
fn a_message_s_story_is_told_in_order_and_without_the_others() {
    let (_folder, history) = history();
    assert_eq!(history.events_of("a").unwrap(), []);
    let entry = |id, event| HistoryEntry::new(DateTime::UNIX_EPOCH, id, event, "backend");
    history.note(&entry("a", HistoryEvent::Sent)).unwrap();
    history.note(&entry("b", HistoryEvent::Sent)).unwrap();
    history
        .note(&entry("a", HistoryEvent::Held).with_detail("draft"))
        .unwrap();
    fs::rename(
        history.path(HistoryFiles::User),
        history.older(HistoryFiles::User),
    )
    .unwrap();
    history.note(&entry("a", HistoryEvent::Delivered)).unwrap();
    let events: Vec<_> = history
        .events_of("a")
        .unwrap()
        .into_iter()
        .map(|entry| entry.event)
        .collect();
    assert_eq!(
        events,
        [
            HistoryEvent::Sent,
            HistoryEvent::Held,
            HistoryEvent::Delivered
        ]
    );
}

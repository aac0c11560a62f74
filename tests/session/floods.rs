//! Floods of whoever may publish: they must not cost a session more than it would spend for others
//! on purpose.

use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Consumer};

use crate::stage::{LIMIT, Stage, USER, body, wait_for};

crate::tests![
    a_flood_of_who_from_a_stranger_is_not_answered_one_by_one,
    a_question_longer_than_ours_ever_are_is_not_read,
    long_texts_that_never_reach_the_agent_leave_no_file,
    long_texts_that_wait_at_the_end_of_a_session_leave_no_file,
];

/// Questions of the flood; answering them all at the session's rate takes minutes.
const FLOOD: usize = 900;

/// A temporary queue for answers.
async fn answers(channel: &Channel) -> (ShortString, Consumer) {
    let own = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let queue = channel.queue_declare("".into(), own, FieldTable::default());
    let name = queue.await.unwrap().name().clone();
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let consumer = channel.basic_consume(name.clone(), "".into(), options, FieldTable::default());
    (name, consumer.await.unwrap())
}

async fn who(channel: &Channel, properties: BasicProperties) {
    ask(channel, br#"{"kind":"who"}"#, properties).await;
}

async fn ask(channel: &Channel, question: &[u8], properties: BasicProperties) {
    let options = BasicPublishOptions::default();
    let exchange = "claudeBroker.presence".into();
    let sent = channel.basic_publish(exchange, "".into(), options, question, properties);
    sent.await.unwrap();
}

fn a_flood_of_who_from_a_stranger_is_not_answered_one_by_one() {
    let stage = Stage::new();
    let _terminal = stage.sink(&[]);
    let answered = stage.with_channel(|channel| async move {
        let (to_stranger, mut strangers) = answers(&channel).await;
        let (to_own, mut own) = answers(&channel).await;
        for _ in 0..FLOOD {
            let properties = BasicProperties::default().with_reply_to(to_stranger.clone());
            who(&channel, properties).await;
        }
        // The session's own user is answered after the flood, and so the flood is over then.
        let properties = BasicProperties::default().with_reply_to(to_own);
        who(&channel, properties.with_user_id(USER.into())).await;
        let answer = tokio::time::timeout(LIMIT, own.next()).await;
        answer.unwrap().unwrap().unwrap();
        let mut count = 0;
        while let Some(Some(answer)) = futures_util::FutureExt::now_or_never(strangers.next()) {
            answer.unwrap();
            count += 1;
        }
        count
    });
    assert!(answered < FLOOD / 2, "{answered} answers");
    stage.send("peer", "after the flood", &[]);
    stage.wait_for_messages(1);
}

/// Anybody's JSON takes many times its length while it is read.
fn a_question_longer_than_ours_ever_are_is_not_read() {
    let stage = Stage::new();
    let _terminal = stage.sink(&[]);
    let answered = stage.with_channel(|channel| async move {
        let (to_long, mut long_answers) = answers(&channel).await;
        let (to_short, mut short_answers) = answers(&channel).await;
        let properties = |reply_to: &ShortString| {
            let properties = BasicProperties::default().with_reply_to(reply_to.clone());
            properties.with_user_id(USER.into())
        };
        let long = format!(r#"{{"kind":"who","x":[{}0]}}"#, "0,".repeat(1 << 20));
        ask(&channel, long.as_bytes(), properties(&to_long)).await;
        who(&channel, properties(&to_short)).await;
        // Questions are answered in their order, so an answer to the first would be here before.
        let answer = tokio::time::timeout(LIMIT, short_answers.next()).await;
        answer.unwrap().unwrap().unwrap();
        futures_util::FutureExt::now_or_never(long_answers.next()).is_some()
    });
    assert!(!answered, "the long one was answered too");
    stage.send("peer", "after the question", &[]);
    stage.wait_for_messages(1);
}

/// Whoever may publish could fill the disk with them.
fn long_texts_that_never_reach_the_agent_leave_no_file() {
    let stage = Stage::new();
    stage.configure("max_messages_per_minute = 1\n");
    let _terminal = stage.sink(&[]);
    let text = "y".repeat(600_000);
    let long = |number: usize| body(&format!("long{number}"), &text);
    stage.flood_as_stranger("peer", (0..60).map(long));
    stage.send("peer", "after the flood", &["--wait", "--timeout", "120"]);
    wait_for("an empty queue", || stage.waiting("peer") == 0);
    assert_eq!(stage.dead_letters(), "");
    let files = || {
        let entries = std::fs::read_dir(stage.path("home/spill")).unwrap();
        entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()))
    };
    let arrived = || {
        stage
            .arrived()
            .iter()
            .filter(|line| line.contains("id=long"))
            .count()
    };
    let waiting = files().sum::<u64>() - arrived() as u64 * text.len() as u64;
    assert!(waiting < 18 << 20, "{waiting} bytes for texts that wait");
    stage.says(&["purge", "peer", "--yes", "--force"]);
    wait_for("the files of what the agent was given alone", || {
        files().count() == arrived()
    });
}

/// Their messages are back in the queue, and another session writes files of its own.
fn long_texts_that_wait_at_the_end_of_a_session_leave_no_file() {
    let stage = Stage::new();
    let terminal = stage.sink(&[]);
    stage.says(&["pause", "peer"]);
    let text = "y".repeat(100_000);
    let files = || {
        let entries = std::fs::read_dir(stage.path("home/spill"));
        entries.map_or(0, Iterator::count)
    };
    let flood = (0..300).map(|number| body(&format!("long{number}"), &text));
    stage.flood_as_stranger("peer", flood);
    wait_for("the first file", || files() > 0);
    drop(terminal);
    wait_for("the end of the session", || stage.consumers("peer") == 0);
    wait_for("no file any more", || files() == 0);
    wait_for("all of them in the queue", || stage.waiting("peer") == 300);
}

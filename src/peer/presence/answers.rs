//! Publishes requests and collects their answers.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, Consumer};
use tokio::time::Instant;

use super::{Answer, AnswerKind, Request, is_from};
use crate::peer::topology::{self, PRESENCE_EXCHANGE};
use crate::peer::{PeerError, answered, next_before, publish};

/// Which answers a request waits for, and how long.
#[derive(Debug, Clone, Copy)]
pub struct AwaitedAnswers<'a> {
    /// The name whose sessions' answers count; `None`: every session's.
    pub name: Option<&'a str>,
    /// How many there are, where that is known.
    pub count: Option<u32>,
    /// How long each further one may take once there are as many, where there may be more.
    pub more: Option<Duration>,
    /// How long the first one may take.
    pub first: Duration,
    /// How long each further one may take after the one before.
    pub next: Duration,
}

impl AwaitedAnswers<'_> {
    /// How long to wait for the next one after so many; `None`: these are all.
    fn patience(&self, answers: usize) -> Option<Duration> {
        if self.count.is_some_and(|count| answers >= count as usize) {
            return self.more;
        }
        Some(if answers == 0 { self.first } else { self.next })
    }

    fn counts(&self, answer: &Answer) -> bool {
        self.name.is_none_or(|name| answer.name() == name)
    }
}

/// In all, a request waits this many times as long as for the first answer.
const ALL_WAITS: u32 = 10;

/// The number of unacked answers at once. Any user who has seen the request may send an answer, as
/// long as the broker allows.
const ANSWERS: u16 = 16;
/// The number of answers that wait in the broker, and their bytes; the oldest are dropped. The
/// answer of a session that holds many messages has some MiB.
const ANSWERS_WAITING: i32 = 10_000;
const ANSWERS_WAITING_BYTES: i32 = 64 << 20;

/// Requests that were published, and the temporary queue that their answers come to.
#[derive(Debug)]
pub struct PublishedRequests {
    channel: Channel,
    deliveries: Consumer,
    user: String,
    /// What answers the requests. Anything else is skipped, so that it takes the place of no
    /// session's answer.
    kinds: Vec<AnswerKind>,
}

impl PublishedRequests {
    /// Collects the awaited answers.
    pub async fn answers(mut self, awaited: &AwaitedAnswers<'_>) -> Result<Vec<Answer>, PeerError> {
        let mut since = Instant::now();
        let end = since + awaited.first.max(awaited.next) * ALL_WAITS;
        let mut answers: Vec<Answer> = Vec::new();
        while let Some(patience) = awaited.patience(answers.len()) {
            let until = end.min(since + patience);
            match next_before(until, self.deliveries.next()).await {
                Some(Some(Ok(delivery))) => {
                    let is_new = |answer: &Answer| {
                        let mut others = answers.iter().map(Answer::session);
                        others.all(|other| other != answer.session())
                    };
                    let is_awaited = |answer: &Answer| {
                        self.kinds.contains(&answer.kind()) && awaited.counts(answer)
                    };
                    if let Some(answer) = read_answer(&delivery, &self.user)
                        .filter(|answer| is_awaited(answer) && is_new(answer))
                    {
                        answers.push(answer);
                        since = Instant::now();
                    }
                    // A blocked broker reads no ack. Then only the answers already sent arrive.
                    let acked = delivery.acker.ack(BasicAckOptions::default());
                    let _ = next_before(until, acked).await;
                }
                Some(Some(Err(error))) => return Err(error.into()),
                Some(None) | None => break,
            }
        }
        let _ = answered(self.channel.close(200, "done".into())).await;
        Ok(answers)
    }
}

/// Reads an answer of the given user. Other users' answers are not parsed, because they may be of
/// any length that the broker allows.
fn read_answer(delivery: &lapin::message::Delivery, user: &str) -> Option<Answer> {
    if !is_from(delivery, user, "") {
        return None;
    }
    serde_json::from_slice(&delivery.data).ok()
}

/// Publishes requests with one temporary queue for the answers.
pub(in crate::peer) async fn publish_requests(
    connection: &Connection,
    user: &str,
    requests: &[Request],
) -> Result<PublishedRequests, PeerError> {
    let channel = connection.create_channel().await?;
    topology::declare_presence(&channel).await?;
    channel
        .basic_qos(ANSWERS, BasicQosOptions::default())
        .await?;
    let options = QueueDeclareOptions::exclusive().auto_delete();
    let mut bounds = FieldTable::default();
    bounds.insert("x-max-length".into(), AMQPValue::LongInt(ANSWERS_WAITING));
    let bytes = AMQPValue::LongInt(ANSWERS_WAITING_BYTES);
    bounds.insert("x-max-length-bytes".into(), bytes);
    let queue = channel.queue_declare("".into(), options, bounds).await?;
    let (name, options) = (queue.name(), BasicConsumeOptions::default());
    let answers = channel
        .basic_consume(name.clone(), "".into(), options, FieldTable::default())
        .await?;
    let properties = BasicProperties::default()
        .with_reply_to(name.clone())
        .with_user_id(user.into());
    for request in requests {
        let (body, properties) = (request.to_json(), properties.clone());
        publish::plain(&channel, PRESENCE_EXCHANGE, "", &body, properties).await?;
    }
    Ok(PublishedRequests {
        channel,
        deliveries: answers,
        user: user.to_owned(),
        kinds: requests.iter().filter_map(Request::answer_kind).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_a_session_of_the_name_has_answered_little_time_is_left_for_another() {
        let (first, next) = (Duration::from_secs(5), Duration::from_millis(500));
        let awaited = AwaitedAnswers {
            name: Some("backend"),
            count: Some(2),
            more: None,
            first,
            next,
        };
        assert_eq!(awaited.patience(0), Some(first));
        assert_eq!(awaited.patience(1), Some(next));
        assert_eq!(awaited.patience(2), None);
        let more = Duration::from_millis(150);
        let awaited = AwaitedAnswers {
            more: Some(more),
            ..awaited
        };
        assert_eq!(awaited.patience(1), Some(next));
        assert_eq!(awaited.patience(2), Some(more));
        let answer = |name: &str| Answer::Inbox {
            name: name.into(),
            session: "01".into(),
            keys: Vec::new(),
            messages: Vec::new(),
            parked: 0,
            left: 0,
        };
        assert!(awaited.counts(&answer("backend")) && !awaited.counts(&answer("frontend")));
    }
}

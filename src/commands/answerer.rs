//! Decides whose answer to a message counts: that of the session that was asked, if the broker
//! authenticated the asker's own user as its publisher.
//!
//! Sessions of other tools name no user. Their answers count if the management API shows that every
//! consumer of the queue is a program of another tool. What a session says of itself is no
//! evidence, nor is its silence: any user who may write to the presence exchange can keep it busy.

use std::time::Duration;

use super::sessions;
use crate::config::Config;
use crate::envelope::Envelope;
use crate::error::Error;
use crate::management::{Client, ConsumerInfo};
use crate::name::SessionName;
use crate::peer::{AwaitedAnswers, PRODUCT, Peer, Request};

/// Time limit for sessions to identify themselves as ours.
const WHO_WITHIN: Duration = Duration::from_secs(1);
/// How long the management API has to say who consumes.
const CONSUMERS_WITHIN: Duration = Duration::from_secs(2);

/// Whose answer counts.
#[derive(Debug)]
pub(super) struct Answerer {
    /// The session's name.
    name: SessionName,
    voucher: AcceptedPublisher,
}

/// Which publisher of an answer is accepted.
#[derive(Debug)]
enum AcceptedPublisher {
    /// The asker's own user.
    Own(String),
    /// No user, or one of the users that other tools consume as.
    OtherTool(Vec<String>),
}

impl Answerer {
    /// The session of this name.
    pub(super) async fn of(
        peer: &mut Peer,
        name: &SessionName,
        config: &Config,
    ) -> Result<Self, Error> {
        let attached = peer
            .queue_counts(name)
            .await?
            .map_or(0, |queue| queue.consumers);
        let mut consumers = Vec::new();
        if attached > 0 {
            consumers = consumers_of(name, config).await.unwrap_or_default();
        }
        // A consumer that is not shown counts as one of cbroker's: an API may know less than the
        // broker.
        let all_are_shown = consumers.len() >= attached as usize;
        let is_foreign = !consumers.is_empty() && !consumers.iter().any(is_ours);
        let voucher = if is_foreign && all_are_shown {
            AcceptedPublisher::OtherTool(consumers.into_iter().map(|one| one.user).collect())
        } else {
            AcceptedPublisher::Own(peer.user().to_owned())
        };
        Ok(Self {
            name: name.clone(),
            voucher,
        })
    }

    /// Whether the answer counts; `user` is the publisher that the broker authenticated.
    pub(super) fn sent(&self, answer: &Envelope, user: Option<&str>) -> bool {
        let is_vouched = match &self.voucher {
            AcceptedPublisher::Own(own) => user == Some(own),
            AcceptedPublisher::OtherTool(users) => {
                user.is_none_or(|user| users.iter().any(|known| known == user))
            }
        };
        answer.from == self.name.as_str() && is_vouched
    }
}

fn is_ours(one: &ConsumerInfo) -> bool {
    one.product.as_deref() == Some(PRODUCT)
}

/// The programs that consume from a queue, up to the first of cbroker's; `None` if the API does not
/// report them in time.
async fn consumers_of(name: &SessionName, config: &Config) -> Option<Vec<ConsumerInfo>> {
    let client = Client::new(config, CONSUMERS_WITHIN).ok()?;
    let asking = client.consumers_of(name.as_str(), is_ours);
    let told = tokio::time::timeout(CONSUMERS_WITHIN, asking).await.ok()?;
    told.ok()
}

/// The number of cbroker's sessions that answer for the name, at most `enough`.
pub(super) async fn own_sessions(
    peer: &Peer,
    name: &SessionName,
    enough: u32,
) -> Result<usize, Error> {
    let awaited = AwaitedAnswers {
        name: Some(name.as_str()),
        count: Some(enough),
        more: None,
        first: WHO_WITHIN,
        next: sessions::NEXT_ANSWER_WITHIN,
    };
    Ok(peer.ask_sessions(&[Request::Who], &awaited).await?.len())
}

//! Whose answer to a message counts: that of the session that was asked, where the broker vouches
//! that the asker's own user published it. A session of another tool names no user and is believed
//! without.

use std::time::Duration;

use crate::envelope::Envelope;
use crate::error::Error;
use crate::name::SessionName;
use crate::peer::{Peer, Presence, Reply, Request};

/// How long a session has to say that it is one of ours.
const WHO_WITHIN: Duration = Duration::from_secs(1);

/// Whose answer counts.
#[derive(Debug)]
pub(super) struct Answerer {
    /// The session's name.
    name: SessionName,
    /// The user that the broker has to vouch for; `None` where another tool's session is attached.
    user: Option<String>,
}

impl Answerer {
    /// The session of this name.
    pub(super) async fn of(peer: &mut Peer, name: &SessionName) -> Result<Self, Error> {
        let attached = peer.look(name).await?.map_or(0, |queue| queue.consumers);
        let is_foreign = attached > 0 && own_sessions(peer, name, 1).await?.is_empty();
        Ok(Self {
            name: name.clone(),
            user: (!is_foreign).then(|| peer.user().to_owned()),
        })
    }

    /// Whether the answer is from it, `user` being whom the broker vouches for.
    pub(super) fn sent(&self, answer: &Envelope, user: Option<&str>) -> bool {
        let is_user = match &self.user {
            Some(own) => user == Some(own),
            None => true,
        };
        answer.from == self.name.as_str() && is_user
    }
}

/// The sessions of ours that answer to the name. Returns early once there are `enough`.
pub(super) async fn own_sessions(
    peer: &Peer,
    name: &SessionName,
    enough: usize,
) -> Result<Vec<Presence>, Error> {
    let of_name = |reply: &Reply| match reply {
        Reply::State(state) if state.name == name.as_str() => Some(state.clone()),
        _ => None,
    };
    let is_enough = |so_far: &[Reply]| so_far.iter().filter_map(of_name).count() >= enough;
    let replies = peer
        .ask_sessions(&Request::Who, WHO_WITHIN, is_enough)
        .await?;
    Ok(replies.iter().filter_map(of_name).collect())
}

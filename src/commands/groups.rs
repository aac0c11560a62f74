//! The members of groups, for the commands that address them.
//!
//! A member is a queue that is bound to the groups' exchange, so a closed session stays one. AMQP
//! has no way to ask for bindings: the management API tells them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ulid::Ulid;

use super::compose::Recipient;
use super::connect::require_broker;
use crate::config::Config;
use crate::error::Error;
use crate::management::{Client, ManagementError};
use crate::name::{GroupName, SessionName};

const API_WITHIN: Duration = Duration::from_secs(3);

/// The groups and their members, as the broker knows them.
pub(super) type Groups = BTreeMap<GroupName, BTreeSet<SessionName>>;

/// One session that gets a message.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Its name.
    pub(super) name: SessionName,
    /// The message's id, which the members of one group share.
    pub(super) id: Ulid,
    /// The group by which it was addressed.
    pub(super) group: Option<GroupName>,
}

/// Returns all groups.
pub(super) async fn all(config: &Config) -> Result<Groups, Error> {
    let error = match Client::new(config, API_WITHIN)?.groups().await {
        Ok(groups) => return Ok(groups),
        Err(error) => error,
    };
    if matches!(error, ManagementError::Unreachable { .. }) {
        require_broker(config, "group").await?;
    }
    let error = Error::from(error);
    let (why, exit) = (error.summary(), error.exit());
    let unknown = Error::new("the members of groups are not known").caused_by(why);
    let hint = "the broker answers, but only its management API knows the members: --mgmt-url, \
                CBROKER_MGMT_URL";
    Err(unknown.with_hint(hint).exit_with(exit))
}

/// Returns the members of one group.
pub(super) async fn members(
    group: &GroupName,
    config: &Config,
) -> Result<BTreeSet<SessionName>, Error> {
    let mut groups = all(config).await?;
    groups.remove(group).ok_or_else(|| no_member(group))
}

/// The error about a group that has no members, and so does not exist.
pub(super) fn no_member(group: &GroupName) -> Error {
    Error::new(format!("no session is in the group `{group}`"))
        .with_hint("`cbroker group list` shows the groups and their members")
}

/// Returns the groups of one session, in order.
pub(super) fn of_session(groups: &Groups, name: &SessionName) -> Vec<String> {
    let of_it = groups.iter().filter(|(_, members)| members.contains(name));
    of_it.map(|(group, _)| group.as_str().to_owned()).collect()
}

/// Returns the sessions that a message goes to, each once. Of a group, the sender is left out.
pub(super) async fn targets(
    recipients: &[Recipient],
    sender: &SessionName,
    config: &Config,
) -> Result<Vec<Target>, Error> {
    let mut targets: Vec<Target> = Vec::new();
    let mut add = |name: SessionName, id: Ulid, group: Option<&GroupName>| {
        if targets.iter().all(|target| target.name != name) {
            let group = group.cloned();
            targets.push(Target { name, id, group });
        }
    };
    for recipient in recipients {
        let id = Ulid::generate();
        match recipient {
            Recipient::Session(name) => add(name.clone(), id, None),
            Recipient::Group(group) => {
                let mut members = members(group, config).await?;
                members.remove(sender);
                if members.is_empty() {
                    return Err(Error::new(format!(
                        "no other session is in the group `{group}`"
                    )));
                }
                for name in members {
                    add(name, id, Some(group));
                }
            }
        }
    }
    Ok(targets)
}

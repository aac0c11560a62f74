//! `cbroker group`: lists the groups, and adds or removes members.

use std::collections::BTreeSet;

use super::compose::{group_name, session_name};
use super::connect::{self, Autostart};
use super::groups;
use super::removal::existing;
use crate::cli::{GroupVerb, MembershipArgs};
use crate::config::Config;
use crate::error::Error;
use crate::exit::Exit;
use crate::name::{GroupName, SessionName};
use crate::output::{Output, Style, TableRow};

/// Runs one of the subcommands.
pub(super) async fn run(verb: GroupVerb, config: &Config, output: &Output) -> Result<Exit, Error> {
    match verb {
        GroupVerb::List(args) => list(args.group.as_deref(), config, output).await,
        GroupVerb::Join(args) => {
            let membership = Membership::read(&args, config)?;
            membership
                .change(MembershipChange::Join, config, output)
                .await
        }
        GroupVerb::Leave(args) => {
            let membership = Membership::read(&args, config)?;
            membership
                .change(MembershipChange::Leave, config, output)
                .await
        }
    }
}

async fn list(group: Option<&str>, config: &Config, output: &Output) -> Result<Exit, Error> {
    let groups = match group {
        Some(group) => {
            let group = group_name(group, "GROUP")?;
            let members = groups::members(&group, config).await?;
            groups::Groups::from([(group, members)])
        }
        None => groups::all(config).await?,
    };
    let names = |members: &BTreeSet<SessionName>| -> Vec<String> {
        members.iter().map(ToString::to_string).collect()
    };
    let told = groups.iter().map(
        |(group, members)| serde_json::json!({ "name": group.as_str(), "members": names(members) }),
    );
    output.json(&told.collect::<Vec<_>>())?;
    if groups.is_empty() {
        let how = "no groups yet: `cbroker --name NAME --group GROUP claude` makes one";
        output.line(output.paint(Style::Dim, how))?;
        return Ok(Exit::Done);
    }
    let rows: Vec<_> = groups
        .iter()
        .map(|(group, members)| TableRow {
            cells: vec![group.to_string(), names(members).join(", ")],
            ..TableRow::default()
        })
        .collect();
    output.table(&["GROUP", "MEMBERS"], &rows)?;
    Ok(Exit::Done)
}

/// Whether a membership is added or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MembershipChange {
    Join,
    Leave,
}

/// Sessions, and a group.
struct Membership {
    group: GroupName,
    names: Vec<SessionName>,
}

impl Membership {
    /// Reads the arguments. Without a name, the session that this command runs in is meant.
    fn read(args: &MembershipArgs, config: &Config) -> Result<Self, Error> {
        let group = group_name(&args.group, "GROUP")?;
        let own = config.inside.name.iter();
        let typed = args.names.iter();
        let names: Vec<&String> = if args.names.is_empty() {
            own.collect()
        } else {
            typed.collect()
        };
        if names.is_empty() {
            return Err(Error::usage("no session given")
                .caused_by("this shell does not run in a session")
                .with_hint("cbroker group join GROUP NAME"));
        }
        let names = names.into_iter().map(|name| session_name(name, "NAME"));
        Ok(Self {
            group,
            names: names.collect::<Result<_, _>>()?,
        })
    }

    /// Refuses to take sessions out that are not in the group. Without a management API, which
    /// alone knows, none is refused.
    async fn refuse_strangers(&self, config: &Config) -> Result<(), Error> {
        let group = &self.group;
        let Ok(groups) = groups::all(config).await else {
            return Ok(());
        };
        let members = groups.get(group).ok_or_else(|| groups::no_member(group))?;
        match self.names.iter().find(|name| !members.contains(name)) {
            None => Ok(()),
            Some(name) => Err(
                Error::new(format!("`{name}` is not in the group `{group}`"))
                    .with_hint(format!("`cbroker group list {group}` shows who is")),
            ),
        }
    }

    async fn change(
        &self,
        change: MembershipChange,
        config: &Config,
        output: &Output,
    ) -> Result<Exit, Error> {
        let mut peer = connect::peer(config, "group", Autostart::Never, output).await?;
        let group = &self.group;
        for name in &self.names {
            existing(&mut peer, name).await?;
        }
        if change == MembershipChange::Leave {
            self.refuse_strangers(config).await?;
        }
        for name in &self.names {
            let word = match change {
                MembershipChange::Join => {
                    peer.join(name, group).await?;
                    "joined"
                }
                MembershipChange::Leave => {
                    peer.leave(name, group).await?;
                    "left"
                }
            };
            output.line(format!("{name} {word} {group}"))?;
        }
        peer.close().await;
        let names: Vec<&str> = self.names.iter().map(SessionName::as_str).collect();
        output.json(&serde_json::json!({ "group": group.as_str(), "names": names }))?;
        Ok(Exit::Done)
    }
}

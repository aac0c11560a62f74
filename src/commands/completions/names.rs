//! The names of sessions and groups for the completion of a command line: from the broker, if that
//! answers soon, else from the history of this machine.

use std::ffi::OsStr;
use std::time::Duration;

use clap_complete::engine::CompletionCandidate;
use tokio::runtime::Builder;

use crate::config::{Config, Environment, Flags};
use crate::management::Client;
use crate::message_history::MessageHistory;
use crate::name::SessionName;

/// The limit is short because a person waits.
const API_WITHIN: Duration = Duration::from_secs(3);

/// Which names an argument takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WantedNames {
    Sessions,
    /// Without the `@`.
    Groups,
    /// Groups with the `@`.
    SessionsAndGroups,
}

/// Returns the names that complete the typed text. In a list with commas, the last name is
/// completed.
pub(super) fn candidates(wanted: WantedNames, typed: &OsStr) -> Vec<CompletionCandidate> {
    let Some(typed) = typed.to_str() else {
        return Vec::new();
    };
    let start = typed.rfind(',').map_or(0, |comma| comma + 1);
    let (before, last) = typed.split_at(start);
    // With a broken file, the names of the local broker are better than none.
    let Ok((config, _)) = Config::salvage(&Flags::default(), Environment::of_process()) else {
        return Vec::new();
    };
    names(wanted, &config)
        .into_iter()
        .filter(|name| name.starts_with(last))
        .map(|name| CompletionCandidate::new(format!("{before}{name}")))
        .collect()
}

fn names(wanted: WantedNames, config: &Config) -> Vec<String> {
    let known = Builder::new_current_thread().enable_all().build().ok();
    let known = known.and_then(|runtime| runtime.block_on(from_api(wanted, config)));
    known.unwrap_or_else(|| match wanted {
        WantedNames::Groups => Vec::new(),
        WantedNames::Sessions | WantedNames::SessionsAndGroups => {
            let told = MessageHistory::of(&config.home).sessions();
            sessions(told.unwrap_or_default())
        }
    })
}

async fn from_api(wanted: WantedNames, config: &Config) -> Option<Vec<String>> {
    let client = Client::new(config, API_WITHIN).ok()?;
    let mut names = Vec::new();
    if wanted != WantedNames::Groups {
        names = sessions(client.session_names().await.ok()?);
    }
    if wanted != WantedNames::Sessions {
        let groups = client.groups().await.ok()?;
        let name = |group: &crate::name::GroupName| match wanted {
            WantedNames::Groups => group.as_str().to_owned(),
            _ => group.to_string(),
        };
        names.extend(groups.keys().map(name));
    }
    Some(names)
}

/// Without the queues of answers, and without what is no session's name.
fn sessions(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let is_session = |name: &String| {
        SessionName::new(name).is_ok_and(|exact| exact.as_str() == name && !exact.is_answer_queue())
    };
    names.into_iter().filter(is_session).collect()
}

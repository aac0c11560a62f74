//! A snapshot of the environment variables, so that no other code reads them.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::process::Command;

use super::Address;

/// The variables that may hold a password.
const WITH_PASSWORDS: [&str; 3] = ["CBROKER_URL", "CBROKER_MGMT_URL", "CBROKER_MGMT_PASS"];

/// The variables by which a session's commands know it.
const OF_SESSION: [&str; 2] = ["CBROKER_NAME", "CBROKER_SESSION"];

/// Keeps passwords, and the session in which this command runs, from a program that needs none of
/// cbroker's variables.
pub fn remove_own_variables(command: &mut Command) {
    for name in WITH_PASSWORDS.into_iter().chain(OF_SESSION) {
        command.env_remove(name);
    }
}

/// The environment at the start of the program.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// Reads the environment of this process.
    pub fn of_process() -> Self {
        Self(std::env::vars_os().collect())
    }

    /// Returns a variable that is set and not empty.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0
            .get(OsStr::new(name))
            .map(OsString::as_os_str)
            .filter(|value| !value.is_empty())
    }

    /// Returns the names of all variables, including empty ones.
    pub fn names(&self) -> impl Iterator<Item = &OsStr> {
        self.0.keys().map(OsString::as_os_str)
    }

    /// Returns the changes with which a program inherits this environment: without passwords, the
    /// user of a password that it does not get, and the session in which this command runs. `None`
    /// for a variable that must not be passed on.
    pub fn changes_for_program(&self) -> Vec<(&'static str, Option<OsString>)> {
        let clean = |name| match name {
            "CBROKER_URL" => {
                let address = Address::parse(self.text(name)?).ok()?;
                Some(address.without_password().to_string())
            }
            "CBROKER_MGMT_URL" => without_login(self.text(name)?),
            _ => None,
        };
        let has_password = self.get("CBROKER_MGMT_PASS").is_some();
        let user = has_password.then_some("CBROKER_MGMT_USER");
        let set = WITH_PASSWORDS
            .into_iter()
            .chain(user)
            .chain(OF_SESSION)
            .filter(|name| self.0.contains_key(OsStr::new(name)));
        set.map(|name| (name, clean(name).map(OsString::from)))
            .collect()
    }

    /// Returns a variable that is set, not empty and UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.to_str()
    }
}

/// Prints only the number of variables, because values may be passwords.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Environment({} variables)", self.0.len())
    }
}

impl<K: Into<OsString>, V: Into<OsString>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        Self(
            variables
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

/// Returns an HTTP URL without user and password. `None` if it is unclear what they are.
fn without_login(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let url = format!("{scheme}://{host}{path}");
    // A password with a slash in it ends the authority early.
    (!url.contains('@')).then_some(url)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn no_password_is_left_in_a_url() {
        for (name, url, expected) in [
            ("CBROKER_URL", "amqp://u:p@h:1/v", Some("amqp://u@h:1/v")),
            ("CBROKER_URL", "amqp://h:0", None),
            ("CBROKER_MGMT_URL", "http://u:p@h:1/x", Some("http://h:1/x")),
            ("CBROKER_MGMT_URL", "http://h:1", Some("http://h:1")),
            ("CBROKER_MGMT_URL", "http://u:p/q@h", None),
            ("CBROKER_MGMT_URL", "u:p", None),
            ("CBROKER_MGMT_PASS", "p", None),
            ("CBROKER_MGMT_PASS", "", None),
        ] {
            let environment = Environment::from_iter([(name, url), ("HOME", "/p")]);
            let expected = vec![(name, expected.map(OsString::from))];
            assert_eq!(environment.changes_for_program(), expected, "{url}");
        }
    }

    #[test]
    fn a_program_gets_no_user_whose_password_is_kept_from_it() {
        let user = ("CBROKER_MGMT_USER", "ada");
        let withheld = |more: &[(&str, &str)]| {
            let environment: Environment = more.iter().copied().chain([user]).collect();
            let changes = environment.changes_for_program();
            changes.contains(&(user.0, None))
        };
        assert!(withheld(&[("CBROKER_MGMT_PASS", "p")]));
        assert!(!withheld(&[]), "config.toml may have its password");
    }

    #[test]
    fn a_program_that_needs_none_of_them_gets_no_variable_with_a_password() {
        let mut command = Command::new("true");
        remove_own_variables(&mut command);
        let removed: Vec<_> = command.get_envs().collect();
        assert_eq!(removed.len(), WITH_PASSWORDS.len() + OF_SESSION.len());
        assert!(removed.iter().all(|(_, value)| value.is_none()));
    }
}

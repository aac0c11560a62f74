//! Flags, environment and file become one [`Config`]: what a command may rely on, and where each value came from.
//!
//! Precedence: flag, environment, `config.toml`, what `start` wrote to `broker.json`, default. This is the
//! only reader of the environment; everything else is handed the [`Environment`] that was read here.

mod address;
mod credentials;
mod environment;
mod file;
mod home;
mod local;
mod own_folder;
mod resolve;

use std::path::PathBuf;

pub use address::{Address, AddressError, Endpoint, Guard, Login, Scheme, escape};
pub use credentials::{Credentials, read_session_address, write_session_address};
pub use environment::Environment;
pub use file::{Settings, Way};
pub use home::{Home, write_private};
pub use local::{Kind, LocalBroker};
pub use own_folder::{NotOurs, claim_store, private_folder};

use crate::error::Error;

/// The global options as they were typed. Not `Debug`: some are passwords.
#[derive(Clone, Default)]
pub struct Flags {
    /// `--url`
    pub url: Option<String>,
    /// `--mgmt-url`
    pub mgmt_url: Option<String>,
    /// `--mgmt-user`
    pub mgmt_user: Option<String>,
    /// `--mgmt-pass`
    pub mgmt_pass: Option<String>,
    /// `--ca-cert`
    pub ca_cert: Option<PathBuf>,
    /// `--json`
    pub format: Format,
    /// `--quiet`, or how often `-v` was given.
    pub volume: Volume,
}

/// In which form results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For a person.
    #[default]
    Text,
    /// For a program: one JSON value, or one a line where it streams.
    Json,
}

/// How much is said beside the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Volume {
    /// Errors only.
    Quiet,
    /// Notices too.
    #[default]
    Normal,
    /// What happens behind the scenes as well; 2 and more: the libraries' own logs.
    Verbose(u8),
}

/// Where a value came from, in the order of precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A command-line flag.
    Flag,
    /// An environment variable.
    Environment,
    /// `config.toml`.
    File,
    /// `broker.json`: what `start` or `serve` started here.
    LocalBroker,
    /// Worked out from another value.
    Derived,
    /// Nobody said anything.
    Default,
}

/// One effective value, as `cbroker config` shows it. Passwords are already hidden.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Effective {
    /// The key, as `config.toml` has it.
    pub key: &'static str,
    /// The value, readable.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// Where the management API is and who we are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Management {
    /// Base URL without a trailing slash.
    pub url: String,
    /// Who signs in.
    pub login: Login,
    /// Whose login it is, and so whom it may be sent to.
    pub guard: Guard,
}

/// The session that this command runs inside, when it runs inside one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inside {
    /// `CBROKER_NAME`
    pub name: Option<String>,
    /// `CBROKER_SESSION`: a ULID.
    pub session: Option<String>,
}

/// Everything that a command may rely on.
#[derive(Debug, Clone)]
pub struct Config {
    /// `~/.cbroker` and the paths in it.
    pub home: Home,
    /// The broker and how to sign in there.
    pub endpoint: Endpoint,
    /// Who chose the broker: anything above [`Origin::LocalBroker`] means that the user named it.
    pub endpoint_origin: Origin,
    /// The management API that belongs to it.
    pub management: Management,
    /// Text or JSON.
    pub format: Format,
    /// How much is said.
    pub volume: Volume,
    /// What `config.toml` sets, with defaults filled in.
    pub settings: Settings,
    /// The wrap around us, if there is one.
    pub inside: Inside,
    /// What `start` or `serve` wrote down about the local broker; not necessarily alive.
    pub local: Option<LocalBroker>,
    /// The environment as it was at the start.
    pub environment: Environment,
    /// The global options, to resolve again once a local broker was started.
    flags: Flags,
    /// Every value with its origin.
    pub effective: Vec<Effective>,
    /// What the user should hear once (a password in `--url`, …).
    pub warnings: Vec<String>,
}

/// Some flags are passwords: none is shown.
impl std::fmt::Debug for Flags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flags").finish_non_exhaustive()
    }
}

impl Config {
    /// The configuration as it is now, after a local broker was started or stopped.
    pub fn again(&self) -> Result<Self, Error> {
        Self::resolve(&self.flags, self.environment.clone())
    }

    /// The same configuration for another broker (`move`).
    pub fn for_url(&self, url: &str) -> Result<Self, Error> {
        let flags = Flags {
            url: Some(url.to_owned()),
            ..self.flags.clone()
        };
        let mut config = Self::resolve(&flags, self.environment.clone())?;
        // Whatever names a management API names the one beside the usual broker.
        config.management = Management {
            url: resolve::derived_management_url(&config.endpoint.address, config.local.as_ref()),
            login: config.endpoint.login.clone(),
            guard: config.endpoint.guard.clone(),
        };
        Ok(config)
    }

    /// Whether the user named a broker; then nothing local is started, looked at or hinted at.
    pub fn names_a_broker(&self) -> bool {
        matches!(
            self.endpoint_origin,
            Origin::Flag | Origin::Environment | Origin::File
        )
    }
}

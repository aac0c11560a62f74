//! Resolves flags, environment and files into one [`Config`] and records where each value comes
//! from.
//!
//! Precedence: flag, environment, `config.toml`, `broker.json` (written by `start`), default. Only
//! this module reads the environment of a command; all other code receives the [`Environment`] that
//! was read here. The exceptions are `wrap::hook`, which an agent's hooks run and which passes on
//! what the agent put into its environment; `commands::completions`, which the shell runs before
//! the command line is parsed; and `panics`, which in a debug build reads `CBROKER_TEST_PANIC`.

mod address;
mod credentials;
mod environment;
mod file;
mod home;
mod local;
mod own_folder;
mod resolve;

use std::net::SocketAddr;
use std::path::PathBuf;

pub use address::{Address, AddressError, Endpoint, Login, LoginGuard, UrlScheme, escape};
pub use credentials::{Credentials, read_session_address, write_session_address};
pub use environment::{Environment, remove_own_variables};
pub use file::{DeliveryMode, Settings};
pub use home::{Home, NewFileMode, replace_file, write_private, write_private_with};
pub use local::{BrokerKind, LocalBroker};
pub use own_folder::{NotOurs, claim_store, private_folder};
pub use resolve::LeftOut;

use crate::error::Error;

/// The global options as given. Not `Debug`, because some are passwords.
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

/// The format of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON value, or one for each line of a stream.
    Json,
}

/// How much is printed in addition to the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Volume {
    /// Errors only.
    Quiet,
    /// Errors and notices.
    #[default]
    Normal,
    /// Details too; from 2 on, the libraries' own logs as well.
    Verbose(u8),
}

/// The source of a value, in order of precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueOrigin {
    /// A command-line flag.
    Flag,
    /// An environment variable.
    Environment,
    /// `config.toml`.
    File,
    /// `broker.json`, written by `start` or `serve`.
    Local,
    /// Derived from another value.
    Derived,
    /// The default.
    Default,
}

/// One effective value, as `cbroker config` shows it. Passwords are hidden.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Effective {
    /// The key in `config.toml`.
    pub key: &'static str,
    /// The value for display.
    pub value: String,
    /// The source.
    pub origin: ValueOrigin,
}

/// The management API and its login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Management {
    /// The base URL without a trailing slash.
    pub url: String,
    /// The login.
    pub login: Login,
    /// Where the login comes from, and so whom it may be sent to.
    pub guard: LoginGuard,
}

/// The session in which this command runs, if any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurrentSession {
    /// `CBROKER_NAME`
    pub name: Option<String>,
    /// `CBROKER_SESSION`: a ULID.
    pub session: Option<String>,
}

/// The effective configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// `~/.cbroker` and the paths in it.
    pub home: Home,
    /// The broker and its login.
    pub endpoint: Endpoint,
    /// The source of the broker's address. Anything above [`ValueOrigin::Local`] means that the
    /// user named it.
    pub endpoint_origin: ValueOrigin,
    /// The management API of the broker.
    pub management: Management,
    /// Text or JSON.
    pub format: Format,
    /// How much is printed.
    pub volume: Volume,
    /// The settings of `config.toml`, with defaults.
    pub settings: Settings,
    /// The session in which this command runs.
    pub inside: CurrentSession,
    /// The local broker that `start` or `serve` recorded. It may not be running.
    pub local: Option<LocalBroker>,
    /// The environment at the start of the program.
    pub environment: Environment,
    /// The global options, to resolve again after a local broker was started.
    flags: Flags,
    /// Every value with its source.
    pub effective: Vec<Effective>,
    /// Warnings to print once, such as about a password in `--url`.
    pub warnings: Vec<String>,
}

/// Prints nothing, because some flags are passwords.
impl std::fmt::Debug for Flags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flags").finish_non_exhaustive()
    }
}

impl Config {
    /// Resolves the configuration again, after a local broker was started or stopped.
    pub fn again(&self) -> Result<Self, Error> {
        Self::resolve(&self.flags, self.environment.clone())
    }

    /// Returns this configuration for another broker (`move`).
    pub fn for_url(&self, url: &str) -> Result<Self, Error> {
        let flags = Flags {
            url: Some(url.to_owned()),
            ..self.flags.clone()
        };
        let mut config = Self::resolve(&flags, self.environment.clone())?;
        // A configured management API belongs to the usual broker, not to this one.
        config.derive_management(config.local.clone().as_ref());
        Ok(config)
    }

    /// Like [`Self::for_url`], for the broker that `move --from` names: a management API that was
    /// named on the command line is that broker's, because its queues are asked for.
    pub fn for_source_url(&self, url: &str) -> Result<Self, Error> {
        if self.flags.mgmt_url.is_none() {
            return self.for_url(url);
        }
        let flags = Flags {
            url: Some(url.to_owned()),
            ..self.flags.clone()
        };
        Self::resolve(&flags, self.environment.clone())
    }

    /// Returns this configuration for the broker that `move --from` moves to: a management API that
    /// was named on the command line is that of the other one.
    pub fn for_target(&self) -> Result<Self, Error> {
        let flags = Flags {
            mgmt_url: None,
            ..self.flags.clone()
        };
        Self::resolve(&flags, self.environment.clone())
    }

    /// Returns this configuration for a local broker that is not the one in `broker.json`.
    pub fn for_local(&self, local: &LocalBroker) -> Result<Self, Error> {
        let at = SocketAddr::new(local.host, local.port);
        let login = if local.guest { "guest:guest@" } else { "" };
        let mut config = self.for_url(&format!("amqp://{login}{at}"))?;
        config.derive_management(Some(local));
        if local.guest {
            config.management.guard = LoginGuard::Assumed;
        }
        config.local = Some(local.clone());
        config.endpoint.is_local_broker = true;
        Ok(config)
    }

    fn derive_management(&mut self, local: Option<&LocalBroker>) {
        let login = self.endpoint.login.clone();
        let origin = ValueOrigin::Derived;
        self.management = Management {
            url: resolve::derived_management_url(&self.endpoint.address, local),
            guard: resolve::management_guard(&self.endpoint, &login, origin, (&self.home, local)),
            login,
        };
    }

    /// Whether the user named a broker. If so, local brokers are not started, examined or
    /// mentioned.
    pub fn names_a_broker(&self) -> bool {
        matches!(
            self.endpoint_origin,
            ValueOrigin::Flag | ValueOrigin::Environment | ValueOrigin::File
        )
    }
}

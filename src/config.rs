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
mod management;
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
    /// Which settings of a management API are used.
    pub api: ApiChoice,
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

/// Which settings of a management API are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ApiChoice {
    /// Those of the flags, and those of the environment and the file that are about the broker.
    #[default]
    WithFlags,
    /// The same without the flags, which are about another broker: with `move --from` about the one
    /// that is moved from.
    WithoutFlags,
    /// None: the API is derived from the broker's address.
    Derived,
}

/// The broker that settings of a management API are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiOf {
    /// The one of the configuration.
    ThisBroker,
    /// Another one, so they are not used: a login goes only to the broker that it was given for.
    AnotherBroker,
}

/// The brokers that each source's settings of a management API are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamedApi {
    /// Those of the flags.
    pub flags: ApiOf,
    /// Those of the environment.
    pub environment: ApiOf,
    /// Those of `config.toml`.
    pub file: ApiOf,
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
    /// Which sources' settings were used for it.
    pub named_api: NamedApi,
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

impl ApiOf {
    fn this_broker_if(is_this: bool) -> Self {
        if is_this {
            Self::ThisBroker
        } else {
            Self::AnotherBroker
        }
    }

    /// Whether they are about the broker of the configuration.
    pub fn is_this(self) -> bool {
        self == Self::ThisBroker
    }
}

impl Config {
    /// Resolves the configuration again, after a local broker was started or stopped.
    pub fn again(&self) -> Result<Self, Error> {
        Self::resolve(&self.flags, self.environment.clone())
    }

    /// Returns this configuration for another broker, of whose management API nothing was said.
    pub fn for_url(&self, url: &str) -> Result<Self, Error> {
        self.for_other(url, ApiChoice::Derived)
    }

    /// Like [`Self::for_url`], for the broker that `move --from` names, with the management API and
    /// the login that flags name.
    pub fn for_source_url(&self, url: &str) -> Result<Self, Error> {
        self.for_other(url, ApiChoice::WithFlags)
    }

    /// Like [`Self::for_url`], for the broker that `move --to` names: the flags are those of the
    /// other one.
    pub fn for_target_url(&self, url: &str) -> Result<Self, Error> {
        self.for_other(url, ApiChoice::WithoutFlags)
    }

    fn for_other(&self, url: &str, api: ApiChoice) -> Result<Self, Error> {
        let flags = Flags {
            url: Some(url.to_owned()),
            api,
            ..self.flags.clone()
        };
        Self::resolve(&flags, self.environment.clone())
    }

    /// Whether a flag says something of a management API.
    pub fn has_api_flag(&self) -> bool {
        let flags = &self.flags;
        let given = [&flags.mgmt_url, &flags.mgmt_user, &flags.mgmt_pass];
        given.into_iter().any(Option::is_some)
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

    /// Variables about a management API that a wrapped program does not get, because its broker is
    /// another one, or because it does not get their password.
    pub fn withheld_api_variables(&self) -> &'static [&'static str] {
        if !self.named_api.environment.is_this() {
            &["CBROKER_MGMT_URL", "CBROKER_MGMT_USER"]
        } else if self.flags.mgmt_pass.is_some() {
            &["CBROKER_MGMT_USER"]
        } else {
            &[]
        }
    }

    fn derive_management(&mut self, local: Option<&LocalBroker>) {
        let login = self.endpoint.login.clone();
        let origin = ValueOrigin::Derived;
        self.management = Management {
            url: management::derived_url(&self.endpoint.address, local),
            guard: management::guard(&self.endpoint, &login, origin, (&self.home, local)),
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

//! Broker addresses `amqp(s)://user:password@host:port/vhost`: parsed, displayed without the
//! password, and completed with a login.

use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::{Credentials, Home};
use crate::transport::{ListenerDemand, Route};

/// The name of the local broker's socket in its home folder.
const SOCKET: &str = "broker.sock";

/// All characters except the unreserved ones of RFC 3986.
const RESERVED: AsciiSet = NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// With or without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UrlScheme {
    /// Plain TCP, port 5672 by default.
    Amqp,
    /// TLS, port 5671 by default.
    Amqps,
}

/// A user and its password. `Debug` hides the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user name.
    pub user: String,
    /// The password in plain text.
    pub password: String,
}

/// The address of a broker. Display and `Debug` hide its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// With or without TLS.
    pub scheme: UrlScheme,
    /// The host name or IP address, without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// The virtual host; `/` if the URL names none.
    pub vhost: String,
    /// The user in the URL.
    pub user: Option<String>,
    /// The password in the URL.
    pub password: Option<String>,
}

/// A broker and its login: everything that a connection needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub address: Address,
    /// The login: from the URL, the credentials file, or guest.
    pub login: Login,
    /// A file of PEM certificates to trust in addition to the system's.
    pub ca_cert: Option<PathBuf>,
    /// Where the login comes from, and so whom it may be sent to.
    pub guard: LoginGuard,
    /// Whether it is the local broker, which `cbroker start` starts at this address.
    pub is_local_broker: bool,
}

/// Who may receive a login and what is sent after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginGuard {
    /// Any listener at the address, because the user gave both the address and the login.
    AsGiven,
    /// The user named no broker, and the login is no secret: guest of this home's container. The
    /// listener must be proven to run as this user, where the system reports who listens.
    Assumed,
    /// The password is stored in this home, or will be once its broker has started. It is sent only
    /// to a listener that is proven to run as this user.
    Stored {
        /// The home with the password.
        home: Home,
        /// Whether the broker is the one of this home, which also listens on sockets in it.
        has_sockets: bool,
    },
    /// The user gave the login for a broker, and the address of its management API was derived.
    /// There another program may listen, so on this machine the listener must be proven to run as
    /// this user, or as the user who listens at the broker's port.
    Derived {
        /// The broker's port; `None` where the broker must be this user's too.
        broker_port: Option<u16>,
    },
}

/// Why a text is not a broker address. Does not repeat the text, because it may contain a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The text starts with neither `amqp://` nor `amqps://`.
    #[error("it starts with neither amqp:// nor amqps://")]
    Scheme,
    /// There is no host.
    #[error("it has no host")]
    Host,
    /// The port is not a number from 1 to 65535.
    #[error("its port is not a number from 1 to 65535")]
    Port,
    /// A `%` is not followed by two hexadecimal digits, or the decoded bytes are not UTF-8.
    #[error("it contains an invalid % escape")]
    Escape,
}

impl UrlScheme {
    /// Returns the default port.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Amqp => 5672,
            Self::Amqps => 5671,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Amqp => "amqp",
            Self::Amqps => "amqps",
        }
    }
}

impl Address {
    /// Returns an address on this machine without TLS. It uses 127.0.0.1, because `localhost` can
    /// lead to another program on `[::1]`, which would receive the login.
    pub fn local(port: u16) -> Self {
        Self::at(Ipv4Addr::LOCALHOST.into(), port)
    }

    /// Returns an address without TLS.
    pub fn at(host: IpAddr, port: u16) -> Self {
        Self {
            scheme: UrlScheme::Amqp,
            host: host.to_string(),
            port,
            vhost: "/".into(),
            user: None,
            password: None,
        }
    }

    /// Parses an AMQP URL. A missing or empty path means the vhost `/`. Query parameters are
    /// ignored.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (scheme, rest) = text.trim().split_once("://").ok_or(AddressError::Scheme)?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "amqp" => UrlScheme::Amqp,
            "amqps" => UrlScheme::Amqps,
            _ => return Err(AddressError::Scheme),
        };
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, host_port) = authority
            .rsplit_once('@')
            .map_or((None, authority), |(l, h)| (Some(l), h));
        let (host, port) = split_port(host_port)?;
        let (user, password) = match login.map(|login| {
            login
                .split_once(':')
                .map_or((login, None), |(u, p)| (u, Some(p)))
        }) {
            None => (None, None),
            Some((user, password)) => (Some(unescape(user)?), password.map(unescape).transpose()?),
        };
        let vhost = unescape(path)?;
        Ok(Self {
            scheme,
            host: unescape(host)?,
            port: port.unwrap_or(scheme.default_port()),
            vhost: if vhost.is_empty() { "/".into() } else { vhost },
            user: user.filter(|user| !user.is_empty()),
            password,
        })
    }

    /// Whether the broker is on this machine.
    pub fn is_local(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// Returns the address without its password, as a child process may see it.
    #[must_use]
    pub fn without_password(&self) -> Self {
        Self {
            password: None,
            ..self.clone()
        }
    }

    /// Whether both are the same broker and vhost, independent of the login.
    pub fn is_same_place(&self, other: &Self) -> bool {
        self.is_same_server(other) && self.vhost == other.vhost
    }

    /// Whether both are the same broker, independent of login and vhost.
    pub fn is_same_server(&self, other: &Self) -> bool {
        let host =
            self.host.eq_ignore_ascii_case(&other.host) || (self.is_local() && other.is_local());
        host && (self.scheme, self.port) == (other.scheme, other.port)
    }

    fn spell(&self, password: Option<&str>) -> String {
        let mut url = format!("{}://", self.scheme.name());
        if let Some(user) = &self.user {
            url.push_str(&escape(user));
            if let Some(password) = password {
                url.push(':');
                url.push_str(password);
            }
            url.push('@');
        }
        if self.host.contains(':') {
            let _ = write!(url, "[{}]", self.host);
        } else {
            url.push_str(&self.host);
        }
        let _ = write!(url, ":{}", self.port);
        if self.vhost != "/" {
            url.push('/');
            url.push_str(&escape(&self.vhost));
        }
        url
    }
}

impl LoginGuard {
    /// Returns the login as it is now: a stored password is read again, because it may have
    /// changed. The user beside it may be another one than is stored.
    pub fn login_now(&self, login: &Login) -> Login {
        let stored = match self {
            Self::AsGiven | Self::Assumed | Self::Derived { .. } => None,
            Self::Stored { home, .. } => Credentials::read(home).ok().flatten(),
        };
        Login {
            user: login.user.clone(),
            password: stored.map_or_else(|| login.password.clone(), |stored| stored.password),
        }
    }

    /// Whether a login with this guard is the stored one: its user too.
    pub(super) fn is_of_stored_user(&self, login: &Login) -> bool {
        match self {
            Self::AsGiven | Self::Assumed | Self::Derived { .. } => false,
            Self::Stored { home, .. } => {
                let stored = Credentials::read(home).ok().flatten();
                stored.is_none_or(|stored| stored.user == login.user)
            }
        }
    }

    /// Whether the broker also listens on sockets in the home.
    pub(super) fn has_sockets(&self) -> bool {
        matches!(
            self,
            Self::Stored {
                has_sockets: true,
                ..
            }
        )
    }

    /// Returns the path of the broker's socket with this name, if it has sockets.
    pub fn socket(&self, name: &str) -> Option<PathBuf> {
        match self {
            Self::Stored {
                home,
                has_sockets: true,
            } => Some(home.socket(name)),
            _ => None,
        }
    }

    /// Whether a listener about which the system reports nothing must not learn the login.
    pub fn is_secret(&self) -> bool {
        matches!(self, Self::Stored { .. } | Self::Derived { .. })
    }

    /// Returns whose program must listen.
    pub fn listener_demand(&self) -> ListenerDemand {
        match self {
            Self::AsGiven => ListenerDemand::Anybody,
            Self::Assumed | Self::Stored { .. } => ListenerDemand::Ours,
            Self::Derived { broker_port } => ListenerDemand::OursIfHere {
                beside: *broker_port,
            },
        }
    }
}

impl Endpoint {
    /// Returns how to connect.
    pub fn route(&self) -> Route {
        Route {
            host: self.address.host.clone(),
            port: self.address.port,
            is_tls: self.address.scheme == UrlScheme::Amqps,
            ca_cert: self.ca_cert.clone(),
            socket: self.guard.socket(SOCKET),
            listener: self.guard.listener_demand(),
        }
    }

    /// Returns the login as it is now.
    pub fn login_now(&self) -> Login {
        self.guard.login_now(&self.login)
    }

    /// Returns the full URL **with the password**, for `status --show-url` and files with mode 0600
    /// only.
    pub fn secret_url(&self) -> String {
        let address = Address {
            user: Some(self.login.user.clone()),
            ..self.address.clone()
        };
        address.spell(Some(&escape(&self.login.password)))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spell(self.password.as_ref().map(|_| "***")))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:***", self.user)
    }
}

fn split_port(text: &str) -> Result<(&str, Option<u16>), AddressError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or(AddressError::Host)?;
            (
                host,
                after
                    .strip_prefix(':')
                    .or(if after.is_empty() { None } else { Some("?") }),
            )
        }
        None => text
            .split_once(':')
            .map_or((text, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err(AddressError::Host);
    }
    match port {
        None | Some("") => Ok((host, None)),
        Some(port) => match port.parse() {
            Ok(0) | Err(_) => Err(AddressError::Port),
            Ok(port) => Ok((host, Some(port))),
        },
    }
}

pub(super) fn unescape(text: &str) -> Result<String, AddressError> {
    let is_hex = |digits: &[u8]| digits.iter().all(u8::is_ascii_hexdigit);
    let broken = |(at, _): (usize, &str)| !text.as_bytes().get(at + 1..at + 3).is_some_and(is_hex);
    if text.match_indices('%').any(broken) {
        return Err(AddressError::Escape);
    }
    let decoded = percent_decode_str(text).decode_utf8();
    Ok(decoded.map_err(|_| AddressError::Escape)?.into_owned())
}

/// Percent-encodes all characters except the unreserved ones of RFC 3986.
pub fn escape(text: &str) -> String {
    utf8_percent_encode(text, &RESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_cloud_address_is_read_and_shown_without_its_password() {
        let address =
            Address::parse("amqps://ixpqijvz:se%2Fcret@campbell.lmq.cloudamqp.com/ixpqijvz")
                .unwrap();
        assert_eq!(
            (address.scheme, address.port, address.vhost.as_str()),
            (UrlScheme::Amqps, 5671, "ixpqijvz")
        );
        assert_eq!(address.password.as_deref(), Some("se/cret"));
        for shown in [address.to_string(), format!("{address:?}")] {
            assert_eq!(
                shown,
                "amqps://ixpqijvz:***@campbell.lmq.cloudamqp.com:5671/ixpqijvz"
            );
        }
        assert_eq!(
            address.without_password().to_string(),
            "amqps://ixpqijvz@campbell.lmq.cloudamqp.com:5671/ixpqijvz"
        );
    }

    #[test]
    fn what_is_left_out_gets_its_default() {
        assert_eq!(
            Address::parse("amqp://127.0.0.1").unwrap(),
            Address::local(5672)
        );
        assert_eq!(
            Address::parse("amqp://127.0.0.1/").unwrap(),
            Address::local(5672)
        );
        assert_eq!(
            Address::parse("amqp://127.0.0.1:5672/%2F?heartbeat=1").unwrap(),
            Address::local(5672)
        );
        let six = Address::parse("amqp://[::1]:7000").unwrap();
        assert_eq!(
            (six.host.as_str(), six.port, six.is_local()),
            ("::1", 7000, true)
        );
        assert_eq!(six.to_string(), "amqp://[::1]:7000");
    }

    #[test]
    fn nonsense_is_refused_without_repeating_it() {
        for (text, error) in [
            ("localhost:5672", AddressError::Scheme),
            ("http://localhost", AddressError::Scheme),
            ("amqp://", AddressError::Host),
            ("amqp://user:secret@", AddressError::Host),
            ("amqp://host:0", AddressError::Port),
            ("amqp://host:99999", AddressError::Port),
            ("amqp://[::1]7", AddressError::Port),
            ("amqp://u:%zz@host", AddressError::Escape),
            ("amqp://u:%e@host", AddressError::Escape),
        ] {
            assert_eq!(Address::parse(text), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_login_survives_the_secret_url(
            user in "\\PC{1,12}", password in "\\PC{0,12}", vhost in "\\PC{1,8}",
        ) {
            let address = Address { vhost: vhost.clone(), ..Address::local(5672) };
            let login = Login { user: user.clone(), password: password.clone() };
            let endpoint = Endpoint {
                address, login, ca_cert: None, guard: LoginGuard::AsGiven, is_local_broker: false,
            };
            let again = Address::parse(&endpoint.secret_url()).unwrap();
            prop_assert_eq!(
                (again.user, again.password, again.vhost),
                (Some(user), Some(password), vhost)
            );
        }
    }
}

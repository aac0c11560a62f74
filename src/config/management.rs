//! The management API of a broker and its login, from flags, environment and `config.toml`.
//!
//! A login goes only to the API that it was given for. What a source says of an API belongs to the
//! broker that this source or one below it names, and is not used for another broker. The user and
//! the password of a source that names an API are not used for another API. A password is not used
//! beside another user than its source names.

use super::address::{UrlScheme, unescape};
use super::file::File;
use super::resolve::is_stored;
use super::{
    Address, Endpoint, Environment, Flags, Home, LocalBroker, Login, LoginGuard, Management,
    ValueOrigin,
};
use crate::error::Error;
use crate::exit::Exit;

const DEFAULT_PORT: u16 = 15672;

/// What one source says of the API.
#[derive(Clone)]
pub(super) struct ApiSettings {
    origin: ValueOrigin,
    url: Option<String>,
    user: Option<String>,
    password: Option<String>,
}

/// The API, and the sources of its address and its user.
pub(super) struct ResolvedApi {
    pub(super) management: Management,
    pub(super) url_origin: ValueOrigin,
    pub(super) user_origin: ValueOrigin,
}

impl ApiSettings {
    pub(super) fn of_flags(flags: &Flags) -> Result<Self, Error> {
        let login = (flags.mgmt_user.as_deref(), flags.mgmt_pass.as_deref());
        Self::new(ValueOrigin::Flag, flags.mgmt_url.as_deref(), login)
    }

    pub(super) fn of_environment(environment: &Environment) -> Result<Self, Error> {
        let login = (
            environment.text("CBROKER_MGMT_USER"),
            environment.text("CBROKER_MGMT_PASS"),
        );
        let url = environment.text("CBROKER_MGMT_URL");
        Self::new(ValueOrigin::Environment, url, login)
    }

    pub(super) fn of_file(file: &File) -> Result<Self, Error> {
        let login = (file.mgmt_user.as_deref(), file.mgmt_pass.as_deref());
        Self::new(ValueOrigin::File, file.mgmt_url.as_deref(), login)
    }

    /// A URL may contain the login, as a broker's does.
    fn new(
        origin: ValueOrigin,
        url: Option<&str>,
        (user, password): (Option<&str>, Option<&str>),
    ) -> Result<Self, Error> {
        let parsed = url.map(ApiUrl::parse).transpose()?;
        let (url, login) = match parsed {
            Some(ApiUrl { url, login }) => (Some(url), login),
            None => (None, None),
        };
        let of_url = login.filter(|(of_url, _)| user.is_none_or(|user| user == of_url));
        let (user_of_url, password_of_url) = of_url.unzip();
        Ok(Self {
            origin,
            url,
            user: user.map(str::to_owned).or(user_of_url),
            password: password.map(str::to_owned).or(password_of_url.flatten()),
        })
    }

    /// What the user of this source is called, for an error.
    fn user_key(&self, home: &Home) -> String {
        match self.origin {
            ValueOrigin::Flag => "--mgmt-user".to_owned(),
            ValueOrigin::Environment => "CBROKER_MGMT_USER".to_owned(),
            _ => format!("mgmt_user in {}", home.config_file().display()),
        }
    }
}

/// The address of an API, and the login in it.
struct ApiUrl {
    /// Without the login, and without a slash at the end.
    url: String,
    login: Option<(String, Option<String>)>,
}

impl ApiUrl {
    fn parse(text: &str) -> Result<Self, Error> {
        let no_url = |why: &str| Error::usage("the management address is not a URL").caused_by(why);
        let is_http = |scheme: &&str| matches!(*scheme, "http" | "https");
        let (scheme, rest) = text
            .split_once("://")
            .filter(|(scheme, _)| is_http(scheme))
            .ok_or_else(|| no_url("it starts with neither http:// nor https://"))?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if path.contains('@') {
            // Otherwise a password with a slash in it would be shown as a path.
            return Err(no_url(
                "it has an `@` behind the host; write `/` in a password as %2F",
            ));
        }
        let (login, host) = match authority.rsplit_once('@') {
            Some((login, host)) => (Some(login), host),
            None => (None, authority),
        };
        let decoded = |text: &str| unescape(text).map_err(|error| no_url(&error.to_string()));
        let login = match login {
            None | Some("") => None,
            Some(login) => Some(match login.split_once(':') {
                Some((user, password)) => (decoded(user)?, Some(decoded(password)?)),
                None => (decoded(login)?, None),
            }),
        };
        let url = format!("{scheme}://{host}{path}");
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            login,
        })
    }
}

/// Determines the API from the sources that are about this broker, in their order of precedence.
///
/// # Errors
/// If a user is named whose password no source has.
pub(super) fn resolve(
    sources: &[ApiSettings],
    endpoint: &Endpoint,
    (home, local): (&Home, Option<&LocalBroker>),
) -> Result<ResolvedApi, Error> {
    let named = sources
        .iter()
        .find_map(|source| Some((source.url.clone()?, source.origin)));
    let (url, url_origin) = named.unwrap_or_else(|| {
        let derived = derived_url(&endpoint.address, local);
        (derived, ValueOrigin::Derived)
    });
    let names_no_other = |source: &&ApiSettings| {
        let named = source.url.as_ref();
        named.is_none_or(|named| *named == url)
    };
    let logins: Vec<&ApiSettings> = sources.iter().filter(names_no_other).collect();
    let (login, user_origin) = login(&logins, endpoint, home)?;
    let guard = guard(endpoint, &login, url_origin, (home, local));
    Ok(ResolvedApi {
        management: Management { url, login, guard },
        url_origin,
        user_origin,
    })
}

/// Determines the login: by default that of the broker.
fn login(
    sources: &[&ApiSettings],
    endpoint: &Endpoint,
    home: &Home,
) -> Result<(Login, ValueOrigin), Error> {
    let of_broker = &endpoint.login;
    let named = sources
        .iter()
        .find_map(|source| Some((source.user.as_ref()?, *source)));
    let user = named.map_or(&of_broker.user, |(user, _)| user);
    let is_of_user = |source: &&&ApiSettings| source.user.as_ref().is_none_or(|one| one == user);
    let password = sources
        .iter()
        .filter(is_of_user)
        .find_map(|source| source.password.as_ref());
    let password =
        match (password, named) {
            (Some(password), _) => password,
            (None, Some((user, source))) if *user != of_broker.user => {
                return Err(Error::new(format!("{} has no password", source.user_key(home)))
                .with_hint(
                    "set CBROKER_MGMT_PASS, or mgmt_pass in config.toml; without a user, the \
                     broker's own login is used",
                )
                .exit_with(Exit::Usage));
            }
            (None, _) => &of_broker.password,
        };
    let login = Login {
        user: user.clone(),
        password: password.clone(),
    };
    let origin = named.map_or(ValueOrigin::Derived, |(_, source)| source.origin);
    Ok((login, origin))
}

/// Guards the stored password for the management API too, whatever the user beside it, and any
/// login where the address is derived. The socket, which logs in as the broker's first user, is
/// used only for that user and only if no API was named.
pub(super) fn guard(
    endpoint: &Endpoint,
    login: &Login,
    origin: ValueOrigin,
    (home, local): (&Home, Option<&LocalBroker>),
) -> LoginGuard {
    let is_derived = origin == ValueOrigin::Derived;
    let is_guarded = matches!(endpoint.guard, LoginGuard::Stored { .. })
        && login.password == endpoint.login.password;
    if is_guarded || is_stored(home, login) {
        let is_first_user = *login == endpoint.login && endpoint.guard.is_of_stored_user(login);
        let is_embedded = local.is_none_or(LocalBroker::is_embedded);
        let has_sockets = endpoint.guard.has_sockets() && is_first_user;
        return LoginGuard::Stored {
            home: home.clone(),
            has_sockets: has_sockets && is_derived && is_embedded,
        };
    }
    match &endpoint.guard {
        _ if !is_derived => LoginGuard::AsGiven,
        LoginGuard::Assumed if *login == endpoint.login => LoginGuard::Assumed,
        LoginGuard::AsGiven => LoginGuard::Derived {
            broker_port: Some(endpoint.address.port),
        },
        _ => LoginGuard::Derived { broker_port: None },
    }
}

/// Returns the management URL of a broker. Cloud brokers use HTTPS on the standard port, and a
/// local broker records its port in `broker.json`.
pub(super) fn derived_url(address: &Address, local: Option<&LocalBroker>) -> String {
    let host = if address.host.contains(':') {
        format!("[{}]", address.host)
    } else {
        address.host.clone()
    };
    if address.scheme == UrlScheme::Amqps || host.ends_with(".cloudamqp.com") {
        return format!("https://{host}");
    }
    let here = local.filter(|local| address.is_local() && local.port == address.port);
    let port = here
        .and_then(|local| local.management_port)
        .unwrap_or(DEFAULT_PORT);
    format!("http://{host}:{port}")
}

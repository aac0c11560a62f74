//! Resolves flags, environment and files into a [`Config`]: the first source that names a value
//! wins.

use super::address::UrlScheme;
use super::credentials::moved_session_address;
use super::file::File;
use super::{
    Address, Config, Credentials, CurrentSession, Effective, Endpoint, Environment, Flags, Home,
    LocalBroker, Login, LoginGuard, Management, ValueOrigin, read_session_address,
};
use crate::error::Error;
use crate::exit::Exit;

const DEFAULT_PORT: u16 = 5672;
const DEFAULT_MANAGEMENT_PORT: u16 = 15672;

impl Config {
    /// Reads the files and determines every value. Does not use the network.
    pub fn resolve(flags: &Flags, environment: Environment) -> Result<Self, Error> {
        let home = usable_home(&environment)?;
        let file = File::read(&home)?;
        Self::from_files(flags, environment, home, &file)
    }

    /// Resolves as much as possible of a broken configuration: without `config.toml`, or without a
    /// home. Also returns what was ignored.
    ///
    /// # Errors
    /// If flags or environment are invalid too.
    pub fn salvage(flags: &Flags, environment: Environment) -> Result<(Self, LeftOut), Error> {
        let (home, no_home) = match usable_home(&environment) {
            Ok(home) => (home, None),
            Err(error) => (Home::nowhere(), Some(error)),
        };
        let (file, no_file) = match File::read(&home) {
            Ok(file) => (file, None),
            Err(error) => (File::default(), Some(error)),
        };
        let error = match Self::from_files(flags, environment.clone(), home.clone(), &file) {
            Ok(config) => return Ok((config, LeftOut { no_home, no_file })),
            Err(error) => error,
        };
        let file = File::default();
        if let Ok(config) = Self::from_files(flags, environment.clone(), home, &file) {
            let no_file = Some(no_file.unwrap_or(error));
            return Ok((config, LeftOut { no_home, no_file }));
        }
        let config = Self::from_files(flags, environment, Home::nowhere(), &file)?;
        let no_home = Some(no_home.unwrap_or(error));
        Ok((config, LeftOut { no_home, no_file }))
    }

    fn from_files(
        flags: &Flags,
        environment: Environment,
        home: Home,
        file: &File,
    ) -> Result<Self, Error> {
        let inside = CurrentSession {
            name: environment.text("CBROKER_NAME").map(str::to_owned),
            session: environment.text("CBROKER_SESSION").map(str::to_owned),
        };
        let local = LocalBroker::read(&home);
        let (mut address, endpoint_origin) =
            address(flags, &environment, file, &home, local.as_ref())?;
        if let (ValueOrigin::Environment, Some(session)) = (endpoint_origin, &inside.session)
            && let Some(moved) = moved_session_address(&home, session, &address)
        {
            address = moved;
        }
        let login = login(&address, endpoint_origin, &home, &inside, local.as_ref())?;
        let guard = guard(&address, endpoint_origin, &home, &inside, &login);
        let (ca_cert, ca_origin) = match (&flags.ca_cert, &file.ca_cert) {
            (Some(path), _) => (Some(path.clone()), ValueOrigin::Flag),
            (None, Some(path)) => (Some(path.clone()), ValueOrigin::File),
            (None, None) => (None, ValueOrigin::Default),
        };
        let is_unnamed = matches!(endpoint_origin, ValueOrigin::Local | ValueOrigin::Default);
        let is_its_place = |local: &LocalBroker| local.address().is_same_place(&address);
        let endpoint = Endpoint {
            is_local_broker: is_unnamed || local.as_ref().is_some_and(is_its_place),
            address,
            login,
            ca_cert,
            guard,
        };
        let (management, management_origin) = management(
            flags,
            &environment,
            file,
            &endpoint,
            (&home, local.as_ref()),
        )?;

        let mut config = Self {
            warnings: warnings(flags, &endpoint.address),
            settings: file.settings(),
            home,
            endpoint,
            endpoint_origin,
            management,
            format: flags.format,
            volume: flags.volume,
            inside,
            local,
            environment,
            flags: flags.clone(),
            effective: Vec::new(),
        };
        config.effective = config.explain(file, [management_origin, ca_origin]);
        Ok(config)
    }

    /// Returns every value for display with its source, for `cbroker config`.
    fn explain(&self, file: &File, [management, ca_cert]: [ValueOrigin; 2]) -> Vec<Effective> {
        let home = if self.environment.get("CBROKER_HOME").is_some() {
            ValueOrigin::Environment
        } else {
            ValueOrigin::Default
        };
        let ca_path = match &self.endpoint.ca_cert {
            Some(path) => path.display().to_string(),
            None => "the system's".into(),
        };
        let settings = self.home.config_file().display().to_string();
        let row = |key, value: String, origin| Effective { key, value, origin };
        let mut rows = vec![
            row("home", self.home.folder().display().to_string(), home),
            row("config_file", settings, home),
            row(
                "url",
                self.endpoint.address.to_string(),
                self.endpoint_origin,
            ),
            row(
                "user",
                self.endpoint.login.user.clone(),
                ValueOrigin::Derived,
            ),
            row("mgmt_url", self.management.url.clone(), management),
            row("mgmt_user", self.management.login.user.clone(), management),
            row("ca_cert", ca_path, ca_cert),
        ];
        rows.extend(file.explain_settings());
        rows
    }
}

/// What a configuration that was salvaged lacks, and why.
#[derive(Debug, Default)]
pub struct LeftOut {
    /// Nothing of `~/.cbroker` is used.
    pub no_home: Option<Error>,
    /// `config.toml` is not used.
    pub no_file: Option<Error>,
}

fn usable_home(environment: &Environment) -> Result<Home, Error> {
    let home = Home::of(environment).ok_or_else(|| {
        Error::new("no home directory")
            .caused_by("neither CBROKER_HOME nor HOME is set")
            .exit_with(Exit::Usage)
    })?;
    // Before anything in it is believed.
    match home.objection() {
        None => Ok(home),
        Some(objection) => {
            let folder = home.folder().display();
            Err(Error::new(format!("cannot use {folder}")).caused_by(objection))
        }
    }
}

fn address(
    flags: &Flags,
    environment: &Environment,
    file: &File,
    home: &Home,
    local: Option<&LocalBroker>,
) -> Result<(Address, ValueOrigin), Error> {
    let (text, origin, named) = if let Some(url) = &flags.url {
        (url.clone(), ValueOrigin::Flag, "--url".to_owned())
    } else if let Some(url) = environment.text("CBROKER_URL") {
        let named = "CBROKER_URL".to_owned();
        (url.to_owned(), ValueOrigin::Environment, named)
    } else if let Some(url) = file.url()? {
        let named = format!("the url of {}", home.config_file().display());
        (url, ValueOrigin::File, named)
    } else if let Some(local) = local {
        return Ok((local.address(), ValueOrigin::Local));
    } else {
        return Ok((Address::local(DEFAULT_PORT), ValueOrigin::Default));
    };
    let address = Address::parse(&text).map_err(|error| {
        Error::usage(format!("{named} is not a broker address"))
            .caused_by(error)
            .with_hint("expected amqp://user:password@host:5672/vhost, or amqps:// with TLS")
    })?;
    Ok((address, origin))
}

/// Guards a login with the stored password, whatever its user, even if it came from elsewhere, such
/// as a URL, and the broker that is used because the user named no other.
fn guard(
    address: &Address,
    origin: ValueOrigin,
    home: &Home,
    inside: &CurrentSession,
    login: &Login,
) -> LoginGuard {
    let local = LocalBroker::read(home);
    let is_embedded = local.as_ref().is_none_or(LocalBroker::is_embedded);
    let is_its_place = local.is_some_and(|local| local.address().is_same_place(address));
    let is_unnamed = matches!(origin, ValueOrigin::Local | ValueOrigin::Default);
    // Before the first start there is none yet.
    let is_expected = is_unnamed && *login == Credentials::none_yet();
    if !is_stored(home, login) && !is_expected {
        // A command inside a session gets the local broker's address without its login.
        let is_assumed = is_unnamed || is_its_place && address.password.is_none();
        return if is_assumed {
            LoginGuard::Assumed
        } else {
            LoginGuard::AsGiven
        };
    }
    let is_around_us = inside
        .session
        .as_deref()
        .and_then(|session| read_session_address(home, session))
        .is_some_and(|around_us| around_us.is_same_place(address));
    LoginGuard::Stored {
        home: home.clone(),
        has_sockets: is_embedded && (is_unnamed || is_its_place || is_around_us),
    }
}

/// Returns the login: from the URL, else from the current session's file, else of the local broker,
/// else guest. If no broker was named, guest is not used, so that another program's broker on the
/// default port is not entered.
fn login(
    address: &Address,
    origin: ValueOrigin,
    home: &Home,
    inside: &CurrentSession,
    local: Option<&LocalBroker>,
) -> Result<Login, Error> {
    if let (Some(user), Some(password)) = (&address.user, &address.password) {
        return Ok(Login {
            user: user.clone(),
            password: password.clone(),
        });
    }
    let is_wanted = |user: &str| address.user.as_deref().is_none_or(|wanted| wanted == user);
    let around_us = inside
        .session
        .as_deref()
        .and_then(|session| read_session_address(home, session));
    if let Some(Address {
        user: Some(user),
        password: Some(password),
        ..
    }) = around_us.filter(|around_us| around_us.is_same_place(address))
        && is_wanted(&user)
    {
        return Ok(Login { user, password });
    }
    let guest_there = local.is_some_and(|local| local.guest && local.port == address.port);
    let is_its_place = local.is_some_and(|local| local.address().is_same_place(address));
    if (address.is_local() || is_its_place) && !guest_there {
        let stored = Credentials::read(home).map_err(|error| {
            let path = home.credentials_file();
            Error::new(format!("cannot read {}", path.display())).caused_by(error)
        })?;
        if let Some(login) = stored.filter(|login| is_wanted(&login.user)) {
            return Ok(login);
        }
    }
    if origin == ValueOrigin::Default {
        return Ok(Credentials::none_yet());
    }
    let user = address.user.clone().unwrap_or_else(|| "guest".into());
    Ok(Login {
        user,
        password: address.password.clone().unwrap_or_else(|| "guest".into()),
    })
}

fn management(
    flags: &Flags,
    environment: &Environment,
    file: &File,
    endpoint: &Endpoint,
    (home, local): (&Home, Option<&LocalBroker>),
) -> Result<(Management, ValueOrigin), Error> {
    let given = flags
        .mgmt_url
        .as_deref()
        .map(|url| (url, ValueOrigin::Flag))
        .or_else(|| {
            environment
                .text("CBROKER_MGMT_URL")
                .map(|url| (url, ValueOrigin::Environment))
        })
        .or_else(|| file.mgmt_url.as_deref().map(|url| (url, ValueOrigin::File)));
    let (url, origin) = match given {
        Some((url, origin)) => (url.trim_end_matches('/').to_owned(), origin),
        None => (
            derived_management_url(&endpoint.address, local),
            ValueOrigin::Derived,
        ),
    };
    if !(url.starts_with("http://") || url.starts_with("https://")) {
        return Err(Error::usage("the management address is not a URL")
            .caused_by("it starts with neither http:// nor https://"));
    }
    let mut login = file
        .management_login()
        .unwrap_or_else(|| endpoint.login.clone());
    if let Some(user) = flags
        .mgmt_user
        .as_deref()
        .or_else(|| environment.text("CBROKER_MGMT_USER"))
    {
        user.clone_into(&mut login.user);
    }
    if let Some(password) = flags
        .mgmt_pass
        .as_deref()
        .or_else(|| environment.text("CBROKER_MGMT_PASS"))
    {
        password.clone_into(&mut login.password);
    }
    let guard = management_guard(endpoint, &login, origin, (home, local));
    Ok((Management { url, login, guard }, origin))
}

/// Guards the stored password for the management API too, whatever the user beside it, and any
/// login where the address is derived. The socket, which logs in as the broker's first user, is
/// used only for that user and only if no API was named.
pub(super) fn management_guard(
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

/// Whether a login has the stored password.
fn is_stored(home: &Home, login: &Login) -> bool {
    let stored = Credentials::read(home).ok().flatten();
    stored.is_some_and(|stored| stored.password == login.password)
}

/// Returns the management URL of a broker. Cloud brokers use HTTPS on the standard port, and a
/// local broker records its port in `broker.json`.
pub(super) fn derived_management_url(address: &Address, local: Option<&LocalBroker>) -> String {
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
        .unwrap_or(DEFAULT_MANAGEMENT_PORT);
    format!("http://{host}:{port}")
}

fn warnings(flags: &Flags, address: &Address) -> Vec<String> {
    let mut warnings = Vec::new();
    if flags.url.is_some() && address.password.is_some() {
        warnings.push(
            "the password in --url is visible to every user of this machine; \
             set CBROKER_URL, or url_file in config.toml"
                .into(),
        );
    }
    if flags.mgmt_pass.is_some() {
        warnings.push(
            "the password in --mgmt-pass is visible to every user of this machine; \
             set CBROKER_MGMT_PASS"
                .into(),
        );
    }
    warnings
}

#[cfg(test)]
mod tests;

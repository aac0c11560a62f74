//! Resolves flags, environment and files into a [`Config`]: the first source that names a value
//! wins.

use super::credentials::{file_api_of_session, moved_session_address};
use super::file::File;
use super::management::{self, ApiSettings, ResolvedApi};
use super::{
    Address, ApiChoice, ApiOf, Config, Credentials, CurrentSession, Effective, Endpoint,
    Environment, Flags, Home, LocalBroker, Login, LoginGuard, NamedApi, ValueOrigin,
    read_session_address,
};
use crate::error::Error;
use crate::exit::Exit;

const DEFAULT_PORT: u16 = 5672;

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
        let sources = ConfigSources {
            environment: &environment,
            file,
            home: &home,
            inside: &inside,
            local: local.as_ref(),
        };
        let (address, endpoint_origin) = sources.address(flags)?;
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
        let named_api = sources.named_api(flags, &endpoint.address, endpoint_origin);
        let api = sources.api(flags, &endpoint, named_api)?;

        let mut config = Self {
            warnings: warnings(flags, &endpoint.address),
            settings: file.settings(),
            home,
            endpoint,
            endpoint_origin,
            management: api.management,
            named_api,
            format: flags.format,
            volume: flags.volume,
            inside,
            local,
            environment,
            flags: flags.clone(),
            effective: Vec::new(),
        };
        let origins = [api.url_origin, api.user_origin, ca_origin];
        config.effective = config.explain(file, origins);
        Ok(config)
    }

    /// Returns every value for display with its source, for `cbroker config`.
    fn explain(&self, file: &File, origins: [ValueOrigin; 3]) -> Vec<Effective> {
        let [api_url, api_user, ca_cert] = origins;
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
            row("mgmt_url", self.management.url.clone(), api_url),
            row("mgmt_user", self.management.login.user.clone(), api_user),
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

/// What a configuration is resolved from, apart from the flags.
struct ConfigSources<'a> {
    environment: &'a Environment,
    file: &'a File,
    home: &'a Home,
    inside: &'a CurrentSession,
    local: Option<&'a LocalBroker>,
}

impl ConfigSources<'_> {
    /// Returns the address of the broker and its source.
    fn address(&self, flags: &Flags) -> Result<(Address, ValueOrigin), Error> {
        let (text, origin, named) = if let Some(url) = &flags.url {
            (url.clone(), ValueOrigin::Flag, "--url".to_owned())
        } else if let Some(url) = self.environment.text("CBROKER_URL") {
            let named = "CBROKER_URL".to_owned();
            (url.to_owned(), ValueOrigin::Environment, named)
        } else if let Some(url) = self.file.url()? {
            let named = format!("the url of {}", self.home.config_file().display());
            (url, ValueOrigin::File, named)
        } else if let Some(local) = self.local {
            return Ok((local.address(), ValueOrigin::Local));
        } else {
            return Ok((Address::local(DEFAULT_PORT), ValueOrigin::Default));
        };
        let address = Address::parse(&text).map_err(|error| {
            Error::usage(format!("{named} is not a broker address"))
                .caused_by(error)
                .with_hint("expected amqp://user:password@host:5672/vhost, or amqps:// with TLS")
        })?;
        let moved = match (origin, &self.inside.session) {
            (ValueOrigin::Environment, Some(session)) => {
                moved_session_address(self.home, session, &address)
            }
            _ => None,
        };
        Ok((moved.unwrap_or(address), origin))
    }

    /// Determines about which broker each source is where it says something of an API: the one that
    /// it or a source below it names.
    fn named_api(&self, flags: &Flags, address: &Address, origin: ValueOrigin) -> NamedApi {
        let is_derived = flags.api == ApiChoice::Derived;
        let is_usual = !is_derived
            && (origin != ValueOrigin::Flag || {
                let usual = self.address(&Flags::default());
                usual.is_ok_and(|(usual, _)| usual.is_same_server(address))
            });
        NamedApi {
            flags: ApiOf::this_broker_if(flags.api == ApiChoice::WithFlags),
            environment: ApiOf::this_broker_if(is_usual),
            file: ApiOf::this_broker_if(is_usual && self.is_of_file(address)),
        }
    }

    /// Whether what the file says of an API is about this broker, unless flags name another one. A
    /// session's commands have its address in their environment, where the file names none.
    fn is_of_file(&self, address: &Address) -> bool {
        match self.file.url() {
            Ok(Some(url)) => Address::parse(&url).is_ok_and(|url| url.is_same_server(address)),
            Ok(None) => {
                let session = self.inside.session.as_deref();
                session.is_none_or(|session| file_api_of_session(self.home, session).is_this())
            }
            Err(_) => false,
        }
    }

    fn api(
        &self,
        flags: &Flags,
        endpoint: &Endpoint,
        named: NamedApi,
    ) -> Result<ResolvedApi, Error> {
        let mut sources = Vec::new();
        if named.flags.is_this() {
            sources.push(ApiSettings::of_flags(flags)?);
        }
        if named.environment.is_this() {
            sources.push(ApiSettings::of_environment(self.environment)?);
        }
        if named.file.is_this() {
            sources.push(ApiSettings::of_file(self.file)?);
        }
        management::resolve(&sources, endpoint, (self.home, self.local))
    }
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

/// Whether a login has the stored password.
pub(super) fn is_stored(home: &Home, login: &Login) -> bool {
    let stored = Credentials::read(home).ok().flatten();
    stored.is_some_and(|stored| stored.password == login.password)
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
    let has_login = |url: &String| url.contains('@');
    let in_api_url = flags.mgmt_url.as_ref().is_some_and(has_login);
    for (option, is_given) in [
        ("--mgmt-pass", flags.mgmt_pass.is_some()),
        ("--mgmt-url", in_api_url),
    ] {
        if is_given {
            warnings.push(format!(
                "the password in {option} is visible to every user of this machine; \
                 set CBROKER_MGMT_PASS"
            ));
        }
    }
    warnings
}

#[cfg(test)]
mod tests;

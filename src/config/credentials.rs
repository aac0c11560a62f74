//! Passwords on disk: the local broker's `credentials` file, and the address of a session's broker.
//!
//! Both files have mode 0600. A password never appears in an argument list, and only `status
//! --show-url` prints one.

use std::fmt::Write as _;
use std::fs;
use std::io;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::home::{write_private, write_private_once};
use super::own_folder::private_folder;
use super::{Address, ApiOf, Config, Home, Login};

const USER: &str = "cbroker";

/// The line of a session's address file that says so.
const FILE_API_OF_ANOTHER: &str = "management of config.toml: another broker's";

/// The content of the file `credentials`: user and password of the local broker.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct StoredLogin {
    version: u32,
    user: String,
    password: String,
}

/// The login of the local broker.
pub struct Credentials;

impl Credentials {
    /// Reads the stored login. `None` before the first start.
    pub fn read(home: &Home) -> io::Result<Option<Login>> {
        let text = match fs::read_to_string(home.credentials_file()) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let stored: StoredLogin = toml::from_str(&text).map_err(|_| damaged("credentials"))?;
        Ok(Some(Login {
            user: stored.user,
            password: stored.password,
        }))
    }

    /// Returns the login before the first start: the future user with an empty password.
    pub fn none_yet() -> Login {
        Login {
            user: USER.into(),
            password: String::new(),
        }
    }

    /// Reads the stored login, or creates one with a random password of 192 bits. If two processes
    /// create it at once, both use the same one.
    pub fn read_or_create(home: &Home) -> io::Result<Login> {
        if let Some(login) = Self::read(home)? {
            return Ok(login);
        }
        home.claim()?;
        let login = Self::fresh(USER)?;
        write_private_once(&home.credentials_file(), content(&login).as_bytes())?;
        Self::read(home)?.ok_or_else(|| damaged("credentials"))
    }

    /// Creates a login with a random password of 192 bits without storing it.
    pub fn fresh(user: &str) -> io::Result<Login> {
        let mut random = [0; 24];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        Ok(Login {
            user: user.to_owned(),
            password: BASE64_URL_SAFE_NO_PAD.encode(random),
        })
    }

    /// Replaces the stored login atomically.
    pub fn replace(home: &Home, login: &Login) -> io::Result<()> {
        write_private(&home.credentials_file(), content(login).as_bytes())
    }
}

/// Writes the address that commands inside a session use; its password is not in their environment.
/// A stored login is not copied, so that a new password reaches these commands too. Earlier
/// addresses of the session follow, one on each line, without passwords, and a line if what
/// `config.toml` says of a management API is not about this broker.
pub fn write_session_address(config: &Config, session: &str) -> io::Result<()> {
    let Config { home, endpoint, .. } = config;
    home.claim()?;
    private_folder(&home.sessions())?;
    let url = if endpoint.guard.is_of_stored_user(&endpoint.login) {
        endpoint.address.without_password().to_string()
    } else {
        endpoint.secret_url()
    };
    let mut text = format!("{url}\n");
    if let Some(known) = SessionAddress::read(home, session) {
        let before = std::iter::once(&known.now).chain(&known.before);
        for address in before.filter(|before| !endpoint.address.is_same_place(before)) {
            let _infallible = writeln!(text, "{}", address.without_password());
        }
    }
    if !config.named_api.file.is_this() {
        let _infallible = writeln!(text, "{FILE_API_OF_ANOTHER}");
    }
    write_private(&home.session_credentials(session), text.as_bytes())
}

/// Returns the address that the current session's wrap wrote, if any.
pub fn read_session_address(home: &Home, session: &str) -> Option<Address> {
    SessionAddress::read(home, session).map(|known| known.now)
}

/// Returns the session's current broker if `address` is one of its earlier brokers.
pub(super) fn moved_session_address(
    home: &Home,
    session: &str,
    address: &Address,
) -> Option<Address> {
    let known = SessionAddress::read(home, session)?;
    let has_moved = known
        .before
        .iter()
        .any(|before| before.is_same_place(address));
    has_moved.then_some(known.now)
}

/// Returns which broker `config.toml` is about where it says something of a management API and
/// names no broker itself, for the commands of this session.
pub(super) fn file_api_of_session(home: &Home, session: &str) -> ApiOf {
    SessionAddress::read(home, session).map_or(ApiOf::ThisBroker, |known| known.file_api)
}

/// The current and earlier addresses of a session's broker.
struct SessionAddress {
    now: Address,
    before: Vec<Address>,
    file_api: ApiOf,
}

impl SessionAddress {
    fn read(home: &Home, session: &str) -> Option<Self> {
        // The session id comes from the environment and must not name another folder.
        ulid::Ulid::from_string(session).ok()?;
        let text = fs::read_to_string(home.session_credentials(session)).ok()?;
        let mut addresses = text.lines().filter_map(|line| Address::parse(line).ok());
        let is_of_another = text.lines().any(|line| line == FILE_API_OF_ANOTHER);
        Some(Self {
            now: addresses.next()?,
            before: addresses.collect(),
            file_api: ApiOf::this_broker_if(!is_of_another),
        })
    }
}

fn content(login: &Login) -> String {
    let (user, password) = (&login.user, &login.password);
    format!(
        "# The user of the local broker. Anyone who knows this can type into your agents.\n\
         version = 1\nuser = {}\npassword = {}\n",
        serde_json::Value::from(user.as_str()),
        serde_json::Value::from(password.as_str())
    )
}

fn damaged(file: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the file `{file}` is damaged"),
    )
}

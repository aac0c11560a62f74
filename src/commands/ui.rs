//! `cbroker ui`: opens the management page in the browser, signed in, or prints its address if no
//! browser can be opened.
//!
//! The embedded broker issues a token that signs in one browser, once, within a minute. The printed
//! address contains it, for the person at this terminal. The browser gets it through a private
//! file, because every user of the machine can read a program's arguments. It gets the page under a
//! host name of its own where that can be (`page_host`); the printed address does without. Other
//! brokers have no such token, but a sign-in page of their own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use super::connect::require_broker;
use super::page_host;
use crate::config::{Config, remove_own_variables, write_private};
use crate::error::Error;
use crate::exit::Exit;
use crate::management::{Client, ManagementError, SignInLink};
use crate::output::Output;
use crate::platform;

const API_WITHIN: Duration = Duration::from_secs(3);

/// Opens the page. Prints the address too.
pub(super) async fn run(config: &Config, output: &Output) -> Result<Exit, Error> {
    let base = config.management.url.trim_end_matches('/');
    let api = Client::new(config, API_WITHIN)?;
    let link = sign_in_link(config, &api).await?;
    let path = link.as_ref().map_or("/", |link| link.path.as_str());
    let url = format!("{base}{path}");
    let was_opened = match opener(config).filter(|_| !output.is_json()) {
        Some(opener) => {
            let origin = match &link {
                // Safari asks the system for such names, which may ask the network.
                Some(_) if platform::IS_OPENED_BY_OPEN => None,
                Some(link) => page_host::origin(&config.home, &api, link).await,
                None => None,
            };
            let own = origin.map(|origin| format!("{origin}{path}"));
            open(opener, config, own.as_ref().unwrap_or(&url), link.is_some())
        }
        None => false,
    };
    output.json(&json!({ "url": url }))?;
    output.line(&url)?;
    if !was_opened && !output.is_json() {
        output.notice("no browser could be opened here; open the address above");
    } else if link.is_some() {
        output.notice("the address works once, within a minute");
    }
    Ok(Exit::Done)
}

/// The link that signs in. `None` for a broker without such links: its own page asks for a login.
///
/// # Errors
/// Where no broker, or one that refuses the login, or another user's program answers: its page
/// would be shown as the broker's.
async fn sign_in_link(config: &Config, api: &Client) -> Result<Option<SignInLink>, Error> {
    match api.sign_in_link().await {
        Ok(link) => Ok(Some(link)),
        Err(ManagementError::Status { .. }) => Ok(None),
        Err(error) => {
            match error {
                // A page that was open has told it the name with its requests.
                ManagementError::Foreign { .. } => page_host::forget(&config.home),
                ManagementError::Unreachable { .. } => require_broker(config, "ui").await?,
                _ => {}
            }
            Err(error.into())
        }
    }
}

/// The program that opens a browser. Only on a graphical desktop; a text browser would take over
/// the terminal.
fn opener(config: &Config) -> Option<&'static str> {
    if platform::IS_OPENED_BY_OPEN {
        return Some("open");
    }
    let is_graphical = config.environment.get("DISPLAY").is_some()
        || config.environment.get("WAYLAND_DISPLAY").is_some();
    is_graphical.then_some("xdg-open")
}

fn open(opener: &str, config: &Config, url: &str, is_secret: bool) -> bool {
    let target = if is_secret {
        match write_redirect_file(config.home.folder(), url) {
            Some(file) => file,
            None => return false,
        }
    } else {
        PathBuf::from(url)
    };
    let mut command = Command::new(opener);
    remove_own_variables(&mut command);
    let opened = command
        .arg(target)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    opened.is_ok_and(|status| status.success())
}

/// Writes a private file that redirects to the address. Its content is useless after a minute.
fn write_redirect_file(home: &Path, url: &str) -> Option<PathBuf> {
    let file = home.join("ui.html");
    write_private(&file, leading_to(url).as_bytes()).ok()?;
    Some(file)
}

fn leading_to(url: &str) -> String {
    let url = url
        .replace('&', "&amp;")
        .replace('"', "&quot;")
        .replace('<', "&lt;");
    format!(
        "<!doctype html><meta charset=\"utf-8\"><meta name=\"referrer\" content=\"no-referrer\">\
         <meta http-equiv=\"refresh\" content=\"0;url={url}\"><title>cbroker</title>"
    )
}

#[cfg(test)]
mod tests {
    use super::{leading_to, write_redirect_file};

    #[test]
    fn the_address_cannot_break_out_of_the_file() {
        let text = leading_to("http://h/#token=a\"><script>");
        assert!(!text.contains("<script>"), "{text}");
        assert!(
            text.contains("url=http://h/#token=a&quot;>&lt;script>\""),
            "{text}"
        );
    }

    #[test]
    fn the_file_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let file = write_redirect_file(folder.path(), "http://h/#token=a").unwrap();
        let mode = std::fs::metadata(file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

//! `cbroker rotate`: sets a new password for the local broker, first in the running broker, then in
//! the credentials file. The page gets another host name too.
//!
//! Sessions and commands read the file for each connection, so they use the new password without a
//! restart.

use std::time::Duration;

use serde_json::json;

use super::local::{self, RunsAs};
use super::page_host;
use crate::config::{Config, Credentials};
use crate::error::Error;
use crate::exit::Exit;
use crate::management::Client;
use crate::output::Output;

const API_WITHIN: Duration = Duration::from_secs(10);

/// Changes the password. If no broker runs, the next one starts with it.
pub(super) async fn run(config: &Config, output: &Output) -> Result<Exit, Error> {
    local::is_ours(config)?;
    let cannot = |error: std::io::Error| {
        let path = config.home.credentials_file();
        Error::new(format!("cannot use {}", path.display())).caused_by(error)
    };
    let old = Credentials::read_or_create(&config.home).map_err(cannot)?;
    let new = Credentials::fresh(&old.user).map_err(cannot)?;
    match local::find(config).await? {
        RunsAs::Container(..) => {
            return Err(
                Error::new("the broker in the container cannot change its password")
                    .caused_by("LavinMQ reads it only for a new data folder")
                    .with_hint("change it on the management page, and set it in CBROKER_URL"),
            );
        }
        RunsAs::Embedded(local, _) => {
            // A configured management API may be that of another broker.
            let client = Client::new(&config.for_local(&local)?, API_WITHIN)?;
            client.set_password(&new.user, &new.password).await?;
        }
        RunsAs::Nothing => {}
    }
    // If this fails, the next start of the broker restores the old password from the file.
    Credentials::replace(&config.home, &new).map_err(cannot)?;
    page_host::forget(&config.home);
    output.json(&json!({ "user": new.user }))?;
    output.line(format!(
        "`{}` has a new password; sessions and commands of this home use it from now on",
        new.user
    ))?;
    output.notice("other clients need it too: `cbroker status --show-url`");
    Ok(Exit::Done)
}

//! `cbroker rotate`: a new password for the local broker. The running broker learns it first, then the file is replaced.
//!
//! Sessions and commands read the file at every connect, so they sign in again by themselves.

use std::time::Duration;

use serde_json::json;

use super::local::{self, Local};
use crate::config::{Config, Credentials};
use crate::error::Error;
use crate::exit::Exit;
use crate::management::Client;
use crate::output::Output;

const API_WITHIN: Duration = Duration::from_secs(10);

/// Changes the password; where no broker runs, the next one begins with it.
pub(super) async fn run(config: &Config, output: &Output) -> Result<Exit, Error> {
    local::is_ours(config)?;
    let cannot = |error: std::io::Error| {
        let path = config.home.credentials_file();
        Error::new(format!("cannot use {}", path.display())).because(error)
    };
    let old = Credentials::read_or_create(&config.home).map_err(cannot)?;
    let new = Credentials::fresh(&old.user).map_err(cannot)?;
    match local::look(config).await? {
        Local::Container(..) => {
            return Err(Error::new("the broker in the container keeps its password")
                .because("LavinMQ reads it only when its data is new")
                .hint("change it on the management page, and give it in CBROKER_URL"));
        }
        Local::Embedded(..) => {
            let client = Client::new(config, API_WITHIN)?;
            client.set_password(&new.user, &new.password).await?;
        }
        Local::Nothing => {}
    }
    // Should this fail, the next start of the broker takes the old one from the file again.
    Credentials::replace(&config.home, &new).map_err(cannot)?;
    output.json(&json!({ "user": new.user }))?;
    output.line(format!(
        "`{}` has a new password; sessions and commands of this home use it by themselves",
        new.user
    ))?;
    output.notice("other clients need it too: `cbroker status --show-url`");
    Ok(Exit::Done)
}

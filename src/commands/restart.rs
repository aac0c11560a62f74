//! `cbroker restart`: stops the local broker and starts it again.

use super::local::{self, RunsAs};
use super::{start, stop};
use crate::cli::StartArgs;
use crate::config::{BrokerKind, Config, LocalBroker};
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;

/// Restarts on the same ports with the same options. Starts a broker that was not running.
pub(super) async fn run(config: &Config, output: &Output) -> Result<Exit, Error> {
    local::is_ours(config)?;
    let before = match local::find(config).await? {
        RunsAs::Embedded(local, _) => Some((local, String::new())),
        RunsAs::Container(_, state) => Some((state.local, state.image)),
        RunsAs::Nothing => None,
    };
    stop::stop(config).await?;
    start::run(as_before(before), &config.again()?, output).await
}

fn as_before(before: Option<(LocalBroker, String)>) -> StartArgs {
    let (local, image) =
        before.map_or((None, String::new()), |(local, image)| (Some(local), image));
    let serve_arguments = match local.as_ref().map(|local| &local.kind) {
        Some(BrokerKind::Embedded { arguments, .. }) => arguments.clone(),
        _ => Vec::new(),
    };
    StartArgs {
        serve_arguments,
        port: local.as_ref().map(|local| local.port),
        mgmt_port: local.as_ref().and_then(|local| local.management_port),
        docker: local
            .as_ref()
            .is_some_and(|local| matches!(local.kind, BrokerKind::Container { .. })),
        guest: local.as_ref().is_some_and(|local| local.guest),
        image,
    }
}

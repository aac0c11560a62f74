//! What a user may touch. Relies on `users`.

use super::Surroundings;
use crate::fault::Fault;
use crate::lock::read;
use crate::users::Operation;

fn check(
    around: &Surroundings,
    operation: Operation,
    (kind, name): (&str, &str),
) -> Result<(), Fault> {
    let vhost = around.vhost.name();
    if read(&around.broker.users).may(&around.user, vhost, operation, name) {
        return Ok(());
    }
    let name = if kind == "exchange" && name.is_empty() {
        "amq.default"
    } else {
        name
    };
    Err(Fault::refused(format!(
        "access to {kind} '{name}' in vhost '{vhost}' refused for user '{}'",
        around.user
    )))
}

pub(super) fn check_configure_exchange(around: &Surroundings, name: &str) -> Result<(), Fault> {
    check(around, Operation::Configure, ("exchange", name))
}

pub(super) fn check_write_exchange(around: &Surroundings, name: &str) -> Result<(), Fault> {
    check(around, Operation::Write, ("exchange", name))
}

pub(super) fn check_read_exchange(around: &Surroundings, name: &str) -> Result<(), Fault> {
    check(around, Operation::Read, ("exchange", name))
}

pub(super) fn check_configure_queue(around: &Surroundings, name: &str) -> Result<(), Fault> {
    check(around, Operation::Configure, ("queue", name))
}

pub(super) fn check_write_queue(around: &Surroundings, name: &str) -> Result<(), Fault> {
    check(around, Operation::Write, ("queue", name))
}

pub(super) fn check_read_queue(around: &Surroundings, name: &str) -> Result<(), Fault> {
    check(around, Operation::Read, ("queue", name))
}

/// The `user-id` property must name who publishes.
pub(super) fn check_user_id(around: &Surroundings, claimed: &[u8]) -> Result<(), Fault> {
    let users = read(&around.broker.users);
    let is_impersonator = || {
        users
            .get(&around.user)
            .is_some_and(|user| user.tags.iter().any(|tag| tag.0 == "impersonator"))
    };
    if claimed == around.user.as_bytes() || is_impersonator() {
        return Ok(());
    }
    let claimed = String::from_utf8_lossy(claimed);
    Err(Fault::precondition(format!(
        "user_id property set to '{claimed}' but authenticated user was '{}'",
        around.user
    )))
}

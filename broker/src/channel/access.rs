//! Checks the permissions of a channel's user before a method acts. Relies on `users`.

use super::ConnectionContext;
use crate::fault::Fault;
use crate::lock::read;
use crate::users::Operation;

fn check(
    context: &ConnectionContext,
    operation: Operation,
    (kind, name): (&str, &str),
) -> Result<(), Fault> {
    let vhost = context.vhost.name();
    if read(&context.broker.users).may(&context.user, vhost, operation, name) {
        return Ok(());
    }
    let name = if kind == "exchange" && name.is_empty() {
        "amq.default"
    } else {
        name
    };
    Err(Fault::refused(format!(
        "access to {kind} '{name}' in vhost '{vhost}' refused for user '{}'",
        context.user
    )))
}

pub(super) fn check_configure_exchange(
    context: &ConnectionContext,
    name: &str,
) -> Result<(), Fault> {
    check(context, Operation::Configure, ("exchange", name))
}

pub(super) fn check_write_exchange(context: &ConnectionContext, name: &str) -> Result<(), Fault> {
    check(context, Operation::Write, ("exchange", name))
}

pub(super) fn check_read_exchange(context: &ConnectionContext, name: &str) -> Result<(), Fault> {
    check(context, Operation::Read, ("exchange", name))
}

pub(super) fn check_configure_queue(context: &ConnectionContext, name: &str) -> Result<(), Fault> {
    check(context, Operation::Configure, ("queue", name))
}

pub(super) fn check_write_queue(context: &ConnectionContext, name: &str) -> Result<(), Fault> {
    check(context, Operation::Write, ("queue", name))
}

pub(super) fn check_read_queue(context: &ConnectionContext, name: &str) -> Result<(), Fault> {
    check(context, Operation::Read, ("queue", name))
}

/// The `user-id` property must name who publishes. `exchange` is `None` where that was looked at
/// with the exchange before.
pub(super) fn check_user_id(
    context: &ConnectionContext,
    claimed: &[u8],
    exchange: Option<&[u8]>,
) -> Result<(), Fault> {
    let may_impersonate = || {
        let own = context.broker.own_names_at;
        let is_own = |exchange: &[u8]| own.iter().any(|name| name.as_bytes() == exchange);
        let users = read(&context.broker.users);
        let user = users.get(&context.user);
        !exchange.is_some_and(is_own)
            && user.is_some_and(|user| user.tags.iter().any(|tag| tag.0 == "impersonator"))
    };
    if claimed == context.user.as_bytes() || may_impersonate() {
        return Ok(());
    }
    let claimed = String::from_utf8_lossy(claimed);
    Err(Fault::precondition(format!(
        "user_id property set to '{claimed}' but authenticated user was '{}'",
        context.user
    )))
}

//! Passwords, `guest` and permissions, compared with RabbitMQ's behaviour.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use super::{
    Credential, GUEST, GuestPolicy, LoginOrigin, LoginRefused, Operation, PasswordHash,
    Permissions, Rank, Tag, Users,
};

fn users(guest: GuestPolicy) -> Users {
    let mut users = Users::new(guest);
    for name in ["cbroker", GUEST] {
        users.put(
            name,
            Some(Credential::imported(PasswordHash::with_salt(
                b"secret",
                [1, 2, 3, 4],
            ))),
            vec![Tag("administrator".into())],
        );
        users.permit(name, "/", Permissions::all()).unwrap();
    }
    users
}

#[test]
fn a_hash_is_rabbitmqs_and_is_read_back() {
    // From RabbitMQ's documentation of password hashing: the password is "test12".
    let hash =
        PasswordHash::from_base64("kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR").unwrap();
    assert!(hash.is_of(b"test12"));
    assert!(!hash.is_of(b"test13"));
    assert_eq!(
        hash.to_base64(),
        "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"
    );
    assert_eq!(PasswordHash::from_base64("c2hvcnQ="), None);
    assert!(PasswordHash::new(b"x").unwrap().is_of(b"x"));
    assert_eq!(format!("{hash:?}"), "PasswordHash(…)", "never printed");
}

#[test]
fn only_the_right_password_enters() {
    let mut users = users(GuestPolicy::Refused);
    assert_eq!(
        users.authenticate("cbroker", b"secret", LoginOrigin::Elsewhere),
        Ok(())
    );
    assert_eq!(
        users.authenticate("cbroker", b"Secret", LoginOrigin::Loopback),
        Err(LoginRefused)
    );
    assert_eq!(
        users.authenticate("nobody", b"", LoginOrigin::Loopback),
        Err(LoginRefused)
    );
    users.put("cbroker", None, Vec::new());
    assert_eq!(
        users.authenticate("cbroker", b"", LoginOrigin::Loopback),
        Err(LoginRefused)
    );
    assert!(
        users.may_enter("cbroker", "/"),
        "a change of password keeps the permissions"
    );
}

#[test]
fn guest_enters_only_where_it_is_allowed_and_from_here() {
    assert!(
        users(GuestPolicy::Refused)
            .authenticate(GUEST, b"secret", LoginOrigin::Loopback)
            .is_err()
    );
    let allowing = users(GuestPolicy::LoopbackOnly);
    assert!(
        allowing
            .authenticate(GUEST, b"secret", LoginOrigin::Loopback)
            .is_ok()
    );
    assert!(
        allowing
            .authenticate(GUEST, b"secret", LoginOrigin::Elsewhere)
            .is_err()
    );
}

#[test]
fn permissions_are_expressions_that_match_anywhere_in_the_name() {
    let mut users = users(GuestPolicy::Refused);
    users.put("app", None, Vec::new());
    assert!(!users.may_enter("app", "/"));
    users
        .permit("app", "/", Permissions::new("^app-", "ap", "").unwrap())
        .unwrap();
    assert!(users.may_enter("app", "/"));
    let may = |operation, name| users.may("app", "/", operation, name);
    assert!(may(Operation::Configure, "app-1"));
    assert!(!may(Operation::Configure, "my-app-1"));
    assert!(may(Operation::Write, "my-app-1"), "not anchored");
    assert!(
        !may(Operation::Read, "app-1"),
        "the empty expression allows nothing"
    );
    assert!(!users.may("app", "other", Operation::Write, "app"));
    assert!(!users.may("nobody", "/", Operation::Write, "app"));
}

#[test]
fn the_default_exchange_goes_by_its_full_name() {
    let permissions = Permissions::new("", "^amq\\.default$", ".*").unwrap();
    assert!(permissions.allow(Operation::Write, ""));
    assert!(!permissions.allow(Operation::Configure, ""));
    assert!(permissions.allow(Operation::Read, "anything"));
    assert!(Permissions::new("(", "", "").is_err());
}

#[test]
fn an_expression_that_grows_when_it_is_compiled_is_refused() {
    for costly in ["(((a?){30}){30}){30}x".to_owned(), "a".repeat(257)] {
        assert!(Permissions::new("", "", &costly).is_err(), "{costly}");
    }
    assert!(Permissions::new("", "", &"a".repeat(256)).is_ok());
}

#[test]
fn the_highest_tag_ranks_a_user() {
    let mut users = Users::default();
    for (tags, rank) in [
        (&[][..], Rank::None),
        (&["impersonator"], Rank::None),
        (&["management", "monitoring"], Rank::Monitoring),
        (&["administrator"], Rank::Administrator),
    ] {
        users.put(
            "u",
            None,
            tags.iter().map(|tag| Tag((*tag).to_owned())).collect(),
        );
        assert_eq!(users.get("u").unwrap().rank(), rank);
    }
}

#[test]
fn a_vhost_takes_its_permissions_along() {
    let mut users = users(GuestPolicy::Refused);
    users.put("outsider", None, Vec::new());
    assert_eq!(users.forget_vhost("/"), ["cbroker", GUEST]);
    assert!(!users.may_enter("cbroker", "/"));
    assert!(users.remove("outsider"));
    assert!(!users.remove("outsider"));
}

//! How sessions of the page begin, count and end.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::time::{Duration, Instant};

use super::{
    ClientLocation, Issuer, MOST_OF_USER, PageSessions, ProvenUser, RENEWAL_MS, TOKEN_LIFE,
};
use crate::users::Users;

const NOW: u64 = 1_000_000;
const SESSION_LIFE_MS: u64 = 12 * 60 * 60 * 1000;
const HERE: ClientLocation = ClientLocation::LocalUser(1000);

fn none() -> PageSessions {
    PageSessions::new(Duration::from_millis(SESSION_LIFE_MS))
}

fn identity(user: &str) -> ProvenUser {
    ProvenUser {
        user: user.into(),
        credential: vec![1],
    }
}

/// A cookie and its key.
type Secrets = (String, String);

fn opened(sessions: &mut PageSessions, user: &str, now_ms: u64) -> Secrets {
    let opened = sessions.sign_in(identity(user), HERE, now_ms).unwrap();
    (opened.cookie, opened.key)
}

/// Uses a session.
fn user(sessions: &mut PageSessions, of: &Secrets, now_ms: u64) -> Option<String> {
    let found = sessions.find(&of.0, &of.1, now_ms)?;
    sessions.extend(&found.id, now_ms);
    Some(found.user.to_string())
}

#[test]
fn a_token_works_once_and_for_a_minute() {
    let (mut sessions, now) = (none(), Instant::now());
    let token = sessions.issue(identity("ada"), Issuer::Own, now).unwrap();
    assert_eq!(sessions.redeem("wrong", now), None);
    let seen = sessions.look_up(&token, now).unwrap();
    assert_eq!((&*seen.0, seen.1), ("ada", Issuer::Own));
    assert_eq!(sessions.redeem(&token, now), Some(identity("ada")));
    assert_eq!(
        sessions.redeem(&token, now),
        None,
        "a replayed token is worth nothing"
    );
    let late = sessions.issue(identity("ada"), Issuer::Own, now).unwrap();
    assert_eq!(sessions.look_up(&late, now + TOKEN_LIFE), None);
    assert_eq!(sessions.redeem(&late, now + TOKEN_LIFE), None);
}

#[test]
fn a_session_lives_on_while_it_is_used() {
    let mut sessions = none();
    let cookie = opened(&mut sessions, "ada", NOW);
    let later = NOW + SESSION_LIFE_MS - 1;
    assert_eq!(user(&mut sessions, &cookie, later).as_deref(), Some("ada"));
    let after = later + 60_000;
    assert_eq!(user(&mut sessions, &cookie, after).as_deref(), Some("ada"));
    assert_eq!(user(&mut sessions, &cookie, after + SESSION_LIFE_MS), None);
}

#[test]
fn a_session_survives_a_restart_and_its_end_is_stored_now_and_then() {
    let mut sessions = none();
    let open = sessions.sign_in(identity("ada"), HERE, NOW).unwrap();
    let secrets = (open.cookie, open.key);
    let id = sessions.find(&secrets.0, &secrets.1, NOW).unwrap().id;
    let renewed = sessions.extend(&id, NOW + 1000);
    assert_eq!(renewed, None, "not at each request");
    let stored = sessions.extend(&id, NOW + RENEWAL_MS).unwrap();
    assert!(!stored.id.contains(&secrets.0), "only their hash is stored");
    let mut later = none();
    assert_eq!(later.restore(vec![stored], NOW), []);
    assert_eq!(user(&mut later, &secrets, NOW).as_deref(), Some("ada"));
    let ended = none().restore(vec![open.stored.unwrap()], NOW + 2 * SESSION_LIFE_MS);
    assert_eq!(ended.len(), 1);
}

#[test]
fn a_session_counts_for_the_system_user_alone_that_opened_it() {
    let mut users = Users::default();
    users.put("ada", None, Vec::new());
    let ada = users.get("ada").unwrap().clone();
    let places = [
        ClientLocation::Network,
        ClientLocation::LocalUser(1000),
        ClientLocation::LocalUser(1001),
        ClientLocation::UnknownLocalUser,
    ];
    for opened in places {
        for is_owner in [false, true] {
            let mut sessions = none();
            let identity = ProvenUser::new("ada".into(), &ada, is_owner);
            let open = sessions.sign_in(identity, opened, NOW).unwrap();
            let found = sessions.find(&open.cookie, &open.key, NOW).unwrap();
            for used in places {
                let counts = (used == opened).then_some(is_owner);
                assert_eq!(found.is_of_owner(&ada, used), counts, "{opened:?} {used:?}");
            }
        }
    }
}

#[test]
fn a_session_of_a_user_that_the_system_does_not_tell_ends_with_the_broker() {
    let mut sessions = none();
    let location = ClientLocation::UnknownLocalUser;
    let open = sessions.sign_in(identity("ada"), location, NOW).unwrap();
    assert_eq!(open.stored, None);
    let id = sessions.find(&open.cookie, &open.key, NOW).unwrap().id;
    assert_eq!(sessions.extend(&id, NOW + RENEWAL_MS), None);
    let end = sessions.ends_ms(&id).unwrap();
    assert!(end >= NOW + RENEWAL_MS + SESSION_LIFE_MS, "it lives on");
}

#[test]
fn signing_out_and_a_changed_password_end_it() {
    let mut sessions = none();
    let one = opened(&mut sessions, "ada", NOW);
    let two = opened(&mut sessions, "ada", NOW);
    let bob = opened(&mut sessions, "bob", NOW);
    assert!(sessions.sign_out(&one.0, &one.1).is_some());
    assert_eq!(user(&mut sessions, &one, NOW), None);
    assert_eq!(sessions.forget("ada").len(), 1);
    assert_eq!(user(&mut sessions, &two, NOW), None);
    assert!(sessions.is_anybody_in(NOW));
    assert_eq!(user(&mut sessions, &bob, NOW).as_deref(), Some("bob"));
}

#[test]
fn a_cookie_counts_with_its_own_key_alone() {
    let mut sessions = none();
    let ada = opened(&mut sessions, "ada", NOW);
    let bob = opened(&mut sessions, "bob", NOW);
    let (cookie, key) = (ada.0.clone(), bob.1.clone());
    for wrong in [
        (cookie.clone(), key),
        (cookie, String::new()),
        (ada.1, ada.0),
    ] {
        assert_eq!(user(&mut sessions, &wrong, NOW), None, "{wrong:?}");
    }
}

#[test]
fn the_number_of_sessions_of_a_user_is_bounded_and_another_user_keeps_its_own() {
    let mut sessions = none();
    let bob = opened(&mut sessions, "bob", NOW - 1);
    let first = opened(&mut sessions, "ada", NOW);
    for later in 1..=MOST_OF_USER as u64 {
        opened(&mut sessions, "ada", NOW + later);
    }
    assert_eq!(user(&mut sessions, &first, NOW), None, "the oldest went");
    assert_eq!(user(&mut sessions, &bob, NOW).as_deref(), Some("bob"));
}

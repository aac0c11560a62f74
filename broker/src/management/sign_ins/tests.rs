//! How sign-ins of the page begin, count and end.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::time::{Duration, Instant};

use super::{
    ClientLocation, Issuer, MOST_OF_USER, PageSignIns, ProvenUser, RENEWAL_MS, TOKEN_LIFE,
};
use crate::users::Users;

const NOW: u64 = 1_000_000;
const SIGN_IN_LIFE_MS: u64 = 12 * 60 * 60 * 1000;
const HERE: ClientLocation = ClientLocation::LocalUser(1000);

fn none() -> PageSignIns {
    PageSignIns::new(Duration::from_millis(SIGN_IN_LIFE_MS))
}

fn identity(user: &str) -> ProvenUser {
    ProvenUser {
        user: user.into(),
        credential: vec![1],
    }
}

/// A cookie and its key.
type Secrets = (String, String);

fn opened(sign_ins: &mut PageSignIns, user: &str, now_ms: u64) -> Secrets {
    let opened = sign_ins.sign_in(identity(user), HERE, now_ms).unwrap();
    (opened.cookie, opened.key)
}

/// Uses a sign-in.
fn user(sign_ins: &mut PageSignIns, of: &Secrets, now_ms: u64) -> Option<String> {
    let found = sign_ins.find(&of.0, &of.1, now_ms)?;
    sign_ins.extend(&found.id, now_ms);
    Some(found.user.to_string())
}

#[test]
fn a_token_works_once_and_for_a_minute() {
    let (mut sign_ins, now) = (none(), Instant::now());
    let token = sign_ins.issue(identity("ada"), Issuer::Own, now).unwrap();
    assert_eq!(sign_ins.redeem("wrong", now), None);
    let seen = sign_ins.look_up(&token, now).unwrap();
    assert_eq!((&*seen.0, seen.1), ("ada", Issuer::Own));
    assert_eq!(sign_ins.redeem(&token, now), Some(identity("ada")));
    assert_eq!(
        sign_ins.redeem(&token, now),
        None,
        "a replayed token is worth nothing"
    );
    let late = sign_ins.issue(identity("ada"), Issuer::Own, now).unwrap();
    assert_eq!(sign_ins.look_up(&late, now + TOKEN_LIFE), None);
    assert_eq!(sign_ins.redeem(&late, now + TOKEN_LIFE), None);
}

#[test]
fn a_sign_in_lives_on_while_it_is_used() {
    let mut sign_ins = none();
    let cookie = opened(&mut sign_ins, "ada", NOW);
    let later = NOW + SIGN_IN_LIFE_MS - 1;
    assert_eq!(user(&mut sign_ins, &cookie, later).as_deref(), Some("ada"));
    let after = later + 60_000;
    assert_eq!(user(&mut sign_ins, &cookie, after).as_deref(), Some("ada"));
    assert_eq!(user(&mut sign_ins, &cookie, after + SIGN_IN_LIFE_MS), None);
}

#[test]
fn a_sign_in_survives_a_restart_and_its_end_is_stored_now_and_then() {
    let mut sign_ins = none();
    let open = sign_ins.sign_in(identity("ada"), HERE, NOW).unwrap();
    let secrets = (open.cookie, open.key);
    let id = sign_ins.find(&secrets.0, &secrets.1, NOW).unwrap().id;
    let renewed = sign_ins.extend(&id, NOW + 1000);
    assert_eq!(renewed, None, "not at each request");
    let longer = sign_ins.extend(&id, NOW + RENEWAL_MS).unwrap();
    let stored = longer.stored.unwrap();
    assert!(!stored.id.contains(&secrets.0), "only their hash is stored");
    let mut later = none();
    assert_eq!(later.restore(vec![stored], NOW), []);
    assert_eq!(user(&mut later, &secrets, NOW).as_deref(), Some("ada"));
    let ended = none().restore(vec![open.stored.unwrap()], NOW + 2 * SIGN_IN_LIFE_MS);
    assert_eq!(ended.len(), 1);
}

#[test]
fn a_sign_in_counts_for_the_system_user_alone_that_opened_it() {
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
            let mut sign_ins = none();
            let identity = ProvenUser::new("ada".into(), &ada, is_owner);
            let open = sign_ins.sign_in(identity, opened, NOW).unwrap();
            let found = sign_ins.find(&open.cookie, &open.key, NOW).unwrap();
            for used in places {
                let counts = (used == opened).then_some(is_owner);
                assert_eq!(found.is_of_owner(&ada, used), counts, "{opened:?} {used:?}");
            }
        }
    }
}

#[test]
fn a_sign_in_of_a_user_that_the_system_does_not_tell_ends_with_the_broker() {
    let mut sign_ins = none();
    let location = ClientLocation::UnknownLocalUser;
    let open = sign_ins.sign_in(identity("ada"), location, NOW).unwrap();
    assert_eq!(open.stored, None);
    let id = sign_ins.find(&open.cookie, &open.key, NOW).unwrap().id;
    let longer = sign_ins.extend(&id, NOW + RENEWAL_MS).unwrap();
    assert_eq!(longer.stored, None);
    let end = sign_ins.ends_ms(&id).unwrap();
    assert!(end >= NOW + RENEWAL_MS + SIGN_IN_LIFE_MS, "it lives on");
}

#[test]
fn signing_out_and_a_changed_password_end_it() {
    let mut sign_ins = none();
    let one = opened(&mut sign_ins, "ada", NOW);
    let two = opened(&mut sign_ins, "ada", NOW);
    let bob = opened(&mut sign_ins, "bob", NOW);
    assert!(sign_ins.sign_out(&one.0, &one.1).is_some());
    assert_eq!(user(&mut sign_ins, &one, NOW), None);
    assert_eq!(sign_ins.forget("ada").len(), 1);
    assert_eq!(user(&mut sign_ins, &two, NOW), None);
    assert!(sign_ins.is_anybody_in(NOW));
    assert_eq!(user(&mut sign_ins, &bob, NOW).as_deref(), Some("bob"));
}

#[test]
fn a_cookie_counts_with_its_own_key_alone() {
    let mut sign_ins = none();
    let ada = opened(&mut sign_ins, "ada", NOW);
    let bob = opened(&mut sign_ins, "bob", NOW);
    let (cookie, key) = (ada.0.clone(), bob.1.clone());
    for wrong in [
        (cookie.clone(), key),
        (cookie, String::new()),
        (ada.1, ada.0),
    ] {
        assert_eq!(user(&mut sign_ins, &wrong, NOW), None, "{wrong:?}");
    }
}

#[test]
fn the_number_of_sign_ins_of_a_user_is_bounded_and_another_user_keeps_its_own() {
    let mut sign_ins = none();
    let bob = opened(&mut sign_ins, "bob", NOW - 1);
    let first = opened(&mut sign_ins, "ada", NOW);
    for later in 1..=MOST_OF_USER as u64 {
        opened(&mut sign_ins, "ada", NOW + later);
    }
    assert_eq!(user(&mut sign_ins, &first, NOW), None, "the oldest went");
    assert_eq!(user(&mut sign_ins, &bob, NOW).as_deref(), Some("bob"));
}

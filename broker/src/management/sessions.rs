//! Who is signed in at the page: one-time tokens that a tool asks for, and the cookies that a browser gets for them.
//!
//! A token lives for [`TOKEN_LIFE`] and is gone when it is first shown, right or wrong; a session lives for
//! [`SESSION_LIFE`] after it was last used. Both are 256 random bits, kept only as their SHA-256, in memory, bounded in
//! number: a restart of the broker signs everybody out. Time is an argument.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

pub(super) const TOKEN_LIFE: Duration = Duration::from_mins(1);
pub(super) const SESSION_LIFE: Duration = Duration::from_hours(12);

/// Tokens that may wait at once, and sessions that may live at once; the oldest goes.
const MOST: usize = 256;

type Fingerprint = [u8; 32];

#[derive(Debug, Clone)]
struct Grant {
    user: Arc<str>,
    ends: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Sessions {
    tokens: HashMap<Fingerprint, Grant>,
    signed_in: HashMap<Fingerprint, Grant>,
}

/// A secret as text, 43 characters of base64url.
fn secret() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

fn fingerprint(secret: &str) -> Fingerprint {
    Sha256::digest(secret.as_bytes()).into()
}

fn admit(grants: &mut HashMap<Fingerprint, Grant>, secret: &str, grant: Grant, now: Instant) {
    grants.retain(|_, grant| grant.ends > now);
    if grants.len() >= MOST
        && let Some(oldest) = grants
            .iter()
            .min_by_key(|(_, grant)| grant.ends)
            .map(|(key, _)| *key)
    {
        grants.remove(&oldest);
    }
    grants.insert(fingerprint(secret), grant);
}

impl Sessions {
    /// A token for this user, to be shown once.
    pub(super) fn issue(&mut self, user: &str, now: Instant) -> Result<String, getrandom::Error> {
        let token = secret()?;
        let grant = Grant {
            user: user.into(),
            ends: now + TOKEN_LIFE,
        };
        admit(&mut self.tokens, &token, grant, now);
        Ok(token)
    }

    /// Whom a token was issued for; it is gone afterwards.
    pub(super) fn redeem(&mut self, token: &str, now: Instant) -> Option<Arc<str>> {
        let grant = self.tokens.remove(&fingerprint(token))?;
        (grant.ends > now).then_some(grant.user)
    }

    /// The value of a cookie for this user.
    pub(super) fn sign_in(&mut self, user: &str, now: Instant) -> Result<String, getrandom::Error> {
        let cookie = secret()?;
        let grant = Grant {
            user: user.into(),
            ends: now + SESSION_LIFE,
        };
        admit(&mut self.signed_in, &cookie, grant, now);
        Ok(cookie)
    }

    /// Who a cookie belongs to; using it makes it live on.
    pub(super) fn user(&mut self, cookie: &str, now: Instant) -> Option<Arc<str>> {
        let grant = self
            .signed_in
            .get_mut(&fingerprint(cookie))
            .filter(|grant| grant.ends > now)?;
        grant.ends = now + SESSION_LIFE;
        Some(Arc::clone(&grant.user))
    }

    /// The cookie is worth nothing any more.
    pub(super) fn sign_out(&mut self, cookie: &str) {
        self.signed_in.remove(&fingerprint(cookie));
    }

    /// The user is gone or has another password: so are their tokens and sessions.
    pub(super) fn forget(&mut self, user: &str) {
        for grants in [&mut self.tokens, &mut self.signed_in] {
            grants.retain(|_, grant| &*grant.user != user);
        }
    }

    /// Whether somebody is signed in.
    pub(super) fn is_anybody_in(&self, now: Instant) -> bool {
        self.signed_in.values().any(|grant| grant.ends > now)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use std::time::{Duration, Instant};

    use super::{MOST, SESSION_LIFE, Sessions, TOKEN_LIFE};

    #[test]
    fn a_token_works_once_and_for_a_minute() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        let token = sessions.issue("ada", now).unwrap();
        assert_eq!(sessions.redeem("wrong", now), None);
        assert_eq!(sessions.redeem(&token, now).as_deref(), Some("ada"));
        assert_eq!(
            sessions.redeem(&token, now),
            None,
            "a replayed token is worth nothing"
        );
        let late = sessions.issue("ada", now).unwrap();
        assert_eq!(sessions.redeem(&late, now + TOKEN_LIFE), None);
    }

    #[test]
    fn a_session_lives_on_while_it_is_used() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        let cookie = sessions.sign_in("ada", now).unwrap();
        let later = now + SESSION_LIFE.saturating_sub(Duration::from_secs(1));
        assert_eq!(sessions.user(&cookie, later).as_deref(), Some("ada"));
        assert_eq!(
            sessions
                .user(&cookie, later + Duration::from_mins(1))
                .as_deref(),
            Some("ada")
        );
        assert_eq!(
            sessions.user(&cookie, later + SESSION_LIFE + Duration::from_mins(1)),
            None
        );
    }

    #[test]
    fn signing_out_and_a_changed_password_end_it() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        let (one, two) = (
            sessions.sign_in("ada", now).unwrap(),
            sessions.sign_in("ada", now).unwrap(),
        );
        let bob = sessions.sign_in("bob", now).unwrap();
        sessions.sign_out(&one);
        assert_eq!(sessions.user(&one, now), None);
        sessions.forget("ada");
        assert_eq!(sessions.user(&two, now), None);
        assert!(sessions.is_anybody_in(now));
        assert_eq!(sessions.user(&bob, now).as_deref(), Some("bob"));
    }

    #[test]
    fn the_number_of_sessions_is_bounded() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        let first = sessions.sign_in("ada", now).unwrap();
        for second in 1..=MOST as u64 {
            sessions
                .sign_in("ada", now + Duration::from_secs(second))
                .unwrap();
        }
        assert_eq!(sessions.user(&first, now), None, "the oldest went");
    }
}

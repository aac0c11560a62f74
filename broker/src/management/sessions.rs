//! The page's sign-in state: one-time tokens for tools, and cookies for browsers.
//!
//! A token lives for [`TOKEN_LIFE`] in memory and is removed at its first use. A session lives for
//! twelve hours after its last use (`ClientLimits::page_session`) and survives a restart of the
//! broker: the store keeps the SHA-256 of its secrets, its user, and a digest of the user's
//! password, so that a new password ends it. The number of both is limited for each user. Methods
//! return what must be stored or deleted. Time is an argument.
//!
//! A session has two secrets of 256 random bits. Browsers send its cookie to every port of the
//! host, and a page of any port can plant one. Its key is in the page's local storage, which other
//! ports neither see nor change: a cookie counts only with the key that was made for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::persist::definition::SessionDefinition;
use crate::users::User;

pub(super) const TOKEN_LIFE: Duration = Duration::from_mins(1);

/// A session's new end is stored when it has moved this far, not at each request.
const RENEWAL_MS: u64 = 60 * 60 * 1000;
/// Sessions that are taken from the store of a broker before this one.
const MOST: usize = 4096;
/// Tokens of one user that may wait at once, and sessions of one user that may live at once; that
/// user's oldest goes.
const MOST_OF_USER: usize = 64;

pub(super) type Fingerprint = [u8; 32];

/// A user that has proven who it is, for as long as it has the password of that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProvenUser {
    pub(super) user: Arc<str>,
    /// See [`digest`].
    credential: Vec<u8>,
}

impl ProvenUser {
    /// Of a user as it was when its proof was looked at. `is_owner` says that it is the system user
    /// who runs the broker.
    pub(super) fn new(name: Arc<str>, user: &User, is_owner: bool) -> Self {
        Self {
            credential: digest(user, is_owner),
            user: name,
        }
    }
}

#[derive(Debug, Clone)]
struct Token {
    identity: ProvenUser,
    issuer: Issuer,
    ends: Instant,
}

/// How a token came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Issuer {
    /// A program of the broker's own system user, through the Unix socket: no stranger can make
    /// such a link.
    Own,
    /// A caller with the password of the token's user: the link may be a trap for another person.
    Password,
}

#[derive(Debug, Clone)]
struct PageSession {
    user: Arc<str>,
    credential: Vec<u8>,
    ends_ms: u64,
    stored_ends_ms: u64,
}

impl PageSession {
    fn definition(&self, id: &Fingerprint) -> SessionDefinition {
        SessionDefinition {
            id: URL_SAFE_NO_PAD.encode(id),
            user: self.user.to_string(),
            credential: self.credential.clone(),
            ends_ms: self.ends_ms,
        }
    }
}

#[derive(Debug)]
pub(super) struct PageSessions {
    life_ms: u64,
    tokens: HashMap<Fingerprint, Token>,
    signed_in: HashMap<Fingerprint, PageSession>,
}

/// A session that a cookie belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SignedIn {
    pub(super) id: Fingerprint,
    pub(super) user: Arc<str>,
    credential: Vec<u8>,
    /// To be stored, where the session's end has moved far enough.
    pub(super) renewed: Option<SessionDefinition>,
}

/// A new session.
#[derive(Debug)]
pub(super) struct OpenedSession {
    /// The cookie's value.
    pub(super) cookie: String,
    pub(super) key: String,
    pub(super) stored: SessionDefinition,
    pub(super) forgotten: Vec<SessionDefinition>,
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

fn session_id(cookie: &str, key: &str) -> Fingerprint {
    let both = Sha256::new().chain_update(cookie).chain_update(".");
    both.chain_update(key).finalize().into()
}

/// What a session remembers of its user's password, and with it whether it is the owner's.
fn digest(user: &User, is_owner: bool) -> Vec<u8> {
    let password = user.password.as_ref();
    let hash = password.map_or(&[][..], |password| password.hash.as_bytes());
    let purpose = if is_owner {
        "owner's page session"
    } else {
        "page session"
    };
    let digest = Sha256::new().chain_update(purpose).chain_update(hash);
    digest.finalize().to_vec()
}

impl SignedIn {
    /// Whether the session is the owner's; `None` where the user has another password by now.
    pub(super) fn is_of_owner(&self, user: &User) -> Option<bool> {
        let mut both = [false, true].into_iter();
        both.find(|is_owner| digest(user, *is_owner) == self.credential)
    }
}

impl PageSessions {
    /// Sessions that live for this long after their last use.
    pub(super) fn new(life: Duration) -> Self {
        Self {
            life_ms: u64::try_from(life.as_millis()).unwrap_or(u64::MAX),
            tokens: HashMap::new(),
            signed_in: HashMap::new(),
        }
    }

    /// How long a session lives after its last use.
    pub(super) fn life(&self) -> Duration {
        Duration::from_millis(self.life_ms)
    }

    /// Restores the sessions that an earlier broker stored. Returns those that have ended since.
    pub(super) fn restore(
        &mut self,
        definitions: Vec<SessionDefinition>,
        now_ms: u64,
    ) -> Vec<SessionDefinition> {
        let mut ended = Vec::new();
        for definition in definitions {
            let id = URL_SAFE_NO_PAD.decode(&definition.id).ok();
            match id.and_then(|id| Fingerprint::try_from(id).ok()) {
                Some(id) if definition.ends_ms > now_ms && self.signed_in.len() < MOST => {
                    let session = PageSession {
                        user: definition.user.as_str().into(),
                        credential: definition.credential,
                        ends_ms: definition.ends_ms,
                        stored_ends_ms: definition.ends_ms,
                    };
                    self.signed_in.insert(id, session);
                }
                _ => ended.push(definition),
            }
        }
        ended
    }

    /// A token for this user, to be shown once.
    pub(super) fn issue(
        &mut self,
        identity: ProvenUser,
        issuer: Issuer,
        now: Instant,
    ) -> Result<String, getrandom::Error> {
        let token = secret()?;
        self.tokens.retain(|_, token| token.ends > now);
        let own = || {
            let tokens = self.tokens.iter();
            tokens.filter(|(_, token)| token.identity.user == identity.user)
        };
        let oldest = own().min_by_key(|(_, token)| token.ends);
        if let Some(id) = oldest.map(|(id, _)| *id)
            && own().count() >= MOST_OF_USER
        {
            self.tokens.remove(&id);
        }
        let ends = now + TOKEN_LIFE;
        let issued = Token {
            identity,
            issuer,
            ends,
        };
        self.tokens.insert(fingerprint(&token), issued);
        Ok(token)
    }

    /// Returns the user of a token, and how it came to be, without using it up.
    pub(super) fn look_up(&self, token: &str, now: Instant) -> Option<(Arc<str>, Issuer)> {
        let token = self.tokens.get(&fingerprint(token))?;
        (token.ends > now).then(|| (Arc::clone(&token.identity.user), token.issuer))
    }

    /// Returns whose a token is and removes the token.
    pub(super) fn redeem(&mut self, token: &str, now: Instant) -> Option<ProvenUser> {
        let token = self.tokens.remove(&fingerprint(token))?;
        (token.ends > now).then_some(token.identity)
    }

    /// A session for this user.
    pub(super) fn sign_in(
        &mut self,
        identity: ProvenUser,
        now_ms: u64,
    ) -> Result<OpenedSession, getrandom::Error> {
        let (cookie, key) = (secret()?, secret()?);
        let mut forgotten = self.take(|session| session.ends_ms <= now_ms);
        let own = || {
            let sessions = self.signed_in.iter();
            sessions.filter(|(_, session)| session.user == identity.user)
        };
        let oldest = own().min_by_key(|(_, session)| session.ends_ms);
        if let Some(id) = oldest.map(|(id, _)| *id)
            && own().count() >= MOST_OF_USER
        {
            forgotten.extend(self.remove(&id));
        }
        let ends_ms = now_ms + self.life_ms;
        let session = PageSession {
            user: identity.user,
            credential: identity.credential,
            ends_ms,
            stored_ends_ms: ends_ms,
        };
        let id = session_id(&cookie, &key);
        let stored = session.definition(&id);
        self.signed_in.insert(id, session);
        Ok(OpenedSession {
            cookie,
            key,
            stored,
            forgotten,
        })
    }

    /// Returns the session of a cookie and its key, and extends its life.
    pub(super) fn user(&mut self, cookie: &str, key: &str, now_ms: u64) -> Option<SignedIn> {
        let id = session_id(cookie, key);
        let session = self.signed_in.get_mut(&id)?;
        if session.ends_ms <= now_ms {
            return None;
        }
        session.ends_ms = session.ends_ms.max(now_ms + self.life_ms);
        let is_due = session.ends_ms >= session.stored_ends_ms + RENEWAL_MS;
        if is_due {
            session.stored_ends_ms = session.ends_ms;
        }
        Some(SignedIn {
            id,
            user: Arc::clone(&session.user),
            credential: session.credential.clone(),
            renewed: is_due.then(|| session.definition(&id)),
        })
    }

    /// When this session ends; `None` where it has been signed out.
    pub(super) fn ends_ms(&self, id: &Fingerprint) -> Option<u64> {
        self.signed_in.get(id).map(|session| session.ends_ms)
    }

    /// Ends the session of a cookie and its key.
    pub(super) fn sign_out(&mut self, cookie: &str, key: &str) -> Option<SessionDefinition> {
        self.remove(&session_id(cookie, key))
    }

    fn remove(&mut self, id: &Fingerprint) -> Option<SessionDefinition> {
        let session = self.signed_in.remove(id)?;
        Some(session.definition(id))
    }

    /// Ends the tokens and sessions of a user that was deleted or has a new password.
    pub(super) fn forget(&mut self, user: &str) -> Vec<SessionDefinition> {
        self.tokens.retain(|_, token| &*token.identity.user != user);
        self.take(|session| &*session.user == user)
    }

    fn take(&mut self, is_over: impl Fn(&PageSession) -> bool) -> Vec<SessionDefinition> {
        let over = self.signed_in.extract_if(|_, session| is_over(session));
        over.map(|(id, session)| session.definition(&id)).collect()
    }

    /// Whether any session is active.
    pub(super) fn is_anybody_in(&self, now_ms: u64) -> bool {
        let mut sessions = self.signed_in.values();
        sessions.any(|session| session.ends_ms > now_ms)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use std::time::{Duration, Instant};

    use super::{Issuer, MOST_OF_USER, PageSessions, ProvenUser, RENEWAL_MS, TOKEN_LIFE};

    const NOW: u64 = 1_000_000;
    const SESSION_LIFE_MS: u64 = 12 * 60 * 60 * 1000;

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
        let opened = sessions.sign_in(identity(user), now_ms).unwrap();
        (opened.cookie, opened.key)
    }

    fn user(sessions: &mut PageSessions, of: &Secrets, now_ms: u64) -> Option<String> {
        sessions
            .user(&of.0, &of.1, now_ms)
            .map(|found| found.user.to_string())
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
        let open = sessions.sign_in(identity("ada"), NOW).unwrap();
        let secrets = (open.cookie, open.key);
        let (cookie, key) = (&secrets.0, &secrets.1);
        let found = sessions.user(cookie, key, NOW + 1000).unwrap();
        assert_eq!(found.renewed, None, "not at each request");
        let found = sessions.user(cookie, key, NOW + RENEWAL_MS).unwrap();
        let stored = found.renewed.unwrap();
        assert!(!stored.id.contains(cookie), "only their hash is stored");
        let mut later = none();
        assert_eq!(later.restore(vec![stored], NOW), []);
        assert_eq!(user(&mut later, &secrets, NOW).as_deref(), Some("ada"));
        let ended = none().restore(vec![open.stored], NOW + 2 * SESSION_LIFE_MS);
        assert_eq!(ended.len(), 1);
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
}

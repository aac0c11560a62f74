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
//!
//! Both reach whoever holds the port while no broker does. So a session counts only where it was
//! opened ([`ClientLocation`]): over loopback, for the same system user. Where the system does not tell
//! users apart, it is not stored and ends with the broker, before anybody else can hold the port.

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

/// Where the client of a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientLocation {
    Network,
    /// A system user of this machine.
    LocalUser(u32),
    /// This machine, from a user that the system does not tell.
    UnknownLocalUser,
}

impl ClientLocation {
    /// What a session that is opened here remembers in place of its user's digest.
    fn bind(self, credential: &[u8]) -> Vec<u8> {
        let location = match self {
            Self::Network => return credential.to_vec(),
            Self::LocalUser(user) => format!("system user {user}"),
            Self::UnknownLocalUser => "a system user".to_owned(),
        };
        let bound = Sha256::new()
            .chain_update(credential)
            .chain_update(location);
        bound.finalize().to_vec()
    }

    /// Whether the sessions that are opened here outlive the broker.
    fn is_stored(self) -> bool {
        self != Self::UnknownLocalUser
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
    /// The digest of [`digest`], bound to a [`ClientLocation`].
    credential: Vec<u8>,
    ends_ms: u64,
    /// `None` for one that is not stored.
    stored_ends_ms: Option<u64>,
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
}

/// A new session.
#[derive(Debug)]
pub(super) struct OpenedSession {
    /// The cookie's value.
    pub(super) cookie: String,
    pub(super) key: String,
    /// To be stored; `None` for one that ends with the broker.
    pub(super) stored: Option<SessionDefinition>,
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
    /// Whether the session is the owner's; `None` where the user has another password by now, or
    /// the session was opened from another location.
    pub(super) fn is_of_owner(&self, user: &User, location: ClientLocation) -> Option<bool> {
        let mut both = [false, true].into_iter();
        both.find(|is_owner| location.bind(&digest(user, *is_owner)) == self.credential)
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
                        stored_ends_ms: Some(definition.ends_ms),
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

    /// Opens a session for this user, which counts only for requests from this location.
    pub(super) fn sign_in(
        &mut self,
        identity: ProvenUser,
        location: ClientLocation,
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
            credential: location.bind(&identity.credential),
            ends_ms,
            stored_ends_ms: location.is_stored().then_some(ends_ms),
        };
        let id = session_id(&cookie, &key);
        let stored = location.is_stored().then(|| session.definition(&id));
        self.signed_in.insert(id, session);
        Ok(OpenedSession {
            cookie,
            key,
            stored,
            forgotten,
        })
    }

    /// Returns the session of a cookie and its key. Whether it counts is still to be looked at.
    pub(super) fn find(&self, cookie: &str, key: &str, now_ms: u64) -> Option<SignedIn> {
        let id = session_id(cookie, key);
        let session = self.signed_in.get(&id)?;
        (session.ends_ms > now_ms).then(|| SignedIn {
            id,
            user: Arc::clone(&session.user),
            credential: session.credential.clone(),
        })
    }

    /// Extends the life of a session that was used. Returns what must be stored, where its end has
    /// moved far enough.
    pub(super) fn extend(&mut self, id: &Fingerprint, now_ms: u64) -> Option<SessionDefinition> {
        let session = self.signed_in.get_mut(id)?;
        session.ends_ms = session.ends_ms.max(now_ms + self.life_ms);
        if session.ends_ms < session.stored_ends_ms? + RENEWAL_MS {
            return None;
        }
        session.stored_ends_ms = Some(session.ends_ms);
        Some(session.definition(id))
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
mod tests;

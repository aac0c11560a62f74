//! The page's sign-in state: one-time tokens for tools, and cookies for browsers.
//!
//! A token lives for [`TOKEN_LIFE`] in memory and is removed at its first use. A sign-in lives for
//! twelve hours after its last use (`ClientLimits::page_sign_in`) and survives a restart of the
//! broker: the store keeps the SHA-256 of its secrets, its user, and a digest of the user's
//! password, so that a new password ends it. The number of both is limited for each user. Methods
//! return what must be stored or deleted. Time is an argument.
//!
//! A sign-in has three secrets of 256 random bits. Browsers send its cookie to every port of the
//! host, and a page of any port can plant one. Its key is in the page's local storage, which other
//! ports neither see nor change: a cookie counts only with the key that was made for it. The third
//! one, the proof key, shows the page which responses are the broker's (`proof`).
//!
//! Another program that holds the port while no broker does gets the first two. So a sign-in counts
//! only for requests from the same [`ClientLocation`]: over loopback, from the same system user.
//! Where the system does not tell users apart, a sign-in is not stored and ends with the broker,
//! before another program can hold the port.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::persist::definition::SignInDefinition;
use crate::users::User;

pub(super) const TOKEN_LIFE: Duration = Duration::from_mins(1);

/// A sign-in's new end is stored when it has moved this far, not at each request.
const RENEWAL_MS: u64 = 60 * 60 * 1000;
/// Sign-ins that are taken from the store of a broker before this one.
const MOST: usize = 4096;
/// Tokens of one user that may wait at once, and sign-ins of one user that may live at once; that
/// user's oldest goes.
const MOST_OF_USER: usize = 64;

/// 256 bits in base64url without padding.
const SECRET_LENGTH: usize = 43;

pub(super) type Fingerprint = [u8; 32];

/// An authenticated user. It counts only while the user keeps the password of that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProvenUser {
    pub(super) user: Arc<str>,
    /// See [`digest`].
    credential: Vec<u8>,
}

impl ProvenUser {
    /// Of a user as it was when it was authenticated. `is_owner` says that it is the system user
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
    /// This machine, a user that the system does not report.
    UnknownLocalUser,
}

impl ClientLocation {
    /// The digest that a sign-in from this location stores.
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

    /// Whether sign-ins from this location survive the broker.
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

/// How a token was requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Issuer {
    /// A program of the broker's own system user, through the Unix socket: no stranger can make
    /// such a link.
    Own,
    /// A caller with the password of the token's user: the link may be a trap for another person.
    Password,
}

#[derive(Debug, Clone)]
struct PageSignIn {
    user: Arc<str>,
    /// The digest of [`digest`], bound to a [`ClientLocation`].
    credential: Vec<u8>,
    ends_ms: u64,
    /// The end that the browser knows, by its cookie, and the store, if it has this sign-in.
    known_ends_ms: u64,
    is_stored: bool,
    proof_key: String,
}

/// A sign-in whose end has moved so far that the browser must know.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LongerSignIn {
    /// What must be stored; `None` for one that is not stored.
    pub(super) stored: Option<SignInDefinition>,
}

impl PageSignIn {
    fn definition(&self, id: &Fingerprint) -> SignInDefinition {
        SignInDefinition {
            id: URL_SAFE_NO_PAD.encode(id),
            user: self.user.to_string(),
            credential: self.credential.clone(),
            ends_ms: self.ends_ms,
            proof_key: self.proof_key.clone(),
        }
    }
}

#[derive(Debug)]
pub(super) struct PageSignIns {
    life_ms: u64,
    tokens: HashMap<Fingerprint, Token>,
    signed_in: HashMap<Fingerprint, PageSignIn>,
}

/// A sign-in that a cookie belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FoundSignIn {
    pub(super) id: Fingerprint,
    pub(super) user: Arc<str>,
    credential: Vec<u8>,
    pub(super) proof_key: String,
}

/// A new sign-in.
#[derive(Debug)]
pub(super) struct NewSignIn {
    /// What the sign-in is known by; no secret.
    pub(super) id: String,
    /// The cookie's value.
    pub(super) cookie: String,
    pub(super) key: String,
    pub(super) proof_key: String,
    /// To be stored; `None` for one that ends with the broker.
    pub(super) stored: Option<SignInDefinition>,
    pub(super) forgotten: Vec<SignInDefinition>,
}

/// A secret as text, [`SECRET_LENGTH`] characters of base64url.
fn secret() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// Whether a text has the length of a secret. Anybody may send long texts, and hashing these takes
/// time.
pub(super) fn may_be_secret(text: &str) -> bool {
    text.len() == SECRET_LENGTH
}

fn fingerprint(secret: &str) -> Fingerprint {
    Sha256::digest(secret.as_bytes()).into()
}

/// What a sign-in is known by.
pub(super) fn sign_in_id(cookie: &str, key: &str) -> Fingerprint {
    let both = Sha256::new().chain_update(cookie).chain_update(".");
    both.chain_update(key).finalize().into()
}

/// The digest that a sign-in stores of its user's password, and of whether it is the owner's.
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

impl FoundSignIn {
    /// Whether the sign-in is the owner's; `None` where the user has another password by now, or
    /// the sign-in was opened from another location.
    pub(super) fn is_of_owner(&self, user: &User, location: ClientLocation) -> Option<bool> {
        let mut both = [false, true].into_iter();
        both.find(|is_owner| location.bind(&digest(user, *is_owner)) == self.credential)
    }
}

impl PageSignIns {
    /// Sign-ins that live for this long after their last use.
    pub(super) fn new(life: Duration) -> Self {
        Self {
            life_ms: u64::try_from(life.as_millis()).unwrap_or(u64::MAX),
            tokens: HashMap::new(),
            signed_in: HashMap::new(),
        }
    }

    /// How long a sign-in lives after its last use.
    pub(super) fn life(&self) -> Duration {
        Duration::from_millis(self.life_ms)
    }

    /// Restores the sign-ins that an earlier broker stored. Returns those that have ended since.
    pub(super) fn restore(
        &mut self,
        definitions: Vec<SignInDefinition>,
        now_ms: u64,
    ) -> Vec<SignInDefinition> {
        let mut ended = Vec::new();
        for definition in definitions {
            let id = URL_SAFE_NO_PAD.decode(&definition.id).ok();
            let is_live = definition.ends_ms > now_ms && !definition.proof_key.is_empty();
            match id.and_then(|id| Fingerprint::try_from(id).ok()) {
                Some(id) if is_live && self.signed_in.len() < MOST => {
                    let sign_in = PageSignIn {
                        user: definition.user.as_str().into(),
                        credential: definition.credential,
                        ends_ms: definition.ends_ms,
                        known_ends_ms: definition.ends_ms,
                        is_stored: true,
                        proof_key: definition.proof_key,
                    };
                    self.signed_in.insert(id, sign_in);
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

    /// Returns the user and the issuer of a token, without using it up.
    pub(super) fn look_up(&self, token: &str, now: Instant) -> Option<(Arc<str>, Issuer)> {
        let token = self.tokens.get(&fingerprint(token))?;
        (token.ends > now).then(|| (Arc::clone(&token.identity.user), token.issuer))
    }

    /// Removes a token and returns its user.
    pub(super) fn redeem(&mut self, token: &str, now: Instant) -> Option<ProvenUser> {
        let token = self.tokens.remove(&fingerprint(token))?;
        (token.ends > now).then_some(token.identity)
    }

    /// Opens a sign-in for this user, which counts only for requests from this location.
    pub(super) fn sign_in(
        &mut self,
        identity: ProvenUser,
        location: ClientLocation,
        now_ms: u64,
    ) -> Result<NewSignIn, getrandom::Error> {
        let (cookie, key, proof_key) = (secret()?, secret()?, secret()?);
        let mut forgotten = self.take(|sign_in| sign_in.ends_ms <= now_ms);
        let own = || {
            let sign_ins = self.signed_in.iter();
            sign_ins.filter(|(_, sign_in)| sign_in.user == identity.user)
        };
        let oldest = own().min_by_key(|(_, sign_in)| sign_in.ends_ms);
        if let Some(id) = oldest.map(|(id, _)| *id)
            && own().count() >= MOST_OF_USER
        {
            forgotten.extend(self.remove(&id));
        }
        let ends_ms = now_ms + self.life_ms;
        let sign_in = PageSignIn {
            user: identity.user,
            credential: location.bind(&identity.credential),
            ends_ms,
            known_ends_ms: ends_ms,
            is_stored: location.is_stored(),
            proof_key: proof_key.clone(),
        };
        let id = sign_in_id(&cookie, &key);
        let stored = location.is_stored().then(|| sign_in.definition(&id));
        self.signed_in.insert(id, sign_in);
        Ok(NewSignIn {
            id: URL_SAFE_NO_PAD.encode(id),
            cookie,
            key,
            proof_key,
            stored,
            forgotten,
        })
    }

    /// Returns the sign-in of a cookie and its key. The caller must still check its user and
    /// location.
    pub(super) fn find(&self, cookie: &str, key: &str, now_ms: u64) -> Option<FoundSignIn> {
        self.live(sign_in_id(cookie, key), now_ms)
    }

    /// Returns the sign-in with this id, as [`NewSignIn`] has it. The id proves nothing about who
    /// knows it.
    pub(super) fn named(&self, id: &str, now_ms: u64) -> Option<FoundSignIn> {
        let id = URL_SAFE_NO_PAD.decode(id).ok()?;
        self.live(id.try_into().ok()?, now_ms)
    }

    fn live(&self, id: Fingerprint, now_ms: u64) -> Option<FoundSignIn> {
        let sign_in = self.signed_in.get(&id)?;
        (sign_in.ends_ms > now_ms).then(|| FoundSignIn {
            id,
            user: Arc::clone(&sign_in.user),
            credential: sign_in.credential.clone(),
            proof_key: sign_in.proof_key.clone(),
        })
    }

    /// Extends the life of a sign-in that was used. Returns it where its end has moved far enough
    /// for the browser and the store to know.
    pub(super) fn extend(&mut self, id: &Fingerprint, now_ms: u64) -> Option<LongerSignIn> {
        let sign_in = self.signed_in.get_mut(id)?;
        sign_in.ends_ms = sign_in.ends_ms.max(now_ms + self.life_ms);
        if sign_in.ends_ms < sign_in.known_ends_ms + RENEWAL_MS {
            return None;
        }
        sign_in.known_ends_ms = sign_in.ends_ms;
        let stored = sign_in.is_stored.then(|| sign_in.definition(id));
        Some(LongerSignIn { stored })
    }

    /// When this sign-in ends; `None` where it has been signed out.
    pub(super) fn ends_ms(&self, id: &Fingerprint) -> Option<u64> {
        self.signed_in.get(id).map(|sign_in| sign_in.ends_ms)
    }

    /// Ends the sign-in of a cookie and its key.
    pub(super) fn sign_out(&mut self, cookie: &str, key: &str) -> Option<SignInDefinition> {
        self.remove(&sign_in_id(cookie, key))
    }

    fn remove(&mut self, id: &Fingerprint) -> Option<SignInDefinition> {
        let sign_in = self.signed_in.remove(id)?;
        Some(sign_in.definition(id))
    }

    /// Ends the tokens and sign-ins of a user that was deleted or has a new password.
    pub(super) fn forget(&mut self, user: &str) -> Vec<SignInDefinition> {
        self.tokens.retain(|_, token| &*token.identity.user != user);
        self.take(|sign_in| &*sign_in.user == user)
    }

    fn take(&mut self, is_over: impl Fn(&PageSignIn) -> bool) -> Vec<SignInDefinition> {
        let over = self.signed_in.extract_if(|_, sign_in| is_over(sign_in));
        over.map(|(id, sign_in)| sign_in.definition(&id)).collect()
    }

    /// Whether any sign-in is active.
    pub(super) fn is_anybody_in(&self, now_ms: u64) -> bool {
        let mut sign_ins = self.signed_in.values();
        sign_ins.any(|sign_in| sign_in.ends_ms > now_ms)
    }
}

#[cfg(test)]
mod tests;

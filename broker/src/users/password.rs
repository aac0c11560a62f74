//! A password as RabbitMQ keeps it: four octets of salt, then the SHA-256 of the salt and the password. Beside it stand
//! the keys for SCRAM, where the password itself was known when it was set.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::scram::ScramKeys;

const SALT: usize = 4;
const LENGTH: usize = SALT + 32;

/// What a user's password is checked against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// For PLAIN, AMQPLAIN and HTTP.
    pub hash: PasswordHash,
    /// For SCRAM; `None` where only the hash was brought in.
    pub scram: Option<ScramKeys>,
}

impl Credential {
    /// Of a password in plain text; fails only where the machine has no randomness.
    pub fn new(password: &[u8]) -> Result<Self, getrandom::Error> {
        Ok(Self {
            hash: PasswordHash::new(password)?,
            scram: Some(ScramKeys::new(password)?),
        })
    }

    /// Of a hash that somebody else made: enough for every way but SCRAM.
    pub fn imported(hash: PasswordHash) -> Self {
        Self { hash, scram: None }
    }

    /// The keys for SCRAM as the store keeps them; nothing where there are none.
    pub fn stored_scram(&self) -> Vec<u8> {
        self.scram
            .as_ref()
            .map(ScramKeys::to_bytes)
            .unwrap_or_default()
    }

    /// From what the store keeps; `None` where that is no password.
    pub fn from_stored(hash: &[u8], scram: &[u8]) -> Option<Self> {
        Some(Self {
            hash: PasswordHash::from_bytes(hash)?,
            scram: ScramKeys::from_bytes(scram),
        })
    }
}

/// A salted SHA-256.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash([u8; LENGTH]);

impl PasswordHash {
    /// The hash of no password, to compare with where there is no user.
    pub(super) const NOBODY: Self = Self([0; LENGTH]);

    /// Hashes a password with fresh salt; fails only where the machine has no randomness.
    pub fn new(password: &[u8]) -> Result<Self, getrandom::Error> {
        let mut salt = [0; SALT];
        getrandom::fill(&mut salt)?;
        Ok(Self::with_salt(password, salt))
    }

    /// Hashes a password with this salt.
    pub fn with_salt(password: &[u8], salt: [u8; SALT]) -> Self {
        let mut bytes = [0; LENGTH];
        bytes[..SALT].copy_from_slice(&salt);
        bytes[SALT..].copy_from_slice(
            &Sha256::new()
                .chain_update(salt)
                .chain_update(password)
                .finalize(),
        );
        Self(bytes)
    }

    /// Whether this is the hash of `password`; how long it takes says nothing of how much was right.
    pub fn is_of(&self, password: &[u8]) -> bool {
        let [a, b, c, d, ..] = self.0;
        let other = Self::with_salt(password, [a, b, c, d]);
        let differing = self
            .0
            .iter()
            .zip(&other.0)
            .fold(0, |differing, (one, two)| differing | (one ^ two));
        std::hint::black_box(differing) == 0
    }

    /// As in `password_hash` of RabbitMQ's definitions.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// From `password_hash` of RabbitMQ's definitions; `None` where it is no salted SHA-256.
    pub fn from_base64(text: &str) -> Option<Self> {
        Self::from_bytes(&STANDARD.decode(text).ok()?)
    }

    /// Salt and hash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// From salt and hash.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

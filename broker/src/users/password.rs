//! Password hashes in RabbitMQ's format: four bytes of salt, then the SHA-256 of salt and password.
//! If the plain password was known when it was set, the keys for SCRAM are stored as well.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::scram::ScramKeys;

const SALT: usize = 4;
const LENGTH: usize = SALT + 32;

/// What a login is checked against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// For PLAIN, AMQPLAIN and HTTP basic authentication.
    pub hash: PasswordHash,
    /// For SCRAM. `None` if only the hash was imported.
    pub scram: Option<ScramKeys>,
}

impl Credential {
    /// Derives hash and keys from a plain password. Fails only if the system has no randomness.
    pub fn new(password: &[u8]) -> Result<Self, getrandom::Error> {
        Ok(Self {
            hash: PasswordHash::new(password)?,
            scram: Some(ScramKeys::new(password)?),
        })
    }

    /// Wraps an imported hash. It works for every mechanism except SCRAM.
    pub fn imported(hash: PasswordHash) -> Self {
        Self { hash, scram: None }
    }

    /// Returns the SCRAM keys as the store keeps them, or nothing if there are none.
    pub fn stored_scram(&self) -> Vec<u8> {
        self.scram
            .as_ref()
            .map(ScramKeys::to_bytes)
            .unwrap_or_default()
    }

    /// Reads what the store keeps. `None` if `hash` is not a password hash.
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
    /// A hash that no password has, compared with when the user does not exist.
    pub(super) const NOBODY: Self = Self([0; LENGTH]);

    /// Hashes a password with a random salt. Fails only if the system has no randomness.
    pub fn new(password: &[u8]) -> Result<Self, getrandom::Error> {
        let mut salt = [0; SALT];
        getrandom::fill(&mut salt)?;
        Ok(Self::with_salt(password, salt))
    }

    /// Hashes a password with the given salt.
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

    /// Whether this is the hash of `password`. Runs in constant time.
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

    /// Encodes the hash as in `password_hash` of RabbitMQ's definitions.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// Decodes `password_hash` of RabbitMQ's definitions. `None` if it is not a salted SHA-256.
    pub fn from_base64(text: &str) -> Option<Self> {
        Self::from_bytes(&STANDARD.decode(text).ok()?)
    }

    /// Returns the salt and the hash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads a salt and a hash.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

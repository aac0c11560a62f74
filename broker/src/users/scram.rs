//! SCRAM-SHA-256 (RFC 5802, RFC 7677) as the server speaks it, without channel binding.
//!
//! ```text
//! client  n,,n=user,r=CLIENT
//! server  r=CLIENT+SERVER,s=salt,i=iterations
//! client  c=biws,r=CLIENT+SERVER,p=proof
//! server  v=signature
//! ```
//! The password is never sent. The proof shows the server that the client knows the password, and
//! the signature shows the client that the server holds keys derived from it. Names and passwords
//! are compared as UTF-8 bytes, without `SASLprep`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::{Credential, LoginOrigin, LoginRefused, Users};

/// PBKDF2 iterations: the minimum of RFC 7677. More would add little, because the hash stored for
/// PLAIN is a single round of SHA-256.
const ITERATIONS: u32 = 4096;
const SALT: usize = 16;
const KEY: usize = 32;
const LENGTH: usize = SALT + 4 + 2 * KEY;
/// The longest client message that is parsed, in bytes.
const LONGEST: usize = 1024;
/// The GS2 header `n,,` in base64, which the client repeats. It means no channel binding.
const NO_BINDING: &str = "biws";

type ScramKey = [u8; KEY];

/// What the server stores of a password for SCRAM. It can verify a proof, but it cannot be used to
/// log in to another server.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramKeys {
    salt: [u8; SALT],
    iterations: u32,
    stored: ScramKey,
    server: ScramKey,
}

impl ScramKeys {
    /// Derives keys from a password with a random salt. Fails only if the system has no randomness.
    pub fn new(password: &[u8]) -> Result<Self, getrandom::Error> {
        let mut salt = [0; SALT];
        getrandom::fill(&mut salt)?;
        Ok(Self::with_salt(password, salt, ITERATIONS))
    }

    fn with_salt(password: &[u8], salt: [u8; SALT], iterations: u32) -> Self {
        let salted: ScramKey =
            pbkdf2::pbkdf2_hmac_array::<Sha256, KEY>(password, &salt, iterations);
        Self {
            salt,
            iterations,
            stored: Sha256::digest(mac(&salted, b"Client Key")).into(),
            server: mac(&salted, b"Server Key"),
        }
    }

    /// Returns keys that no password fits. They are the same every time for one name, so that a
    /// client cannot find out which users exist.
    fn of_nobody(name: &str, decoy: &ScramKey) -> Self {
        let [salt, stored, server] = ["salt", "stored", "server"]
            .map(|what| mac(decoy, format!("{what} {name}").as_bytes()));
        let mut short = [0; SALT];
        short.copy_from_slice(&salt[..SALT]);
        Self {
            salt: short,
            iterations: ITERATIONS,
            stored,
            server,
        }
    }

    /// Encodes salt, iterations (big-endian), stored key and server key.
    pub fn to_bytes(&self) -> Vec<u8> {
        let iterations = self.iterations.to_be_bytes();
        [&self.salt[..], &iterations, &self.stored, &self.server].concat()
    }

    /// Decodes what [`Self::to_bytes`] encodes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != LENGTH {
            return None;
        }
        let (salt, rest) = bytes.split_first_chunk()?;
        let (iterations, rest) = rest.split_first_chunk()?;
        let (stored, server) = rest.split_first_chunk()?;
        Some(Self {
            salt: *salt,
            iterations: u32::from_be_bytes(*iterations),
            stored: *stored,
            server: server.try_into().ok()?,
        })
    }
}

impl std::fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ScramKeys(…)")
    }
}

/// A SCRAM exchange after the client's first message.
#[derive(Debug)]
pub(crate) struct ScramExchange {
    user: String,
    keys: ScramKeys,
    /// The credential, if the user exists and can log in from this origin.
    known: Option<Credential>,
    client_first_bare: String,
    server_first: String,
    nonce: String,
}

impl ScramExchange {
    /// Reads the client's first message and prepares the challenge. `server_nonce` must be
    /// printable and never be used twice.
    pub(crate) fn begin(
        users: &Users,
        client_first: &[u8],
        server_nonce: &str,
        origin: LoginOrigin,
    ) -> Result<Self, LoginRefused> {
        let text = readable(client_first)?;
        let bare = text.strip_prefix("n,,").ok_or(LoginRefused)?;
        let mut fields = bare.split(',');
        let name = fields.next().and_then(|field| field.strip_prefix("n="));
        let client = fields.next().and_then(|field| field.strip_prefix("r="));
        let (Some(name), Some(client)) = (name, client.filter(|nonce| !nonce.is_empty())) else {
            return Err(LoginRefused);
        };
        let user = unescaped(name).ok_or(LoginRefused)?;
        let known = users.get(&user).and_then(|user| user.password.clone());
        let known = known.filter(|_| users.is_welcome(&user, origin));
        let keys = known
            .as_ref()
            .and_then(|known| known.scram.clone())
            .unwrap_or_else(|| ScramKeys::of_nobody(&user, &users.decoy));
        let nonce = format!("{client}{server_nonce}");
        let salt = STANDARD.encode(keys.salt);
        Ok(Self {
            server_first: format!("r={nonce},s={salt},i={}", keys.iterations),
            user,
            keys,
            known,
            client_first_bare: bare.to_owned(),
            nonce,
        })
    }

    /// Returns the server's first message.
    pub(crate) fn challenge(&self) -> &[u8] {
        self.server_first.as_bytes()
    }

    /// Verifies the client's proof. Returns the user with its credential, and the server's
    /// signature.
    pub(crate) fn finish(
        self,
        client_final: &[u8],
    ) -> Result<((String, Credential), Vec<u8>), LoginRefused> {
        let text = readable(client_final)?;
        let (unproved, proof) = text.rsplit_once(",p=").ok_or(LoginRefused)?;
        let mut fields = unproved.split(',');
        let is_ours = fields.next() == Some(&format!("c={NO_BINDING}"))
            && fields.next() == Some(&format!("r={}", self.nonce));
        let proof: ScramKey = STANDARD
            .decode(proof)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(LoginRefused)?;
        let signed = format!(
            "{},{},{unproved}",
            self.client_first_bare, self.server_first
        );
        let mut client_key = mac(&self.keys.stored, signed.as_bytes());
        for (octet, proved) in client_key.iter_mut().zip(proof) {
            *octet ^= proved;
        }
        let shown: ScramKey = Sha256::digest(client_key).into();
        let known = self.known.filter(|known| known.scram.is_some());
        let known = known.filter(|_| is_same(&shown, &self.keys.stored) && is_ours);
        let known = known.ok_or(LoginRefused)?;
        let signature = STANDARD.encode(mac(&self.keys.server, signed.as_bytes()));
        Ok(((self.user, known), format!("v={signature}").into_bytes()))
    }
}

fn readable(message: &[u8]) -> Result<&str, LoginRefused> {
    std::str::from_utf8(message)
        .ok()
        .filter(|text| text.len() <= LONGEST)
        .ok_or(LoginRefused)
}

/// Decodes a name: `=2C` is a comma and `=3D` an equals sign. Any other `=` is an error.
fn unescaped(name: &str) -> Option<String> {
    let mut parts = name.split('=');
    let mut plain = parts.next()?.to_owned();
    for part in parts {
        let (character, rest) = match (part.strip_prefix("2C"), part.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            _ => return None,
        };
        plain.push(character);
        plain.push_str(rest);
    }
    Some(plain)
}

/// HMAC-SHA-256.
fn mac(key: &ScramKey, message: &[u8]) -> ScramKey {
    // HMAC accepts a key of any length, so this does not fail. A key of zeros would only refuse.
    Hmac::<Sha256>::new_from_slice(key).map_or([0; KEY], |mut mac| {
        mac.update(message);
        mac.finalize().into_bytes().into()
    })
}

/// Compares in constant time.
fn is_same(one: &ScramKey, two: &ScramKey) -> bool {
    let differing = one
        .iter()
        .zip(two)
        .fold(0, |differing, (one, two)| differing | (one ^ two));
    std::hint::black_box(differing) == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::{ScramExchange, ScramKeys, mac, unescaped};
    use crate::users::{Credential, GuestPolicy, LoginOrigin, LoginRefused, PasswordHash, Users};
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    const FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const SERVER: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const FINAL: &[u8] = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    /// The user of RFC 7677, section 3.
    fn users(password: &[u8]) -> Users {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let keys = ScramKeys::with_salt(password, salt.try_into().unwrap(), 4096);
        let mut users = Users::new(GuestPolicy::Refused);
        let credential = Credential {
            hash: PasswordHash::new(password).unwrap(),
            scram: Some(keys),
        };
        users.put("user", Some(credential), Vec::new());
        users
    }

    fn begun(users: &Users, first: &[u8]) -> Result<ScramExchange, LoginRefused> {
        ScramExchange::begin(users, first, SERVER, LoginOrigin::Elsewhere)
    }

    #[test]
    fn the_exchange_is_that_of_rfc_7677() {
        let exchange = begun(&users(b"pencil"), FIRST).unwrap();
        assert_eq!(
            std::str::from_utf8(exchange.challenge()).unwrap(),
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        let ((user, known), signature) = exchange.finish(FINAL).unwrap();
        assert_eq!(user, "user");
        assert!(known.hash.is_of(b"pencil"));
        assert_eq!(signature, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn another_password_another_nonce_or_a_binding_is_refused() {
        let refused = |users: &Users, last: &[u8]| begun(users, FIRST).unwrap().finish(last);
        assert!(refused(&users(b"pencil2"), FINAL).is_err());
        let text = std::str::from_utf8(FINAL).unwrap();
        for wrong in [
            text.replace("hNlF$k0", "hNlF$k1"),
            text.replace("c=biws", "c=eSws"),
            text.replace("dHzb", "dHzc"),
            text.replace(",p=", ",q="),
            String::new(),
        ] {
            let outcome = refused(&users(b"pencil"), wrong.as_bytes());
            assert!(outcome.is_err(), "{wrong}");
        }
        for wrong in [
            "",
            "n,,",
            "n,,n=user",
            "y,,n=user,r=a",
            "n,,n=us=41er,r=a",
            "n,,n=user,r=",
        ] {
            assert!(
                begun(&users(b"pencil"), wrong.as_bytes()).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_stranger_gets_a_challenge_too_the_same_one_each_time() {
        let users = users(b"pencil");
        let challenge = || {
            begun(&users, b"n,,n=nobody,r=a")
                .unwrap()
                .challenge()
                .to_vec()
        };
        assert_eq!(challenge(), challenge());
        // Even a client that knows the decoy's stored key is refused.
        let exchange = begun(&users, b"n,,n=nobody,r=a").unwrap();
        let unproved = format!("c=biws,r=a{SERVER}");
        let proof = STANDARD.encode(mac(&exchange.keys.stored, b"x"));
        assert!(
            exchange
                .finish(format!("{unproved},p={proof}").as_bytes())
                .is_err()
        );
    }

    #[test]
    fn keys_survive_the_store_and_are_never_printed() {
        let keys = ScramKeys::new(b"secret").unwrap();
        assert_eq!(ScramKeys::from_bytes(&keys.to_bytes()), Some(keys.clone()));
        assert_eq!(ScramKeys::from_bytes(&keys.to_bytes()[1..]), None);
        assert_eq!(format!("{keys:?}"), "ScramKeys(…)");
    }

    #[test]
    fn commas_and_equals_signs_in_names_are_escaped() {
        assert_eq!(unescaped("a=2Cb=3Dc").as_deref(), Some("a,b=c"));
        assert_eq!(unescaped("a=2cb"), None);
        assert_eq!(unescaped("a="), None);
    }
}

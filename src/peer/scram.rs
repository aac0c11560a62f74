//! SASL SCRAM-SHA-256 as a client (RFC 5802 and RFC 7677, without channel binding), for a stored
//! login where the system does not tell who listens. Both sides prove that they know the password,
//! and neither sends it.
//!
//! A listener may end the login early and leave its proof out. lapin takes that for a success, so
//! the caller has to look at [`ScramProgress`] afterwards.

use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use lapin::auth::AuthProvider;
use lapin::types::{LongString, ShortString};
use sha2::{Digest, Sha256};

use crate::config::Login;

/// The accepted PBKDF2 iterations. With fewer, a listener could guess the password from one answer;
/// more would cost us time, and the listener has proven nothing yet.
const ROUNDS: std::ops::RangeInclusive<u32> = 4096..=100_000;

/// One login. lapin asks it for each answer.
pub(super) struct Scram {
    login: Login,
    nonce: String,
    progress: ScramProgress,
}

/// The progress of a login.
#[derive(Debug, Clone)]
pub(super) struct ScramProgress(Arc<Mutex<ScramStep>>);

impl ScramProgress {
    /// Whether the server has proven that it knows the password.
    pub(super) fn is_proven(&self) -> bool {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) == ScramStep::Done
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum ScramStep {
    /// The server has to send its salt.
    First,
    /// The server has to prove that it knows the password: this is its signature.
    Proof(String),
    /// Both have proven it.
    Done,
}

/// Why a login cannot go on.
#[derive(Debug, thiserror::Error)]
enum ScramError {
    #[error("the broker's challenge has no {0}")]
    Incomplete(&'static str),
    #[error("the broker's challenge is not an answer to ours")]
    OtherNonce,
    #[error("the broker's salt is not base64")]
    Salt(#[from] base64::DecodeError),
    #[error("the broker demands {0} iterations of the hash")]
    Rounds(u32),
    #[error("the listener does not know the password")]
    WrongProof,
    #[error("the broker sends one challenge too many")]
    TooManySteps,
}

impl Scram {
    /// Returns `None` if the system gives no random bytes.
    pub(super) fn new(login: &Login) -> Option<Self> {
        let mut random = [0; 18];
        getrandom::fill(&mut random).ok()?;
        Some(Self::with_nonce(login, BASE64_STANDARD.encode(random)))
    }

    fn with_nonce(login: &Login, nonce: String) -> Self {
        Self {
            login: login.clone(),
            nonce,
            progress: ScramProgress(Arc::new(Mutex::new(ScramStep::First))),
        }
    }

    /// A handle that shows the progress after lapin has taken the login.
    pub(super) fn progress(&self) -> ScramProgress {
        self.progress.clone()
    }

    fn bare(&self) -> String {
        let user = self.login.user.replace('=', "=3D").replace(',', "=2C");
        format!("n={user},r={}", self.nonce)
    }

    /// Our proof, and the signature that the server has to answer with.
    fn prove(&self, challenge: &str) -> Result<(String, String), ScramError> {
        let field = |name: &'static str| {
            let found = challenge
                .split(',')
                .find_map(|part| part.strip_prefix(name));
            found.ok_or(ScramError::Incomplete(name))
        };
        let (nonce, salt, rounds) = (field("r=")?, field("s=")?, field("i=")?);
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(ScramError::OtherNonce);
        }
        let salt = BASE64_STANDARD.decode(salt)?;
        let rounds = rounds.parse().unwrap_or(0);
        if !ROUNDS.contains(&rounds) {
            return Err(ScramError::Rounds(rounds));
        }
        let password = self.login.password.as_bytes();
        let mut salted = [0; 32];
        pbkdf2::pbkdf2_hmac::<Sha256>(password, &salt, rounds, &mut salted);
        let without_proof = format!("c=biws,r={nonce}");
        let all = format!("{},{challenge},{without_proof}", self.bare());
        let key = keyed(&salted, b"Client Key");
        let signature = keyed(&Sha256::digest(key), all.as_bytes());
        let proof: Vec<u8> = key.iter().zip(signature).map(|(a, b)| a ^ b).collect();
        let theirs = keyed(&keyed(&salted, b"Server Key"), all.as_bytes());
        Ok((
            format!("{without_proof},p={}", BASE64_STANDARD.encode(proof)),
            BASE64_STANDARD.encode(theirs),
        ))
    }

    /// Takes the server's next message and returns the answer to it.
    fn answer(&self, challenge: &str) -> Result<String, ScramError> {
        let step = &self.progress.0;
        let mut step = step.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, answer) = match &*step {
            ScramStep::First => {
                let (answer, signature) = self.prove(challenge)?;
                (ScramStep::Proof(signature), answer)
            }
            ScramStep::Proof(signature) if challenge.strip_prefix("v=") == Some(signature) => {
                (ScramStep::Done, String::new())
            }
            ScramStep::Proof(_) => return Err(ScramError::WrongProof),
            ScramStep::Done => return Err(ScramError::TooManySteps),
        };
        *step = next;
        Ok(answer)
    }
}

impl AuthProvider for Scram {
    fn mechanism(&self) -> ShortString {
        "SCRAM-SHA-256".into()
    }

    fn auth_starter(&self) -> Result<LongString, String> {
        Ok(format!("n,,{}", self.bare()).into())
    }

    fn continue_auth(&self, challenge: LongString) -> Result<LongString, String> {
        match self.answer(&challenge.to_string()) {
            Ok(answer) => Ok(answer.into()),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn keyed(key: &[u8], text: &[u8]) -> [u8; 32] {
    // HMAC takes keys of any length.
    Hmac::<Sha256>::new_from_slice(key).map_or([0; 32], |mut mac| {
        mac.update(text);
        mac.finalize().into_bytes().into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677.
    fn example() -> Scram {
        let login = Login {
            user: "user".into(),
            password: "pencil".into(),
        };
        Scram::with_nonce(&login, "rOprNGfwEbeRWgbNEkqO".into())
    }

    const CHALLENGE: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    #[test]
    fn the_example_of_the_standard_is_spoken() {
        let scram = example();
        assert_eq!(
            scram.auth_starter().unwrap().to_string(),
            "n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
        );
        let answer = scram.continue_auth(CHALLENGE.into()).unwrap();
        assert_eq!(
            answer.to_string(),
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        let last = scram.continue_auth("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=".into());
        assert!(!example().progress().is_proven());
        assert_eq!(last.unwrap().to_string(), "");
        assert!(scram.progress().is_proven());
    }

    #[test]
    fn a_listener_that_does_not_know_the_password_is_left() {
        let scram = example();
        scram.continue_auth(CHALLENGE.into()).unwrap();
        assert!(scram.continue_auth("v=AAAA".into()).is_err());
        for forged in [
            "r=other,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=100001",
            "",
        ] {
            assert!(example().continue_auth(forged.into()).is_err(), "{forged}");
        }
    }
}

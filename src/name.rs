//! The name of a session, which is also the name of its queue and its routing key.
//!
//! A [`SessionName`] is always valid: it is created only by normalising a text.

mod group;

use std::fmt;

use ulid::Ulid;

pub use group::GroupName;

const LONGEST: usize = 64;
const ASK: &str = "ask";

/// A normalised session name: `^[a-zA-Z][a-zA-Z0-9]{0,63}$`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionName(String);

/// Why a text is not a session name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing remains after normalising.
    #[error("it contains no ASCII letter or digit")]
    Empty,
    /// The normalised name starts with a digit.
    #[error("`{0}` starts with a digit; a name starts with a letter")]
    Digit(String),
    /// The normalised name is longer than 64 characters.
    #[error("it has {0} characters; a name has at most {LONGEST}")]
    Long(usize),
    /// A group of all sessions.
    #[error("there is no group of all sessions; a message goes to those that it names")]
    All,
}

impl SessionName {
    /// Normalises and validates a name: `my-backend`, `my_backend`, `My Backend` and `myBackend`
    /// are all `myBackend`.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let normal = normalise(text);
        match normal.bytes().next() {
            None => Err(NameError::Empty),
            Some(first) if first.is_ascii_digit() => Err(NameError::Digit(normal)),
            Some(_) if normal.len() > LONGEST => Err(NameError::Long(normal.len())),
            Some(_) => Ok(Self(normal)),
        }
    }

    /// Whether a text is a normalised session name.
    pub fn is_exact(text: &str) -> bool {
        Self::new(text).is_ok_and(|name| name.0 == text)
    }

    /// Returns the name of the queue for one answer.
    pub fn for_answer(id: Ulid) -> Self {
        Self(format!("{ASK}{id}"))
    }

    /// Whether this is a queue for one answer, which `list` hides and `send` never creates.
    pub fn is_answer_queue(&self) -> bool {
        self.0
            .strip_prefix(ASK)
            .is_some_and(|rest| rest.len() == 26 && Ulid::from_string(rest).is_ok())
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for SessionName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

fn normalise(text: &str) -> String {
    let separates = |c: char| c == '-' || c == '_' || c.is_whitespace();
    let mut name = String::with_capacity(text.len());
    for (index, part) in text
        .split(separates)
        .filter(|part| !part.is_empty())
        .enumerate()
    {
        let mut letters = part.chars();
        let Some(first) = letters.next() else {
            continue;
        };
        if index == 0 {
            name.extend(first.to_lowercase());
        } else {
            name.extend(first.to_uppercase());
        }
        name.push_str(letters.as_str());
    }
    name.retain(|c| c.is_ascii_alphanumeric());
    // If the lower-cased letter was dropped (`üAb`), the next one is first now. A normalised name
    // must normalise to itself.
    if let Some(first) = name.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    name
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spellings_of_one_name_meet() {
        for spelling in [
            "my-backend",
            "my_backend",
            "My Backend",
            "myBackend",
            "  my--_ backend ",
            "-my-backend-",
        ] {
            assert_eq!(
                SessionName::new(spelling).unwrap().as_str(),
                "myBackend",
                "{spelling:?}"
            );
        }
        assert_eq!(SessionName::new("api-v2").unwrap().as_str(), "apiV2");
        assert_eq!(
            SessionName::new("my-python-backend").unwrap().as_str(),
            "myPythonBackend"
        );
        assert_eq!(
            SessionName::new("my.back/end!").unwrap().as_str(),
            "mybackend"
        );
    }

    #[test]
    fn what_cannot_be_a_name_is_refused_with_its_reason() {
        assert_eq!(SessionName::new(" -_ "), Err(NameError::Empty));
        assert_eq!(SessionName::new("ü"), Err(NameError::Empty));
        assert_eq!(
            SessionName::new("2-fast"),
            Err(NameError::Digit("2Fast".into()))
        );
        assert_eq!(SessionName::new(&"a".repeat(65)), Err(NameError::Long(65)));
        assert!(SessionName::new(&"a".repeat(64)).is_ok());
    }

    #[test]
    fn a_queue_for_one_answer_is_recognised() {
        let name = SessionName::for_answer(Ulid::nil());
        assert!(name.is_answer_queue());
        assert!(SessionName::is_exact(name.as_str()));
        for other in ["ask", "asker", "askTheExpertsWhoKnowItBetter1"] {
            assert!(
                !SessionName::new(other).unwrap().is_answer_queue(),
                "{other}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_name_is_always_in_its_alphabet_and_normalises_to_itself(
            text in "\\PC{0,80}|[ a-zA-Z0-9_-]{0,80}|[ü.A-Z]{0,5}",
        ) {
            if let Ok(name) = SessionName::new(&text) {
                prop_assert!((1..=64).contains(&name.as_str().len()));
                prop_assert!(name.as_str().starts_with(|c: char| c.is_ascii_alphabetic()));
                prop_assert!(name.as_str().chars().all(|c| c.is_ascii_alphanumeric()));
                prop_assert!(SessionName::is_exact(name.as_str()));
            }
        }
    }
}

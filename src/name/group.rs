//! The name of a group of sessions, which is a routing key of the groups' exchange.

use std::fmt;

use super::{NameError, SessionName};

/// A normalised group name, by the same rules as a session's. Commands write it with an `@`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName(SessionName);

impl GroupName {
    /// Normalises and validates a name, with or without the `@`.
    ///
    /// # Errors
    /// As [`SessionName::new`]; and `all`, which could be mistaken for every session.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let text = text.trim();
        let name = SessionName::new(text.strip_prefix('@').unwrap_or(text))?;
        if name.as_str().eq_ignore_ascii_case("all") {
            return Err(NameError::All);
        }
        Ok(Self(name))
    }

    /// Whether a text stands for a group where a session could stand too.
    pub fn is_meant(text: &str) -> bool {
        text.trim_start().starts_with('@')
    }

    /// Returns the name without the `@`.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_s_name_is_read_as_a_session_s_with_or_without_its_sign() {
        for text in ["back-end", "@back_end", " @backEnd "] {
            assert_eq!(GroupName::new(text).unwrap().to_string(), "@backEnd");
        }
        assert_eq!(GroupName::new("@"), Err(NameError::Empty));
        assert_eq!(GroupName::new("@All"), Err(NameError::All));
        assert!(GroupName::is_meant("@x") && !GroupName::is_meant("x"));
    }
}

//! What a test wants of the fake agent: words of `AGENT` in its environment.

/// The words.
#[derive(Clone, Debug)]
pub(crate) struct Quirks(String);

impl Quirks {
    pub(crate) fn of_environment() -> Self {
        Self(std::env::var("AGENT").unwrap_or_default())
    }

    pub(crate) fn has(&self, word: &str) -> bool {
        self.0.split_whitespace().any(|quirk| quirk == word)
    }
}

//! What a user can configure, write and read in one vhost: three regular expressions over names.

use regex_lite::{Regex, RegexBuilder};

/// What an AMQP method does to a queue or exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Declare or delete.
    Configure,
    /// Publish to an exchange, bind a queue or destination exchange, dead-letter to an exchange.
    Write,
    /// Consume from, get from or purge a queue; bind from a source exchange.
    Read,
}

/// A pattern that is not a usable regular expression.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{pattern} is not a regular expression: {source}")]
pub struct BadPattern {
    pattern: String,
    source: PatternError,
}

/// Why a pattern is not usable.
#[derive(Clone, Debug, thiserror::Error)]
enum PatternError {
    #[error("it is longer than {LONGEST} characters")]
    TooLong,
    #[error(transparent)]
    Invalid(#[from] regex_lite::Error),
}

/// The longest accepted expression, in characters.
const LONGEST: usize = 256;
/// The largest compiled expression, in bytes. It bounds the cost of matching one name.
const COMPILED_BYTES: usize = 64 * 1024;

/// Compiles an untrusted regular expression within bounds. Refuses an expression that grows when it
/// is compiled, such as `((a?){30}){30}`.
pub(crate) fn bounded_regex(text: &str) -> Result<Regex, BadPattern> {
    let refuse = |source: PatternError| BadPattern {
        pattern: text.chars().take(LONGEST).collect(),
        source,
    };
    if text.chars().count() > LONGEST {
        return Err(refuse(PatternError::TooLong));
    }
    let mut builder = RegexBuilder::new(text);
    let built = builder.size_limit(COMPILED_BYTES).build();
    built.map_err(|error| refuse(error.into()))
}

/// An expression and its compiled form.
#[derive(Clone, Debug)]
struct Pattern {
    source: String,
    /// `None` matches every name.
    regex: Option<Regex>,
}

impl Pattern {
    fn new(source: &str) -> Result<Self, BadPattern> {
        let expression = match source {
            ".*" => {
                return Ok(Self {
                    source: source.to_owned(),
                    regex: None,
                });
            }
            "" => "^$",
            other => other,
        };
        Ok(Self {
            source: source.to_owned(),
            regex: Some(bounded_regex(expression)?),
        })
    }

    fn matches(&self, name: &str) -> bool {
        self.regex.as_ref().is_none_or(|regex| regex.is_match(name))
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

/// A user's permissions in one vhost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permissions {
    configure: Pattern,
    write: Pattern,
    read: Pattern,
}

impl Permissions {
    /// Compiles three regular expressions.
    pub fn new(configure: &str, write: &str, read: &str) -> Result<Self, BadPattern> {
        Ok(Self {
            configure: Pattern::new(configure)?,
            write: Pattern::new(write)?,
            read: Pattern::new(read)?,
        })
    }

    /// Allows everything.
    pub fn all() -> Self {
        let any = || Pattern {
            source: ".*".to_owned(),
            regex: None,
        };
        Self {
            configure: any(),
            write: any(),
            read: any(),
        }
    }

    /// Whether the operation is allowed on this name. The default exchange has the empty name.
    pub fn allow(&self, operation: Operation, resource: &str) -> bool {
        let name = if resource.is_empty() {
            "amq.default"
        } else {
            resource
        };
        self.pattern(operation).matches(name)
    }

    /// Whether it allows no resource of any name. Only the usual expressions for that are known.
    pub fn allow_nothing(&self, operation: Operation) -> bool {
        matches!(self.source(operation), "" | "^$")
    }

    /// Returns the expression as it was set.
    pub fn source(&self, operation: Operation) -> &str {
        &self.pattern(operation).source
    }

    fn pattern(&self, operation: Operation) -> &Pattern {
        match operation {
            Operation::Configure => &self.configure,
            Operation::Write => &self.write,
            Operation::Read => &self.read,
        }
    }
}

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
/// The first bound that is tried where the size is to be known.
const SMALL_BYTES: usize = 1024;

/// Compiles an untrusted regular expression within bounds. Refuses an expression that grows when it
/// is compiled, such as `((a?){30}){30}`.
pub(crate) fn bounded_regex(text: &str) -> Result<Regex, BadPattern> {
    compile(text, COMPILED_BYTES)
}

/// Like [`bounded_regex`], with a bound on its size in bytes that is at most twice as large as it
/// is.
fn measured_regex(text: &str) -> Result<(Regex, usize), BadPattern> {
    let mut bound = SMALL_BYTES;
    loop {
        match compile(text, bound) {
            Ok(regex) => return Ok((regex, bound)),
            Err(_) if bound < COMPILED_BYTES => bound *= 2,
            Err(error) => return Err(error),
        }
    }
}

fn compile(text: &str, bound: usize) -> Result<Regex, BadPattern> {
    let refuse = |source: PatternError| BadPattern {
        pattern: text.chars().take(LONGEST).collect(),
        source,
    };
    if text.chars().count() > LONGEST {
        return Err(refuse(PatternError::TooLong));
    }
    let mut builder = RegexBuilder::new(text);
    let built = builder.size_limit(bound).build();
    built.map_err(|error| refuse(error.into()))
}

/// An expression and its compiled form.
#[derive(Clone, Debug)]
struct Pattern {
    source: String,
    /// `None` matches every name.
    regex: Option<Regex>,
    /// A bound on the size of the compiled form.
    compiled_bytes: usize,
}

impl Pattern {
    fn new(source: &str) -> Result<Self, BadPattern> {
        let expression = match source {
            ".*" => return Ok(Self::any()),
            "" => "^$",
            other => other,
        };
        let (regex, compiled_bytes) = measured_regex(expression)?;
        Ok(Self {
            source: source.to_owned(),
            regex: Some(regex),
            compiled_bytes,
        })
    }

    fn any() -> Self {
        Self {
            source: ".*".to_owned(),
            regex: None,
            compiled_bytes: 0,
        }
    }

    /// About how much memory it uses, in bytes: its program, and as much again that the matching of
    /// a name keeps.
    fn footprint(&self) -> usize {
        self.source.len() + 2 * self.compiled_bytes
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

/// What permissions in one vhost take beside their texts and expressions.
const PERMISSIONS_BYTES: usize = 512;

impl Permissions {
    /// Returns about how much memory they use for one vhost, in bytes.
    pub(crate) fn footprint(&self, vhost: &str) -> usize {
        let patterns = [&self.configure, &self.write, &self.read].map(Pattern::footprint);
        PERMISSIONS_BYTES + vhost.len() + patterns.iter().sum::<usize>()
    }

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
        Self {
            configure: Pattern::any(),
            write: Pattern::any(),
            read: Pattern::any(),
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

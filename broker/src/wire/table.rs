//! Field tables: ordered lists of named, typed values, used for arguments and headers.
//!
//! A table keeps its order, its duplicates and the type letter of every value, so that encoding a
//! decoded table gives the same bytes. The one exception is booleans: any non-zero byte is `true`,
//! and `true` is written as 1. Names are bytes, because clients send names that are not UTF-8. The
//! depth is checked before a level is entered, and more than [`DEPTH_LIMIT`] levels are refused, so
//! no table can exhaust the stack. The type letters are those of RabbitMQ, which differ from the
//! text of the specification in `s`, `l` and `L`. Depends on nothing.

use std::fmt;

mod compare;
mod reader;
#[cfg(test)]
mod tests;

use reader::TableReader;

/// The maximum nesting depth of tables and arrays, including the outermost one.
pub const DEPTH_LIMIT: usize = 32;

/// What an allocation costs beside its bytes.
const ALLOCATION_BYTES: usize = 16;

/// The longest name in bytes; its length prefix is one byte.
pub const NAME_LIMIT: usize = 255;

/// Up to 255 bytes, usually but not always UTF-8.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ShortString(Box<[u8]>);

impl ShortString {
    /// Returns `None` if `bytes` is longer than [`NAME_LIMIT`].
    pub fn new(bytes: impl AsRef<[u8]>) -> Option<Self> {
        let bytes = bytes.as_ref();
        (bytes.len() <= NAME_LIMIT).then(|| Self(bytes.into()))
    }

    /// Returns the bytes as they were sent.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the text for display, with invalid UTF-8 replaced.
    pub fn to_text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }
}

impl fmt::Debug for ShortString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_text())
    }
}

/// One typed value. Floating-point numbers are stored as bits, so that values can be compared and
/// hashed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Value {
    /// `t`
    Bool(bool),
    /// `b`
    Byte(i8),
    /// `B`
    UnsignedByte(u8),
    /// `s`
    Short(i16),
    /// `u`
    UnsignedShort(u16),
    /// `I`
    Int(i32),
    /// `i`
    UnsignedInt(u32),
    /// `l`
    Long(i64),
    /// `L`, which RabbitMQ and most clients read as signed.
    SignedLong(i64),
    /// `f`, IEEE 754 bits
    Float(u32),
    /// `d`, IEEE 754 bits
    Double(u64),
    /// `D`: `unscaled` divided by ten to the power of `scale`
    Decimal {
        /// The number of digits after the decimal point.
        scale: u8,
        /// The number without its decimal point.
        unscaled: u32,
    },
    /// `S`
    LongString(Box<[u8]>),
    /// `A`
    Array(Vec<Value>),
    /// `T`, seconds since the Unix epoch
    Timestamp(u64),
    /// `F`
    Table(Table),
    /// `V`
    Void,
    /// `x`
    Binary(Box<[u8]>),
}

impl Value {
    /// Creates a long string.
    pub fn text(text: impl AsRef<str>) -> Self {
        Self::LongString(text.as_ref().as_bytes().into())
    }

    /// Returns the memory that this value uses, in bytes.
    fn footprint(&self) -> usize {
        let outside = match self {
            Self::LongString(bytes) | Self::Binary(bytes) => bytes.len() + ALLOCATION_BYTES,
            Self::Table(table) => table.footprint(),
            Self::Array(values) => grown(values.iter().map(Self::footprint).sum()),
            _ => 0,
        };
        size_of::<Self>() + outside
    }

    /// Like [`Table::has_text_names`]: true for a value without names.
    fn has_text_names(&self) -> bool {
        match self {
            Self::Table(table) => table.has_text_names(),
            Self::Array(values) => values.iter().all(Self::has_text_names),
            _ => true,
        }
    }

    /// Returns RabbitMQ's name of the type, as its error texts use it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Bool(_) => "bool",
            Self::Byte(_) => "byte",
            Self::UnsignedByte(_) => "unsignedbyte",
            Self::Short(_) => "short",
            Self::UnsignedShort(_) => "unsignedshort",
            Self::Int(_) => "signedint",
            Self::UnsignedInt(_) => "unsignedint",
            Self::Long(_) | Self::SignedLong(_) => "long",
            Self::Float(_) => "float",
            Self::Double(_) => "double",
            Self::Decimal { .. } => "decimal",
            Self::LongString(_) => "longstr",
            Self::Array(_) => "array",
            Self::Timestamp(_) => "timestamp",
            Self::Table(_) => "table",
            Self::Void => "void",
            Self::Binary(_) => "binary",
        }
    }

    /// Returns the value of any of the eight integer types.
    pub fn as_integer(&self) -> Option<i64> {
        match *self {
            Self::Byte(n) => Some(n.into()),
            Self::UnsignedByte(n) => Some(n.into()),
            Self::Short(n) => Some(n.into()),
            Self::UnsignedShort(n) => Some(n.into()),
            Self::Int(n) => Some(n.into()),
            Self::UnsignedInt(n) => Some(n.into()),
            Self::Long(n) | Self::SignedLong(n) => Some(n),
            _ => None,
        }
    }

    /// Returns the value of either floating-point type.
    pub fn as_float(&self) -> Option<f64> {
        match *self {
            Self::Float(bits) => Some(f32::from_bits(bits).into()),
            Self::Double(bits) => Some(f64::from_bits(bits)),
            _ => None,
        }
    }

    /// Returns the bytes of a long string.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::LongString(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Returns the text of a long string that is UTF-8.
    pub fn as_text(&self) -> Option<&str> {
        self.as_bytes()
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    /// Whether RabbitMQ considers both values equal. Integers of any width compare by value, and so
    /// do the two floating-point types. All other values must have the same type.
    pub fn is_equivalent(&self, other: &Self) -> bool {
        match (self.as_integer(), other.as_integer()) {
            (Some(one), Some(two)) => return one == two,
            (None, None) => {}
            _ => return false,
        }
        match (self.as_float(), other.as_float()) {
            (Some(one), Some(two)) => one.total_cmp(&two).is_eq() || (one == 0.0 && two == 0.0),
            _ => self == other,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Bool(b) => out.extend_from_slice(&[b't', u8::from(*b)]),
            Self::Byte(n) => tagged(out, b'b', &n.to_be_bytes()),
            Self::UnsignedByte(n) => tagged(out, b'B', &n.to_be_bytes()),
            Self::Short(n) => tagged(out, b's', &n.to_be_bytes()),
            Self::UnsignedShort(n) => tagged(out, b'u', &n.to_be_bytes()),
            Self::Int(n) => tagged(out, b'I', &n.to_be_bytes()),
            Self::UnsignedInt(n) => tagged(out, b'i', &n.to_be_bytes()),
            Self::Long(n) => tagged(out, b'l', &n.to_be_bytes()),
            Self::SignedLong(n) => tagged(out, b'L', &n.to_be_bytes()),
            Self::Float(bits) => tagged(out, b'f', &bits.to_be_bytes()),
            Self::Double(bits) => tagged(out, b'd', &bits.to_be_bytes()),
            Self::Decimal { scale, unscaled } => {
                tagged(out, b'D', &[*scale]);
                out.extend_from_slice(&unscaled.to_be_bytes());
            }
            Self::LongString(bytes) => prefixed(out, b'S', bytes),
            Self::Binary(bytes) => prefixed(out, b'x', bytes),
            Self::Timestamp(seconds) => tagged(out, b'T', &seconds.to_be_bytes()),
            Self::Void => out.push(b'V'),
            Self::Table(table) => {
                out.push(b'F');
                table.encode(out);
            }
            Self::Array(values) => {
                out.push(b'A');
                sized(out, |out| values.iter().for_each(|value| value.encode(out)));
            }
        }
    }
}

fn tagged(out: &mut Vec<u8>, letter: u8, bytes: &[u8]) {
    out.push(letter);
    out.extend_from_slice(bytes);
}

fn prefixed(out: &mut Vec<u8>, letter: u8, bytes: &[u8]) {
    out.push(letter);
    sized(out, |out| out.extend_from_slice(bytes));
}

/// A vector grows by doubling.
fn grown(bytes: usize) -> usize {
    2 * bytes
}

/// Writes a four-byte length prefix and then what `fill` writes.
fn sized(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    fill(out);
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// An ordered list of names and values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Table(Vec<(ShortString, Value)>);

impl Table {
    /// Creates an empty table.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Decodes one table with its four-byte length prefix. Bytes after the table are an error.
    pub fn decode(bytes: &[u8]) -> Result<Self, TableError> {
        match Self::split_from(bytes)? {
            (table, []) => Ok(table),
            (_, rest) => Err(TableError::Trailing(rest.len())),
        }
    }

    /// Decodes one table with its four-byte length prefix. Returns the table and the bytes after
    /// it.
    pub fn split_from(bytes: &[u8]) -> Result<(Self, &[u8]), TableError> {
        let mut reader = TableReader::new(bytes);
        let table = reader.table(1)?;
        Ok((table, reader.remaining()))
    }

    /// Validates one table without storing it. Returns its size in bytes, including the length
    /// prefix.
    pub fn measure(bytes: &[u8]) -> Result<usize, TableError> {
        let mut reader = TableReader::new(bytes);
        reader.skip_table(1)?;
        Ok(bytes.len() - reader.remaining().len())
    }

    /// Whether every name, at any depth, is UTF-8, as AMQP 0-9-1, 4.2.5.3, says of short strings.
    pub fn has_text_names(&self) -> bool {
        self.0
            .iter()
            .all(|(name, value)| std::str::from_utf8(&name.0).is_ok() && value.has_text_names())
    }

    /// Appends the encoded table with its four-byte length prefix.
    pub fn encode(&self, out: &mut Vec<u8>) {
        sized(out, |out| {
            for (name, value) in &self.0 {
                out.push(u8::try_from(name.0.len()).unwrap_or(u8::MAX));
                out.extend_from_slice(&name.0);
                value.encode(out);
            }
        });
    }

    /// Returns the memory that the entries use, in bytes.
    pub(crate) fn footprint(&self) -> usize {
        let entries = self.0.iter().map(|(name, value)| {
            size_of::<ShortString>() + name.0.len() + ALLOCATION_BYTES + value.footprint()
        });
        grown(entries.sum())
    }

    /// Returns the encoded table with its four-byte length prefix.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }

    /// Returns the first value of this name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.get_bytes(name.as_bytes())
    }

    /// Returns the first value of this name.
    pub fn get_bytes(&self, name: &[u8]) -> Option<&Value> {
        self.0
            .iter()
            .find(|(key, _)| key.as_bytes() == name)
            .map(|(_, value)| value)
    }

    /// Replaces the first value of this name, or appends one. A name longer than [`NAME_LIMIT`]
    /// changes nothing.
    pub fn set(&mut self, name: &str, value: Value) {
        let Some(key) = ShortString::new(name) else {
            return;
        };
        match self.0.iter_mut().find(|(known, _)| *known == key) {
            Some(entry) => entry.1 = value,
            None => self.0.push((key, value)),
        }
    }

    /// Removes all values of this name and returns the first.
    pub fn remove(&mut self, name: &str) -> Option<Value> {
        let first = self.get(name).cloned();
        self.0.retain(|(key, _)| key.as_bytes() != name.as_bytes());
        first
    }

    /// Iterates over names and values in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&ShortString, &Value)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// Returns the number of entries, including duplicates.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(ShortString, Value)> for Table {
    fn from_iter<I: IntoIterator<Item = (ShortString, Value)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

/// Why bytes are not a table. All of these are syntax errors of the client (501, 502).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The input ends too early, or a length exceeds the input.
    #[error("a field table ends too early")]
    Truncated,
    /// A letter that is no type.
    #[error("unknown field type {0:#04x}")]
    UnknownType(u8),
    /// More than [`DEPTH_LIMIT`] levels.
    #[error("a field table nests deeper than {DEPTH_LIMIT} levels")]
    TooDeep,
    /// This many bytes follow the table.
    #[error("{0} bytes follow a field table")]
    Trailing(usize),
}

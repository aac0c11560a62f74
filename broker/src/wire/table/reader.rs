//! Reads field tables from untrusted bytes.
//!
//! A length is used only after checking that the bytes are there, so nothing is allocated beyond
//! what was received.

use super::{DEPTH_LIMIT, ShortString, Table, TableError, Value};

pub(super) struct TableReader<'a> {
    bytes: &'a [u8],
}

impl<'a> TableReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(super) fn remaining(&self) -> &'a [u8] {
        self.bytes
    }

    fn take_bytes(&mut self, count: usize) -> Result<&'a [u8], TableError> {
        let (taken, rest) = self
            .bytes
            .split_at_checked(count)
            .ok_or(TableError::Truncated)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], TableError> {
        let (taken, rest) = self
            .bytes
            .split_first_chunk::<N>()
            .ok_or(TableError::Truncated)?;
        self.bytes = rest;
        Ok(*taken)
    }

    fn octet(&mut self) -> Result<u8, TableError> {
        self.fixed().map(|[octet]: [u8; 1]| octet)
    }

    fn short_string(&mut self) -> Result<&'a [u8], TableError> {
        let length = self.octet()?;
        self.take_bytes(length.into())
    }

    fn long_string(&mut self) -> Result<&'a [u8], TableError> {
        let length = u32::from_be_bytes(self.fixed()?);
        self.take_bytes(usize::try_from(length).map_err(|_| TableError::Truncated)?)
    }

    /// Enters a table or array at this depth. The outermost table has depth 1.
    fn nested(&mut self, depth: usize) -> Result<TableReader<'a>, TableError> {
        if depth > DEPTH_LIMIT {
            return Err(TableError::TooDeep);
        }
        self.long_string().map(TableReader::new)
    }

    pub(super) fn table(&mut self, depth: usize) -> Result<Table, TableError> {
        let mut inside = self.nested(depth)?;
        let mut entries = Vec::new();
        while !inside.bytes.is_empty() {
            let name = ShortString(inside.short_string()?.into());
            entries.push((name, inside.value(depth)?));
        }
        Ok(Table(entries))
    }

    pub(super) fn skip_table(&mut self, depth: usize) -> Result<(), TableError> {
        let mut inside = self.nested(depth)?;
        while !inside.bytes.is_empty() {
            inside.short_string()?;
            inside.skip_value(depth)?;
        }
        Ok(())
    }

    fn array(&mut self, depth: usize) -> Result<Vec<Value>, TableError> {
        let mut inside = self.nested(depth)?;
        let mut values = Vec::new();
        while !inside.bytes.is_empty() {
            values.push(inside.value(depth)?);
        }
        Ok(values)
    }

    fn value(&mut self, depth: usize) -> Result<Value, TableError> {
        Ok(match self.octet()? {
            b't' => Value::Bool(self.octet()? != 0),
            b'b' => Value::Byte(i8::from_be_bytes(self.fixed()?)),
            b'B' => Value::UnsignedByte(self.octet()?),
            b's' => Value::Short(i16::from_be_bytes(self.fixed()?)),
            b'u' => Value::UnsignedShort(u16::from_be_bytes(self.fixed()?)),
            b'I' => Value::Int(i32::from_be_bytes(self.fixed()?)),
            b'i' => Value::UnsignedInt(u32::from_be_bytes(self.fixed()?)),
            b'l' => Value::Long(i64::from_be_bytes(self.fixed()?)),
            b'L' => Value::SignedLong(i64::from_be_bytes(self.fixed()?)),
            b'f' => Value::Float(u32::from_be_bytes(self.fixed()?)),
            b'd' => Value::Double(u64::from_be_bytes(self.fixed()?)),
            b'D' => Value::Decimal {
                scale: self.octet()?,
                unscaled: u32::from_be_bytes(self.fixed()?),
            },
            b'S' => Value::LongString(self.long_string()?.into()),
            b'x' => Value::Binary(self.long_string()?.into()),
            b'T' => Value::Timestamp(u64::from_be_bytes(self.fixed()?)),
            b'A' => Value::Array(self.array(depth + 1)?),
            b'F' => Value::Table(self.table(depth + 1)?),
            b'V' => Value::Void,
            letter => return Err(TableError::UnknownType(letter)),
        })
    }

    fn skip_value(&mut self, depth: usize) -> Result<(), TableError> {
        let width = match self.octet()? {
            b'V' => 0,
            b't' | b'b' | b'B' => 1,
            b's' | b'u' => 2,
            b'I' | b'i' | b'f' => 4,
            b'D' => 5,
            b'l' | b'L' | b'd' | b'T' => 8,
            b'S' | b'x' => return self.long_string().map(drop),
            b'F' => return self.skip_table(depth + 1),
            b'A' => {
                let mut inside = self.nested(depth + 1)?;
                while !inside.bytes.is_empty() {
                    inside.skip_value(depth + 1)?;
                }
                return Ok(());
            }
            letter => return Err(TableError::UnknownType(letter)),
        };
        self.take_bytes(width).map(drop)
    }
}

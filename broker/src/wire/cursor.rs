//! Reads fields from the front of a slice. Depends on nothing.

/// A field is truncated, or a short string is not UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MalformedField;

/// A position in received bytes. Each read advances it or fails; none allocates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ByteCursor<'a> {
    rest: &'a [u8],
}

impl<'a> ByteCursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn remaining(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn take_bytes(&mut self, count: usize) -> Result<&'a [u8], MalformedField> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(MalformedField)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MalformedField> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(MalformedField)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, MalformedField> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, MalformedField> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, MalformedField> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, MalformedField> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// Reads a short string as bytes.
    pub(crate) fn short_string_bytes(&mut self) -> Result<&'a [u8], MalformedField> {
        let count = self.u8()?;
        self.take_bytes(usize::from(count))
    }

    /// Reads a short string that is a name, which must be UTF-8.
    pub(crate) fn short_string(&mut self) -> Result<&'a str, MalformedField> {
        std::str::from_utf8(self.short_string_bytes()?).map_err(|_| MalformedField)
    }

    /// Reads a table and returns it with its length prefix, as [`super::table`] expects it.
    pub(crate) fn table(&mut self) -> Result<&'a [u8], MalformedField> {
        let whole = self.rest;
        let inside = self.long_string()?.len();
        whole.get(..inside + 4).ok_or(MalformedField)
    }

    /// Reads a long string.
    pub(crate) fn long_string(&mut self) -> Result<&'a [u8], MalformedField> {
        let count = self.u32()?;
        self.take_bytes(usize::try_from(count).map_err(|_| MalformedField)?)
    }

    /// Fails if anything follows the last field.
    pub(crate) fn expect_end(&self) -> Result<(), MalformedField> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(MalformedField)
        }
    }
}

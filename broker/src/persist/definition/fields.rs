//! The fields of a definition, written one after the other and read back with every length checked.

use super::DefinitionError;
use crate::wire::table::Table;

pub(super) struct DefinitionWriter(Vec<u8>);

impl DefinitionWriter {
    pub(super) fn new(first: u8) -> Self {
        Self(vec![first])
    }

    /// At most 255 bytes, as every name of AMQP is; what is longer is cut at a character.
    pub(super) fn short_string(&mut self, text: &str) -> &mut Self {
        let bytes = &text.as_bytes()[..text.floor_char_boundary(255)];
        self.0.push(u8::try_from(bytes.len()).unwrap_or(u8::MAX));
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn long_bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn number(&mut self, number: u64) -> &mut Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    pub(super) fn claim(&mut self, claim: bool) -> &mut Self {
        self.0.push(u8::from(claim));
        self
    }

    pub(super) fn texts(&mut self, texts: &[String]) -> &mut Self {
        let mut inside = Self(Vec::new());
        for text in texts {
            inside.long_bytes(text.as_bytes());
        }
        self.long_bytes(&inside.0)
    }

    pub(super) fn table(&mut self, table: &Table) -> &mut Self {
        table.encode(&mut self.0);
        self
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }
}

pub(super) struct DefinitionFields<'a>(&'a [u8]);

impl<'a> DefinitionFields<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take_bytes(&mut self, count: usize) -> Result<&'a [u8], DefinitionError> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(DefinitionError::Damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DefinitionError> {
        self.take_bytes(N)?
            .try_into()
            .map_err(|_| DefinitionError::Damaged)
    }

    pub(super) fn octet(&mut self) -> Result<u8, DefinitionError> {
        self.fixed().map(|[octet]| octet)
    }

    pub(super) fn short_string(&mut self) -> Result<String, DefinitionError> {
        let length = self.octet()?;
        utf8(self.take_bytes(length.into())?.to_vec())
    }

    /// A short text, or an empty one where the value ends before it.
    pub(super) fn short_or_none(&mut self) -> Result<String, DefinitionError> {
        if self.0.is_empty() {
            return Ok(String::new());
        }
        self.short_string()
    }

    pub(super) fn long_bytes(&mut self) -> Result<Vec<u8>, DefinitionError> {
        let length = u32::from_be_bytes(self.fixed()?);
        let length = usize::try_from(length).map_err(|_| DefinitionError::Damaged)?;
        self.take_bytes(length).map(<[u8]>::to_vec)
    }

    pub(super) fn text(&mut self) -> Result<String, DefinitionError> {
        utf8(self.long_bytes()?)
    }

    pub(super) fn texts(&mut self) -> Result<Vec<String>, DefinitionError> {
        let inside = self.long_bytes()?;
        let mut inside = DefinitionFields(&inside);
        let mut texts = Vec::new();
        while !inside.0.is_empty() {
            texts.push(inside.text()?);
        }
        Ok(texts)
    }

    pub(super) fn number(&mut self) -> Result<u64, DefinitionError> {
        self.fixed().map(u64::from_be_bytes)
    }

    pub(super) fn claim(&mut self) -> Result<bool, DefinitionError> {
        match self.octet()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DefinitionError::Damaged),
        }
    }

    pub(super) fn table(&mut self) -> Result<Table, DefinitionError> {
        let (table, rest) = Table::split_from(self.0).map_err(|_| DefinitionError::Damaged)?;
        self.0 = rest;
        Ok(table)
    }

    pub(super) fn expect_end(&self) -> Result<(), DefinitionError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(DefinitionError::Damaged)
        }
    }
}

fn utf8(bytes: Vec<u8>) -> Result<String, DefinitionError> {
    String::from_utf8(bytes).map_err(|_| DefinitionError::Damaged)
}

//! The items of a listing until they are text. Each is charged to the user who asked from the
//! moment that it exists, and so are the keys that they are sorted by. Depends on `user_memory`.

use std::cmp::Ordering;

use serde_json::Value;

use super::Listed;
use crate::management::refusal::ApiError;
use crate::management::user_memory::UserHolding;

/// The number of items between two updates of the user's charge.
const COUNTED: usize = 64;

/// Items that wait to be rendered, and their bytes, which are charged.
#[derive(Debug)]
pub(in crate::management) struct Collected<'a, T> {
    pub(in crate::management) items: Vec<T>,
    bytes: usize,
    holding: &'a mut UserHolding,
}

impl<'a, T: Listed> Collected<'a, T> {
    pub(in crate::management) fn new(holding: &'a mut UserHolding) -> Self {
        Self {
            items: Vec::new(),
            bytes: 0,
            holding,
        }
    }

    /// Adds an item. Refused if the user would exceed its limit.
    pub(in crate::management) fn push(&mut self, item: T) -> Result<(), ApiError> {
        self.bytes += item.footprint();
        self.items.push(item);
        if self.items.len().is_multiple_of(COUNTED) {
            self.hold_with(0)?;
        }
        Ok(())
    }

    /// Adds all items, and charges exactly their bytes at the end.
    pub(in crate::management) fn extend(
        &mut self,
        items: impl IntoIterator<Item = T>,
    ) -> Result<(), ApiError> {
        for item in items {
            self.push(item)?;
        }
        self.hold_with(0)
    }

    /// Charges the items, and `more` bytes that are made from them.
    pub(super) fn hold_with(&mut self, more: usize) -> Result<(), ApiError> {
        self.holding.set(self.bytes + more)
    }

    /// Sorts the items by one of their fields.
    pub(super) fn sort_by_field(&mut self, field: &str) -> Result<(), ApiError> {
        let (mut keyed, mut bytes) = (Vec::new(), 0);
        for item in std::mem::take(&mut self.items) {
            let key = SortKey::of(item.field(field));
            bytes += key.bytes() + size_of::<(SortKey, T)>();
            keyed.push((key, item));
            if keyed.len().is_multiple_of(COUNTED) {
                self.hold_with(bytes)?;
            }
        }
        self.hold_with(bytes)?;
        keyed.sort_by(|(one, _), (two, _)| one.cmp(two));
        self.items = keyed.into_iter().map(|(_, item)| item).collect();
        self.hold_with(0)
    }
}

/// The rank of a value in a sorted listing: null, numbers, booleans, texts, the rest.
#[derive(Debug, PartialEq)]
enum SortKey {
    Nothing,
    Number(f64),
    Bool(bool),
    Text(String),
    Other,
}

impl SortKey {
    fn of(value: Option<Value>) -> Self {
        match value {
            None | Some(Value::Null) => Self::Nothing,
            Some(Value::Number(number)) => Self::Number(number.as_f64().unwrap_or_default()),
            Some(Value::Bool(flag)) => Self::Bool(flag),
            Some(Value::String(text)) => Self::Text(text),
            Some(Value::Array(_) | Value::Object(_)) => Self::Other,
        }
    }

    /// The bytes that it refers to.
    fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.capacity(),
            _ => 0,
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Nothing => 0,
            Self::Number(_) => 1,
            Self::Bool(_) => 2,
            Self::Text(_) => 3,
            Self::Other => 4,
        }
    }
}

impl Eq for SortKey {}

impl PartialOrd for SortKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SortKey {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(one), Self::Number(two)) => one.total_cmp(two),
            (Self::Bool(one), Self::Bool(two)) => one.cmp(two),
            (Self::Text(one), Self::Text(two)) => one.cmp(two),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use std::sync::Arc;

    use super::*;
    use crate::management::user_memory::UserHoldings;

    const PART: usize = 1 << 20;

    /// Shows little of itself, and has a long field.
    struct Long;

    impl Listed for Long {
        fn name(&self) -> &'static str {
            ""
        }

        fn render(&self) -> Value {
            Value::Null
        }

        fn field(&self, _path: &str) -> Option<Value> {
            Some("x".repeat(PART).into())
        }
    }

    #[test]
    fn what_a_listing_is_sorted_by_is_held_too() {
        let holdings = Arc::<UserHoldings>::default();
        let ada = "ada".into();
        let mut others = holdings.of(&ada);
        while others.set(others.bytes() + PART).is_ok() {}
        others.set(others.bytes() - 8 * PART).unwrap();
        let mut holding = holdings.of(&ada);
        let mut sorted = |count: usize| {
            let mut collected = Collected::new(&mut holding);
            collected.extend((0..count).map(|_| Long)).unwrap();
            collected.sort_by_field("long")
        };
        assert!(sorted(4).is_ok());
        assert!(sorted(70).is_err(), "the keys are charged to nobody");
        assert!(
            sorted(4).is_ok(),
            "what was refused is not charged any more"
        );
    }
}

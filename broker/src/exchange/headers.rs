//! Headers exchanges: compares the arguments of a binding with the headers of a message.
//!
//! `x-match` selects the mode. `all` (the default) and `any` ignore arguments whose names begin
//! with `x-`; `all-with-x` and `any-with-x` include them. `x-match` itself is never compared. An
//! argument without a value (`V`) matches any header of that name. Numbers compare by value,
//! whatever their width.
//!
//! The index files each binding under the values that it asks for: an `any` binding under all of
//! them, an `all` binding under the one that the fewest other bindings share. A message is compared
//! only with the bindings filed under one of its own headers.

use std::collections::{BTreeSet, HashMap};

use super::BindError;
use super::bindings::BindingSlot;
use super::steps::RoutingSteps;
use crate::wire::table::{Table, Value};

/// Arguments of one binding that are compared in one step.
const COMPARED_IN_A_STEP: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MatchMode {
    All,
    Any,
}

/// Returns the mode and whether `x-` arguments are compared.
fn mode(arguments: &Table) -> Result<(MatchMode, bool), BindError> {
    let Some(value) = arguments.get("x-match") else {
        return Ok((MatchMode::All, false));
    };
    let Some(bytes) = value.as_bytes() else {
        return Err(BindError::MatchType {
            kind: value.type_name(),
            value: value.to_erlang(),
        });
    };
    match bytes {
        b"all" => Ok((MatchMode::All, false)),
        b"any" => Ok((MatchMode::Any, false)),
        b"all-with-x" => Ok((MatchMode::All, true)),
        b"any-with-x" => Ok((MatchMode::Any, true)),
        other => Err(BindError::MatchValue(
            String::from_utf8_lossy(other).into_owned(),
        )),
    }
}

/// Refuses an `x-match` that is not one of the four modes.
pub(super) fn check(arguments: &Table) -> Result<(), BindError> {
    mode(arguments).map(drop)
}

/// A header value, normalised so that two are equal exactly when RabbitMQ considers them equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum HeaderTest {
    Present,
    Integer(i64),
    Float(u64),
    Exactly(Value),
}

impl HeaderTest {
    fn of(value: &Value) -> Self {
        if let Some(number) = value.as_integer() {
            return Self::Integer(number);
        }
        match value.as_float() {
            // Adding zero turns negative zero into positive zero.
            Some(number) => Self::Float((number + 0.0).to_bits()),
            None => Self::Exactly(value.clone()),
        }
    }

    fn condition_of(value: &Value) -> Self {
        match value {
            Value::Void => Self::Present,
            other => Self::of(other),
        }
    }
}

/// A header that a binding asks for: its name, and what its value must be.
type HeaderCondition = (Box<[u8]>, HeaderTest);

#[derive(Debug)]
struct HeadersBinding<D> {
    mode: MatchMode,
    conditions: Vec<HeaderCondition>,
    /// The entries of `HeadersIndex::filed` that list this binding.
    filed: Vec<HeaderCondition>,
    destination: D,
}

#[derive(Debug)]
pub(super) struct HeadersIndex<D> {
    bindings: HashMap<BindingSlot, HeadersBinding<D>>,
    filed: HashMap<Box<[u8]>, HashMap<HeaderTest, BTreeSet<BindingSlot>>>,
    /// `all` bindings without arguments to compare; they match every message.
    always: BTreeSet<BindingSlot>,
}

impl<D> Default for HeadersIndex<D> {
    fn default() -> Self {
        Self {
            bindings: HashMap::new(),
            filed: HashMap::new(),
            always: BTreeSet::new(),
        }
    }
}

impl<D: Clone> HeadersIndex<D> {
    /// Files a binding. `arguments` must have passed [`check`].
    pub(super) fn add(&mut self, slot: BindingSlot, arguments: &Table, destination: &D) {
        let (mode, with_x) = mode(arguments).unwrap_or((MatchMode::All, false));
        let counts = |name: &[u8]| name != b"x-match" && (with_x || !name.starts_with(b"x-"));
        let conditions: Vec<HeaderCondition> = arguments
            .iter()
            .filter(|(name, _)| counts(name.as_bytes()))
            .map(|(name, value)| (name.as_bytes().into(), HeaderTest::condition_of(value)))
            .collect();
        let filed = match mode {
            MatchMode::Any => conditions.clone(),
            MatchMode::All => conditions
                .iter()
                .min_by_key(|condition| self.sharing(condition))
                .cloned()
                .into_iter()
                .collect(),
        };
        for (name, wanted) in &filed {
            self.filed
                .entry(name.clone())
                .or_default()
                .entry(wanted.clone())
                .or_default()
                .insert(slot);
        }
        if mode == MatchMode::All && conditions.is_empty() {
            self.always.insert(slot);
        }
        self.bindings.insert(
            slot,
            HeadersBinding {
                mode,
                conditions,
                filed,
                destination: destination.clone(),
            },
        );
    }

    /// Returns how many bindings are filed under this value.
    fn sharing(&self, (name, wanted): &HeaderCondition) -> usize {
        self.filed
            .get(name)
            .and_then(|values| values.get(wanted))
            .map_or(0, BTreeSet::len)
    }

    pub(super) fn remove(&mut self, slot: BindingSlot) {
        let Some(binding) = self.bindings.remove(&slot) else {
            return;
        };
        self.always.remove(&slot);
        for (name, wanted) in binding.filed {
            let Some(values) = self.filed.get_mut(&name) else {
                continue;
            };
            if let Some(slots) = values.get_mut(&wanted) {
                slots.remove(&slot);
                if slots.is_empty() {
                    values.remove(&wanted);
                }
            }
            if values.is_empty() {
                self.filed.remove(&name);
            }
        }
    }

    pub(super) fn route<'a>(
        &'a self,
        headers: Option<&Table>,
        steps: &mut RoutingSteps,
        hit: &mut impl FnMut(&'a D) -> bool,
    ) {
        let found: HashMap<&[u8], HeaderTest> = headers
            .into_iter()
            .flat_map(Table::iter)
            .map(|(name, value)| (name.as_bytes(), HeaderTest::of(value)))
            .collect();
        steps.add(found.len());
        let mut test = |slot: &BindingSlot| {
            let Some(binding) = self.bindings.get(slot).filter(|_| !steps.are_too_many()) else {
                return;
            };
            steps.add(1);
            if binding.matches(&found, steps) {
                steps.report(std::iter::once(&binding.destination), hit);
            }
        };
        self.always.iter().for_each(&mut test);
        for (name, value) in &found {
            let Some(values) = self.filed.get(*name) else {
                continue;
            };
            for wanted in [&HeaderTest::Present, value] {
                values.get(wanted).into_iter().flatten().for_each(&mut test);
            }
        }
    }
}

impl<D> HeadersBinding<D> {
    fn matches(&self, found: &HashMap<&[u8], HeaderTest>, steps: &mut RoutingSteps) -> bool {
        // An `any` binding is filed under each of its values, so being found is a match.
        self.mode == MatchMode::Any
            || self
                .conditions
                .iter()
                .enumerate()
                .all(|(number, (name, wanted))| {
                    steps.add(usize::from(
                        number % COMPARED_IN_A_STEP == COMPARED_IN_A_STEP - 1,
                    ));
                    found
                        .get(&**name)
                        .is_some_and(|value| *wanted == HeaderTest::Present || wanted == value)
                })
    }
}

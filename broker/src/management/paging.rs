//! The query of every listing, as RabbitMQ has it: `page`, `page_size`, `name`, `use_regex`,
//! `sort`, `sort_reverse`, `columns`, `disable_stats`.
//!
//! A listing starts as small keys. Only the shown items are converted to JSON, unless they are
//! sorted by another field than the name. Each item becomes text before the next one is converted,
//! because a tree of all would take many times the memory.

mod collected;

use std::time::{Duration, Instant};

use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};

pub(super) use collected::Collected;

use super::refusal::ApiError;
use super::user_memory::UserHolding;
use crate::users::bounded_regex;

/// The query of a listing.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct ListingQuery {
    page: Option<String>,
    page_size: Option<String>,
    name: Option<String>,
    use_regex: Option<String>,
    sort: Option<String>,
    sort_reverse: Option<String>,
    columns: Option<String>,
    disable_stats: Option<String>,
}

const DEFAULT_PAGE_SIZE: usize = 100;
const MAX_PAGE_SIZE: usize = 500;
/// The limits of requested columns and of names in the path of a column.
const MAX_COLUMNS: usize = 64;
const MAX_PATH_DEPTH: usize = 8;
/// Bytes of a path in `sort` and of each column; a name may have four times as many.
const MAX_PATH_BYTES: usize = 256;
/// Up to this many columns, each field is computed alone; for more, the item is rendered once.
const MAX_SINGLE_COLUMNS: usize = 4;
/// The time limit for matching names against an expression.
const MATCHING: Duration = Duration::from_secs(1);

/// Something that can be listed: known by name before it is rendered.
pub(super) trait Listed {
    fn name(&self) -> &str;
    fn render(&self) -> Value;

    /// The bytes that the item takes until it is rendered.
    fn footprint(&self) -> usize {
        size_of_val(self)
    }

    /// Returns one field; `a.b` is the field `b` of the object in `a`. Does not render the rest
    /// where possible.
    fn field(&self, path: &str) -> Option<Value> {
        field(&self.render(), path).cloned()
    }
}

impl Listed for Value {
    fn name(&self) -> &str {
        self.get("name").and_then(Self::as_str).unwrap_or_default()
    }

    fn render(&self) -> Value {
        self.clone()
    }
}

enum Filter {
    All,
    Contains(String),
    Matches(regex_lite::Regex),
}

impl Filter {
    fn accepts(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Contains(part) => name.to_lowercase().contains(part),
            Self::Matches(regex) => regex.is_match(name),
        }
    }
}

impl ListingQuery {
    /// The response as JSON text, charged while it is made: a plain array, or a page with its
    /// numbers.
    pub(super) fn show<T: Listed>(
        &self,
        mut collected: Collected<'_, T>,
    ) -> Result<Vec<u8>, ApiError> {
        let page = self.page()?;
        let total = collected.items.len();
        self.check_size()?;
        self.retain_matching(&mut collected)?;
        self.order(&mut collected, page.is_some())?;
        let filtered = collected.items.len();
        let Some((page, size)) = page else {
            let mut text = Vec::new();
            self.render(&mut collected, 0..filtered, &mut text)?;
            return Ok(text);
        };
        let pages = filtered.div_ceil(size).max(1);
        if page > pages {
            let reason =
                format!("Page out of range, page: {page} page size: {size}, len: {filtered}");
            return Err(ApiError::new(
                StatusCode::BAD_REQUEST,
                "page_out_of_range",
                reason,
            ));
        }
        let start = (page - 1) * size;
        let shown = start..filtered.min(start + size);
        let numbers = json!({
            "filtered_count": filtered,
            "item_count": shown.len(),
            "page": page,
            "page_count": pages,
            "page_size": size,
            "total_count": total,
        });
        let mut text = numbers.to_string().into_bytes();
        begin_field(&mut text, "items");
        self.render(&mut collected, shown, &mut text)?;
        text.push(b'}');
        Ok(text)
    }

    /// Keeps the items whose names the query asks for.
    fn retain_matching<T: Listed>(&self, collected: &mut Collected<'_, T>) -> Result<(), ApiError> {
        let filter = self.filter()?;
        let until = Instant::now() + MATCHING;
        let mut is_late = false;
        collected.items.retain(|item| {
            is_late = is_late || Instant::now() > until;
            !is_late && filter.accepts(item.name())
        });
        if is_late {
            return Err(ApiError::bad("the search in the names takes too long"));
        }
        Ok(())
    }

    /// Sorts pages by name by default. A plain list keeps its order unless the query requests one.
    fn order<T: Listed>(
        &self,
        collected: &mut Collected<'_, T>,
        is_paged: bool,
    ) -> Result<(), ApiError> {
        match self.sort.as_deref() {
            Some(by) if by != "name" => collected.sort_by_field(by)?,
            None if !is_paged => return Ok(()),
            _ => collected
                .items
                .sort_by(|one, two| one.name().cmp(two.name())),
        }
        if self.is_reversed() {
            collected.items.reverse();
        }
        Ok(())
    }

    /// Appends the items of a part.
    fn render<T: Listed>(
        &self,
        collected: &mut Collected<'_, T>,
        part: std::ops::Range<usize>,
        text: &mut Vec<u8>,
    ) -> Result<(), ApiError> {
        let columns: Option<Vec<_>> = self.columns.as_ref().map(|all| all.split(',').collect());
        text.push(b'[');
        for place in part.clone() {
            if place > part.start {
                text.push(b',');
            }
            let item = &collected.items[place];
            let shown = match &columns {
                None => item.render(),
                Some(columns) => narrowed(item, columns),
            };
            serde_json::to_writer(&mut *text, &shown)
                .map_err(|error| ApiError::failed(error.to_string()))?;
            collected.hold_with(text.capacity())?;
        }
        text.push(b']');
        Ok(())
    }

    /// One object as JSON text, charged while it is made, with a list as its field `name`. The list
    /// may be of any length, so no tree is made of it.
    pub(super) fn show_with<T: Listed>(
        &self,
        object: Value,
        (name, items): (&str, impl IntoIterator<Item = T>),
        holding: &mut UserHolding,
    ) -> Result<Vec<u8>, ApiError> {
        let mut text = self.narrow(object)?.to_string().into_bytes();
        let mut columns = self.columns.iter().flat_map(|all| all.split(','));
        if self.columns.is_some() && !columns.any(|column| column == name) {
            return Ok(text);
        }
        let mut collected = Collected::new(holding);
        collected.extend(items)?;
        begin_field(&mut text, name);
        let all = 0..collected.items.len();
        Self::default().render(&mut collected, all, &mut text)?;
        text.push(b'}');
        Ok(text)
    }

    /// Refuses a query that would cost more than any tool needs.
    fn check_size(&self) -> Result<(), ApiError> {
        let columns = || self.columns.iter().flat_map(|columns| columns.split(','));
        let is_long =
            |text: &str| text.len() > MAX_PATH_BYTES || text.split('.').count() > MAX_PATH_DEPTH;
        let mut paths = columns().chain(self.sort.as_deref());
        let name_bytes = self.name.as_ref().map_or(0, String::len);
        if columns().count() > MAX_COLUMNS || paths.any(is_long) || name_bytes > 4 * MAX_PATH_BYTES
        {
            return Err(ApiError::bad("columns, sort or name are too long"));
        }
        Ok(())
    }

    fn page(&self) -> Result<Option<(usize, usize)>, ApiError> {
        if self.page.is_none() && self.page_size.is_none() {
            return Ok(None);
        }
        let number = |text: &Option<String>, default| match text {
            None => Some(default),
            Some(text) => text.parse::<usize>().ok().filter(|number| *number > 0),
        };
        match (
            number(&self.page, 1),
            number(&self.page_size, DEFAULT_PAGE_SIZE),
        ) {
            (Some(page), Some(size)) if size <= MAX_PAGE_SIZE => Ok(Some((page, size))),
            _ => Err(ApiError::bad("Pagination parameters are invalid")),
        }
    }

    fn filter(&self) -> Result<Filter, ApiError> {
        match self.name.as_deref().filter(|name| !name.is_empty()) {
            None => Ok(Filter::All),
            Some(pattern) if self.use_regex.as_deref() == Some("true") => {
                Ok(Filter::Matches(bounded_regex(pattern)?))
            }
            Some(part) => Ok(Filter::Contains(part.to_lowercase())),
        }
    }

    fn is_reversed(&self) -> bool {
        self.sort_reverse.as_deref() == Some("true")
    }

    /// A single object with only the columns of the query.
    pub(super) fn narrow(&self, item: Value) -> Result<Value, ApiError> {
        self.check_size()?;
        Ok(match &self.columns {
            None => item,
            Some(columns) => {
                let columns: Vec<_> = columns.split(',').collect();
                chosen(&columns, |column| field(&item, column).cloned())
            }
        })
    }
}

/// Appends a field to the JSON text of an object. The caller appends its value and the closing
/// brace, which this removes.
fn begin_field(object: &mut Vec<u8>, name: &str) {
    object.pop();
    if object.len() > 1 {
        object.push(b',');
    }
    object.extend_from_slice(format!("\"{name}\":").as_bytes());
}

/// An item with only these columns.
fn narrowed<T: Listed>(item: &T, columns: &[&str]) -> Value {
    if columns.len() <= MAX_SINGLE_COLUMNS {
        return chosen(columns, |column| item.field(column));
    }
    let whole = item.render();
    chosen(columns, |column| field(&whole, column).cloned())
}

/// `a.b` is the field `b` of the object in `a`.
fn field<'a>(item: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.')
        .try_fold(item, |value, name| value.get(name))
}

/// An object with these columns; missing ones are left out.
fn chosen(columns: &[&str], get: impl Fn(&str) -> Option<Value>) -> Value {
    let mut kept = Map::new();
    for column in columns {
        let Some(value) = get(column) else { continue };
        let mut place = &mut kept;
        let mut names = column.split('.').peekable();
        while let Some(name) = names.next() {
            if names.peek().is_none() {
                place.insert(name.to_owned(), value);
                break;
            }
            match place.entry(name).or_insert_with(|| json!({})) {
                Value::Object(inner) => place = inner,
                _ => break,
            }
        }
    }
    Value::Object(kept)
}

#[cfg(test)]
mod tests;

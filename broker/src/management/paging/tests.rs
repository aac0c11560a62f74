//! Listings of every kind of query.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use serde_json::{Value, json};

use std::sync::Arc;

use super::{ApiError, Collected, Listed, ListingQuery};
use crate::management::user_memory::{UserHolding, UserHoldings};

impl ListingQuery {
    fn text<T: Listed>(
        &self,
        items: impl IntoIterator<Item = T>,
        holding: &mut UserHolding,
    ) -> Result<Vec<u8>, ApiError> {
        let mut collected = Collected::new(holding);
        collected.extend(items)?;
        self.show(collected)
    }

    /// The response, read again.
    fn shown(&self, items: Vec<Value>) -> Result<Value, ApiError> {
        let holdings = Arc::<UserHoldings>::default();
        let text = self.text(items, &mut holdings.of(&"ada".into()))?;
        Ok(serde_json::from_slice(&text).unwrap())
    }
}

#[test]
fn a_listing_is_held_while_it_is_made_and_refused_where_its_user_holds_too_much() {
    let holdings = Arc::<UserHoldings>::default();
    let ada = "ada".into();
    let mut holding = holdings.of(&ada);
    let text = ListingQuery::default().text(items(), &mut holding).unwrap();
    assert!(holdings.of_user("ada") >= text.len());
    let mut others = holdings.of(&ada);
    while others.set(holdings.of_user("ada") + (1 << 20)).is_ok() {}
    let long = vec![json!({ "name": "x".repeat(2 << 20) })];
    assert!(ListingQuery::default().text(long, &mut holding).is_err());
}

fn items() -> Vec<Value> {
    let item = |name: &str, number: i32| {
        let owner = json!({ "name": "o", "pid": number });
        json!({ "name": name, "messages": number, "owner": owner })
    };
    vec![item("b", 5), item("Alpha", 7), item("c", 1)]
}

fn listing(query: Value) -> ListingQuery {
    serde_json::from_value(query).unwrap()
}

fn names(response: &Value) -> Vec<&str> {
    response
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["name"].as_str().unwrap())
        .collect()
}

#[test]
fn without_a_query_everything_comes_as_it_is() {
    assert_eq!(
        names(&ListingQuery::default().shown(items()).unwrap()),
        ["b", "Alpha", "c"]
    );
}

#[test]
fn an_object_with_a_long_list_is_written_and_narrowed_like_any_other() {
    let holdings = Arc::<UserHoldings>::default();
    let shown = |query: Value| -> Value {
        let list = ("list", vec![json!({ "name": "a" }), json!({ "name": "b" })]);
        let mut holding = holdings.of(&"ada".into());
        let text = listing(query).show_with(json!({ "n": 1 }), list, &mut holding);
        serde_json::from_slice(&text.unwrap()).unwrap()
    };
    let list = json!([{ "name": "a" }, { "name": "b" }]);
    assert_eq!(shown(json!({})), json!({ "n": 1, "list": list }));
    assert_eq!(shown(json!({ "columns": "n" })), json!({ "n": 1 }));
    assert_eq!(shown(json!({ "columns": "list" })), json!({ "list": list }));
}

#[test]
fn items_are_held_before_the_last_one_has_come() {
    struct Large;
    impl Listed for Large {
        fn name(&self) -> &'static str {
            ""
        }

        fn render(&self) -> Value {
            Value::Null
        }

        fn footprint(&self) -> usize {
            1 << 20
        }
    }
    let holdings = Arc::<UserHoldings>::default();
    let without_end = std::iter::repeat_with(|| Large);
    let shown = ListingQuery::default().text(without_end, &mut holdings.of(&"ada".into()));
    assert!(shown.is_err());
}

#[test]
fn a_page_tells_its_numbers() {
    let response = listing(json!({ "page": "2", "page_size": "2" }))
        .shown(items())
        .unwrap();
    assert_eq!(names(&response["items"]), ["c"]);
    for (field, number) in [
        ("filtered_count", 3),
        ("item_count", 1),
        ("page", 2),
        ("page_count", 2),
        ("page_size", 2),
        ("total_count", 3),
    ] {
        assert_eq!(response[field], number, "{field}");
    }
    let empty = listing(json!({ "page": "1" })).shown(Vec::new()).unwrap();
    assert_eq!(empty["page_count"], 1);
}

#[test]
fn pages_that_cannot_be_are_refused() {
    for query in [
        json!({ "page": "x" }),
        json!({ "page": "0" }),
        json!({ "page": "1", "page_size": "501" }),
        json!({ "page": "9" }),
    ] {
        assert!(listing(query.clone()).shown(items()).is_err(), "{query}");
    }
}

#[test]
fn names_are_filtered_by_part_or_by_expression() {
    let shown = |query| names(&listing(query).shown(items()).unwrap()).len();
    assert_eq!(shown(json!({ "name": "ALP" })), 1);
    assert_eq!(shown(json!({ "name": "^[bc]$", "use_regex": "true" })), 2);
    assert_eq!(shown(json!({ "name": "^[bc]$" })), 0);
    assert!(
        listing(json!({ "name": "(", "use_regex": "true" }))
            .shown(items())
            .is_err()
    );
}

#[test]
fn costly_queries_are_refused() {
    let costly = json!({ "name": "(((a?){30}){30}){30}x", "use_regex": "true" });
    let many = json!({ "columns": vec!["a.b"; 1600].join(",") });
    let deep = json!({ "sort": (["a"; 9].join(".")) });
    for query in [costly, many, deep] {
        assert!(listing(query.clone()).shown(items()).is_err(), "{query}");
    }
    let five = json!({ "columns": "name,messages,owner.pid,owner.name,nothing" });
    let response = listing(five).shown(items()).unwrap();
    assert_eq!(response[0]["owner"], json!({ "pid": 5, "name": "o" }));
}

/// The columns after the first 64 were left out of a single object.
#[test]
fn a_single_object_refuses_as_many_columns_as_a_listing_does() {
    let holdings = Arc::<UserHoldings>::default();
    let mut columns = vec!["other"; 64];
    columns.push("n");
    let list = ("list", vec![json!({ "name": "a" })]);
    let many = listing(json!({ "columns": columns.join(",") }));
    let mut holding = holdings.of(&"ada".into());
    let text = many.show_with(json!({ "n": 1 }), list, &mut holding);
    assert!(text.is_err(), "{text:?}");
}

#[test]
fn any_field_orders_and_columns_narrow() {
    let query = json!({ "sort": "owner.pid", "sort_reverse": "true", "columns": "name,owner.pid" });
    let response = listing(query).shown(items()).unwrap();
    assert_eq!(
        response,
        json!([
            { "name": "Alpha", "owner": { "pid": 7 } },
            { "name": "b", "owner": { "pid": 5 } },
            { "name": "c", "owner": { "pid": 1 } },
        ])
    );
    let query = json!({ "sort": "messages", "page": "1", "page_size": "1" });
    assert_eq!(
        names(&listing(query).shown(items()).unwrap()["items"]),
        ["c"]
    );
}

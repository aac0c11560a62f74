//! Runs the same script against several brokers; only the URL differs.

use serde_json::json;

use crate::support::{Place, Rabbit, Server, Wrapped};

/// Runs the script against an embedded broker, and against RabbitMQ if there is one. The second
/// argument makes names that are unique on a broker that tests share.
pub(crate) fn everywhere(script: impl Fn(&Place, &dyn Fn(&str) -> String)) {
    let place = Place::new();
    let _server = Server::start(&place);
    script(&place, &str::to_owned);
    if let Some(rabbit) = Rabbit::find() {
        let place = Place::at(&rabbit.url, Some(&rabbit.management));
        let own = ulid::Ulid::generate().to_string().to_lowercase();
        script(&place, &|name| format!("{name}{own}"));
    }
}

/// A working day on any broker; `docker` runs it in a container as well.
pub(crate) fn a_working_day(place: &Place, name: &dyn Fn(&str) -> String) {
    let (backend, frontend) = (name("backend"), name("frontend"));
    place.ok(["send", "--to", &backend, "-m", "before it opens"]);
    let mut session = Wrapped::open(place, &backend, &[]);
    session.wait_for_submission("before it opens");
    let said = place.ok(["send", "--to", &backend, "-m", "while it is open", "--wait"]);
    assert!(said.trim_end().ends_with("delivered (keyboard)"), "{said}");
    place.ok([
        "send",
        "--to",
        &frontend,
        "-m",
        "for another",
        "--from",
        &backend,
    ]);
    assert_eq!(
        place.json(["tail", &frontend, "--no-ack"])[0]["from"],
        *backend
    );
    let row = place.listed(&backend).unwrap();
    assert_eq!(
        (&row["consumers"], &row["pending"]),
        (&json!(1), &json!(0)),
        "{row}"
    );
    assert_eq!(session.leave(), 0);
    place.ok(["delete", &backend, "--yes"]);
    assert_eq!(place.json(["purge", &frontend, "--yes"])[0]["purged"], 1);
    place.ok(["delete", &frontend, "--yes"]);
}

#[test]
fn a_working_day_is_the_same_on_every_broker() {
    everywhere(a_working_day);
}

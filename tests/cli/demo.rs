//! `demo`: the whole demonstration runs and succeeds.

use crate::support::Place;

#[test]
fn the_demo_carries_a_message_each_way_and_over_a_crash() {
    let place = Place::new();
    let shown = place.ok(["demo"]);
    for part in [
        "kill -9",
        "-> bob (session attached)",
        "-> alice (no session attached",
        "* received: [cbroker peer message from=bob",
    ] {
        assert!(shown.contains(part), "{part:?} in {shown}");
    }
    assert!(
        !place.home().exists(),
        "the demo touches nothing of the user's"
    );
    assert_eq!(place.json(["demo"]).remove(0)["ok"], true);
}

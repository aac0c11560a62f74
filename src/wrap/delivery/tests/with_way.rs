//! Tests of texts that a way has and the agent does not have yet.

use super::*;
use crate::wrap::ways::Refusal;

#[test]
fn a_way_that_is_open_and_says_that_it_does_not_reach_the_session_is_not_asked_without_end() {
    let mut play = Play::claude_by(DeliveryMode::Plugin);
    play.deliveries.open(Way::Plugin, false);
    play.offer("x");
    for _ in 0..10 {
        let number = play.last_key();
        play.deliveries
            .not_taken(number, "elsewhere", Refusal::Elsewhere);
        play.run();
    }
    assert_eq!(play.ways_used(), [Way::Plugin; 2]);
    assert_eq!(play.deliveries.disabled_ways(), [Way::Plugin]);
}

//! Queues of sessions that exist without their binding: `send` makes it, and nothing is lost.

use crate::client;
use crate::everywhere::everywhere;
use crate::support::Place;

/// The texts that wait in a queue.
fn waiting(place: &Place, name: &str) -> Vec<String> {
    let envelopes = place.json(["tail", name, "--no-ack"]);
    let texts = envelopes.iter().map(|envelope| &envelope["message"]);
    texts
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_message_to_a_queue_that_has_lost_its_binding_waits_there() {
    everywhere(|place, name| {
        let to = name("unbound");
        client::make_queue(place, &to);
        let url = client::endpoint(place).secret_url();
        client::unbind(&url, &to);
        let sent = place.json(["send", "--to", &to, "-m", "found"]).remove(0);
        assert_eq!(sent["new"], false, "{sent}");
        let story = place.ok(["why", sent["id"].as_str().unwrap()]);
        assert!(story.contains("confirmed"), "{story}");
        assert_eq!(waiting(place, &to), ["found"]);
    });
}

#[test]
fn a_message_to_a_queue_that_another_program_made_waits_there() {
    everywhere(|place, name| {
        // The exchange is there.
        client::make_queue(place, &name("other"));
        let to = name("bare");
        let url = client::endpoint(place).secret_url();
        client::make_bare_queue(&url, &to);
        place.ok(["send", "--to", &to, "-m", "found"]);
        assert_eq!(waiting(place, &to), ["found"]);
    });
}

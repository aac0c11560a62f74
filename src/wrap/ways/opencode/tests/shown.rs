//! Tests of which session is on the screen.

use super::*;

impl Fake {
    fn title(&self, id: &str, title: &str) {
        let info = json!({"id": id, "title": title});
        self.send("session.updated", &json!({"sessionID": id, "info": info}));
    }

    fn delete(&self, id: &str) {
        self.send("session.deleted", &json!({"sessionID": id}));
    }
}

#[tokio::test]
async fn of_two_sessions_of_one_title_the_one_that_gets_a_prompt_is_shown() {
    // A switch between them changes nothing that is seen: a message began a turn in the hidden one.
    let (mut fake, way, mut reports) = started("204 No Content").await;
    fake.title("s1", "Find a bug");
    fake.set_status("busy");
    while reports.next().await != WayReport::Sign(AgentSign::TurnBegan) {}
    way.title_changed("OC | Find a bug");
    fake.begin_session("s0");
    fake.title("s0", "Find a bug");
    let busy = json!({"sessionID": "s0", "status": {"type": "busy"}});
    fake.send("session.status", &busy);
    while reports.next().await != WayReport::Sign(AgentSign::TurnBegan) {}
    assert!(way.deliver(submission(Timing::Next)));
    let shown = ("/tui/select-session".to_owned(), json!({"sessionID": "s0"}));
    assert_eq!(fake.request().await, shown);
    assert_eq!(fake.request().await.0, "/session/s0/prompt_async");
    // The person chose one of them, and it is not known which.
    way.title_changed("OC | Something else");
    assert_eq!(
        reports.next_result().await,
        WayReport::Closed(NO_SESSION.to_owned())
    );
    way.title_changed("OC | Find a bug");
    let prompt = json!({"id": "m1", "role": "user"});
    let prompt = json!({"sessionID": "s1", "info": prompt});
    // The title may be seen after the event.
    let opened = loop {
        fake.send("message.updated", &prompt);
        let next = tokio::time::timeout(Duration::from_millis(200), reports.next_result());
        if let Ok(report) = next.await {
            break report;
        }
    };
    assert_eq!(opened, WayReport::Open);
    drop(way);
}

#[tokio::test]
async fn a_session_without_a_title_is_shown_before_each_prompt() {
    // The person may have left it for the first screen, which has the same title.
    let (mut fake, way, mut reports) = at_the_first_screen("204 No Content", false).await;
    assert_eq!(reports.next_result().await, WayReport::Open);
    for number in [1, 2] {
        let again = Submission {
            number,
            ..submission(Timing::Idle)
        };
        assert!(way.deliver(again));
        let shown = ("/tui/select-session".to_owned(), json!({"sessionID": "s9"}));
        assert_eq!(fake.request().await, shown);
        assert_eq!(fake.request().await.0, "/session/s9/prompt_async");
    }
    drop(way);
}

#[tokio::test]
async fn texts_of_a_deleted_session_are_lost() {
    // They were waited for as long as the agent ran, and all later messages with them.
    let (mut fake, way, mut reports) = started("204 No Content").await;
    assert!(way.deliver(submission(Timing::Idle)));
    fake.request().await;
    fake.delete("s1");
    assert_eq!(reports.next_result().await, WayReport::Lost(1));
    drop(way);
}

#[tokio::test]
async fn the_turn_of_a_session_that_the_person_left_is_over() {
    // Its end was not reported, and the keyboard waited for it.
    let (fake, way, mut reports) = started("204 No Content").await;
    fake.title("s1", "Find a bug");
    fake.set_status("busy");
    while reports.next().await != WayReport::Sign(AgentSign::TurnBegan) {}
    way.title_changed("OC | Something else");
    assert_eq!(reports.next().await, WayReport::Sign(AgentSign::Answered));
    assert_eq!(reports.next().await, WayReport::Sign(AgentSign::TurnEnded));
    way.title_changed("OC | Find a bug");
    while reports.next().await != WayReport::Sign(AgentSign::TurnBegan) {}
    drop(fake);
}

#[tokio::test]
async fn a_dialog_is_reported_again_when_its_session_is_shown_again() {
    // Its end was reported instead, and the keyboard could type into the dialog.
    let (fake, way, mut reports) = started("204 No Content").await;
    fake.title("s1", "Find a bug");
    let asked = json!({"sessionID": "s1", "permission": "bash"});
    fake.send("permission.asked", &asked);
    let asks = WayReport::Sign(AgentSign::Asks("bash".to_owned()));
    while reports.next().await != asks {}
    way.title_changed("OC | Something else");
    while reports.next().await != WayReport::Sign(AgentSign::Answered) {}
    way.title_changed("OC | Find a bug");
    while reports.next().await != asks {}
    drop(fake);
}

//! The conversation with Codex's daemon: finds the thread in the terminal, and sends texts to it.

use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::{Refusal, Submission, SubmissionNumber, Timing};
use super::link::{Link, LinkError, LinkEvent, RequestError, RequestKind};
use super::threads::{Status, Thread};
use super::{InFlight, Progress, Work};

impl Work {
    pub(super) async fn handle_link_event(&mut self, event: LinkEvent) {
        let done = match event {
            LinkEvent::Notification(method, params) => {
                self.handle_notification(&method, &params).await
            }
            LinkEvent::Response(request, answer) => self.handle_response(request, answer).await,
        };
        match done {
            Ok(()) => self.report_and_send_next().await,
            Err(error) => self.disconnect(&error).await,
        }
    }

    async fn handle_notification(&mut self, method: &str, params: &Value) -> Result<(), LinkError> {
        let id = params["threadId"].as_str().unwrap_or_default();
        match method {
            "thread/started" => self.threads.learn(&params["thread"]),
            "thread/status/changed" => {
                let is_to_read = self.threads.set_status(id, &params["status"]);
                if let Some(link) = self.link.as_mut().filter(|_| is_to_read) {
                    let params = json!({"threadId": id});
                    link.request(RequestKind::Read, "thread/read", &params)
                        .await?;
                }
            }
            "thread/closed" | "thread/deleted" => self.threads.remove(id),
            _ => {}
        }
        Ok(())
    }

    async fn handle_response(
        &mut self,
        request: RequestKind,
        answer: Result<Value, RequestError>,
    ) -> Result<(), LinkError> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        match (request, answer) {
            (RequestKind::Hello, Ok(_)) => {
                link.send_initialized().await?;
                link.request(RequestKind::Loaded, "thread/loaded/list", &json!({}))
                    .await?;
            }
            (RequestKind::Loaded, Ok(loaded)) => {
                for id in loaded["data"].as_array().into_iter().flatten() {
                    let params = json!({"threadId": id});
                    link.request(RequestKind::Read, "thread/read", &params)
                        .await?;
                }
            }
            (RequestKind::Read, Ok(read)) => self.threads.learn(&read["thread"]),
            (RequestKind::Turns(number), Ok(turns)) => {
                self.steer(number, &turns["data"][0]).await?;
            }
            (RequestKind::Start(number) | RequestKind::Steer(number), Ok(_)) => {
                self.set_stage(number, Progress::Sent(Instant::now()));
                self.report_hand_over(number).await;
            }
            (RequestKind::Start(number), Err(error)) => {
                let why = error.to_string();
                self.not_taken(number, why, Refusal::Failed).await;
            }
            // No turn to steer it into: it waits for the thread to be idle.
            (RequestKind::Turns(number) | RequestKind::Steer(number), Err(_)) => {
                self.proof.forget(number);
                self.set_stage(number, Progress::Waits(true));
            }
            (RequestKind::Hello | RequestKind::Loaded | RequestKind::Read, Err(_)) => {}
        }
        Ok(())
    }

    /// Steers a text into the running turn, if it still runs.
    async fn steer(&mut self, number: SubmissionNumber, turn: &Value) -> Result<(), LinkError> {
        let (Some(link), Some(text), Some(thread)) = (
            &mut self.link,
            self.in_flight.get(&number),
            self.threads.current(),
        ) else {
            return Ok(());
        };
        if turn["status"] != "inProgress" {
            self.set_stage(number, Progress::Waits(true));
            return Ok(());
        }
        let Submission { ids, text, .. } = &text.submission;
        self.proof
            .expect(number, ids.clone(), Some(&thread.rollout));
        let params =
            json!({"threadId": thread.id, "expectedTurnId": turn["id"], "input": input(text)});
        link.request(RequestKind::Steer(number), "turn/steer", &params)
            .await
    }

    pub(super) async fn start_next(&mut self, thread: &Thread) -> Result<(), LinkError> {
        let is_out = |text: &InFlight| !matches!(text.stage, Progress::Waits(_));
        let mut texts = self.in_flight.values();
        if texts.any(is_out) {
            return Ok(());
        }
        let (Some(link), Some((&number, text))) =
            (&mut self.link, self.in_flight.iter_mut().next())
        else {
            return Ok(());
        };
        let Submission {
            ids,
            text: words,
            timing,
            ..
        } = &text.submission;
        let is_busy = matches!(thread.status, Status::Active(_));
        if !is_busy {
            self.proof
                .expect(number, ids.clone(), Some(&thread.rollout));
            let params = json!({"threadId": thread.id, "input": input(words)});
            text.stage = Progress::Asked(Instant::now());
            return link
                .request(RequestKind::Start(number), "turn/start", &params)
                .await;
        }
        if *timing != Timing::Idle && text.stage == Progress::Waits(false) {
            let params = json!({"threadId": thread.id, "limit": 1, "sortDirection": "desc"});
            text.stage = Progress::Asked(Instant::now());
            link.request(RequestKind::Turns(number), "thread/turns/list", &params)
                .await?;
        }
        Ok(())
    }
}

/// The next event of the daemon; waits forever without a link.
pub(super) async fn next(link: &mut Option<Link>) -> Result<LinkEvent, LinkError> {
    match link {
        Some(link) => link.next().await,
        None => std::future::pending().await,
    }
}

fn input(text: &str) -> Value {
    json!([{"type": "text", "text": text}])
}

//! The talk with Codex's daemon: which thread is in the terminal, and how a text is given to it.

use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::{Refusal, Submission, SubmissionNumber, Timing};
use super::link::{Link, LinkError, LinkEvent, Question, RequestError};
use super::threads::{Status, Thread};
use super::{InFlight, Progress, Work};

impl Work {
    pub(super) async fn handle_link(&mut self, event: LinkEvent) {
        let done = match event {
            LinkEvent::Event(method, params) => {
                self.happened(&method, &params);
                Ok(())
            }
            LinkEvent::Answer(question, answer) => self.answered(question, answer).await,
        };
        match done {
            Ok(()) => self.move_on().await,
            Err(error) => self.unlink(&error).await,
        }
    }

    fn happened(&mut self, method: &str, params: &Value) {
        let id = params["threadId"].as_str().unwrap_or_default();
        match method {
            "thread/started" => self.threads.learn(&params["thread"]),
            "thread/status/changed" => {
                self.threads.does(id, &params["status"]);
            }
            "thread/closed" | "thread/deleted" => self.threads.closed(id),
            _ => {}
        }
    }

    async fn answered(
        &mut self,
        question: Question,
        answer: Result<Value, RequestError>,
    ) -> Result<(), LinkError> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        match (question, answer) {
            (Question::Hello, Ok(_)) => {
                link.greeted().await?;
                link.ask(Question::Loaded, "thread/loaded/list", &json!({}))
                    .await?;
            }
            (Question::Loaded, Ok(loaded)) => {
                for id in loaded["data"].as_array().into_iter().flatten() {
                    let params = json!({"threadId": id});
                    link.ask(Question::Read, "thread/read", &params).await?;
                }
            }
            (Question::Read, Ok(read)) => self.threads.learn(&read["thread"]),
            (Question::Turns(number), Ok(turns)) => self.steer(number, &turns["data"][0]).await?,
            (Question::Start(number) | Question::Steer(number), Ok(_)) => {
                self.set(number, Progress::Sent(Instant::now()));
            }
            (Question::Start(number), Err(error)) => {
                let why = error.to_string();
                self.not_taken(number, why, Refusal::Failed).await;
            }
            // No turn to bring it into: it waits for the thread to be idle.
            (Question::Turns(number) | Question::Steer(number), Err(_)) => {
                self.proof.forget(number);
                self.set(number, Progress::Waits(true));
            }
            (Question::Hello | Question::Loaded | Question::Read, Err(_)) => {}
        }
        Ok(())
    }

    /// Brings a text into the turn that runs, if it still does.
    async fn steer(&mut self, number: SubmissionNumber, turn: &Value) -> Result<(), LinkError> {
        let (Some(link), Some(text), Some(thread)) = (
            &mut self.link,
            self.in_flight.get(&number),
            self.threads.current(),
        ) else {
            return Ok(());
        };
        if turn["status"] != "inProgress" {
            self.set(number, Progress::Waits(true));
            return Ok(());
        }
        let Submission { ids, text, .. } = &text.submission;
        self.proof
            .expect(number, ids.clone(), Some(&thread.rollout));
        let params =
            json!({"threadId": thread.id, "expectedTurnId": turn["id"], "input": input(text)});
        link.ask(Question::Steer(number), "turn/steer", &params)
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
                .ask(Question::Start(number), "turn/start", &params)
                .await;
        }
        if *timing != Timing::Idle && text.stage == Progress::Waits(false) {
            let params = json!({"threadId": thread.id, "limit": 1, "sortDirection": "desc"});
            text.stage = Progress::Asked(Instant::now());
            link.ask(Question::Turns(number), "thread/turns/list", &params)
                .await?;
        }
        Ok(())
    }
}

/// The next event of the daemon; never, where there is no link.
pub(super) async fn next(link: &mut Option<Link>) -> Result<LinkEvent, LinkError> {
    match link {
        Some(link) => link.next().await,
        None => std::future::pending().await,
    }
}

fn input(text: &str) -> Value {
    json!([{"type": "text", "text": text}])
}

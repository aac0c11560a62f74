//! The steps of each phase. One function a phase; each looks at what is known of the
//! agent at `now` and either does the next thing or says when to ask again.
//!
//! Relies on the types of [`super`].

use std::time::Instant;

use super::{Delivery, Hold, Injection, LOST, PATIENCE, Phase, Step, TURN_SIGN, Ticket, Way, text};
use crate::wrap::agents::reading::Input;
use crate::wrap::attention::{Attention, Verdict};

impl Injection {
    pub(super) fn step_waiting(&mut self, agent: &Attention, now: Instant) -> Step {
        if let Some(keys) = self.kept.release() {
            return Step::Replay(keys);
        }
        let Some(way) = self.way(agent, now) else {
            return Step::Wait(self.again(agent, now));
        };
        let tickets = self.queue.next(if agent.takes_paste() || way == Way::Hook {
            self.batch
        } else {
            1
        });
        self.phase = Phase::Noting {
            tickets: tickets.clone(),
            is_synced: false,
            way,
        };
        Step::Note(tickets)
    }

    pub(super) fn step_noted(&mut self, agent: &Attention, now: Instant) -> Step {
        let Phase::Noting { tickets, way, .. } = std::mem::replace(&mut self.phase, Phase::Waiting)
        else {
            return Step::Wait(None);
        };
        let still = match way {
            Way::Keyboard => agent.verdict(now) == Verdict::Free && !self.is_paused,
            Way::Hook => self.hook_is_armed && !self.is_paused,
        };
        if !still {
            return self.step_waiting(agent, now);
        }
        self.hold = None;
        let text = self.queue.text(&tickets);
        match way {
            Way::Hook => {
                self.hook_is_armed = false;
                self.phase = Phase::Handed {
                    tickets: tickets.clone(),
                };
                Step::Hand(tickets, text)
            }
            Way::Keyboard => {
                let manner = if agent.takes_paste() {
                    text::Manner::Pasted
                } else {
                    text::Manner::Typed
                };
                self.phase = Phase::Pasted {
                    tickets,
                    out: None,
                    redrawn: false,
                };
                Step::Write(text::typed(&text, manner))
            }
        }
    }

    /// The way by which the first waiting message may go in now. Remembers why none.
    fn way(&mut self, agent: &Attention, now: Instant) -> Option<Way> {
        if self.queue.first_free().is_none() {
            self.hold = None;
            return None;
        }
        let hold = self.reason(agent, now);
        let Some(hold) = hold else {
            return Some(Way::Keyboard);
        };
        let is_hook_time = may_go_by_hook(&hold);
        // Time spent on what the hook does not help against does not count.
        let since = match &self.hold {
            Some((before, since)) if may_go_by_hook(before) || !is_hook_time => *since,
            _ => now,
        };
        let is_patient = now < since + PATIENCE && self.delivery != Delivery::Hook;
        self.hold = Some((hold, since));
        let may_hook =
            matches!(self.delivery, Delivery::Auto | Delivery::Hook) && !self.is_off(Way::Hook);
        (may_hook && self.hook_is_armed && is_hook_time && !is_patient && !self.is_paused)
            .then_some(Way::Hook)
    }

    fn reason(&self, agent: &Attention, now: Instant) -> Option<Hold> {
        if self.is_paused {
            return Some(Hold::Paused);
        }
        match self.delivery {
            Delivery::Notify => return Some(Hold::Notify),
            Delivery::Hook | Delivery::Auto | Delivery::Pty => {}
        }
        match agent.verdict(now) {
            Verdict::Hold(hold, _) => Some(hold),
            Verdict::Free if self.is_off(Way::Keyboard) || self.delivery == Delivery::Hook => {
                Some(Hold::NoWay)
            }
            Verdict::Free => None,
        }
    }

    /// When a waiting message is worth another look though nothing happens.
    fn again(&self, agent: &Attention, now: Instant) -> Option<Instant> {
        let (_, since) = self.hold.as_ref()?;
        let by_verdict = match agent.verdict(now) {
            Verdict::Hold(_, again) => again,
            Verdict::Free => None,
        };
        let patience = Some(*since + PATIENCE).filter(|&end| self.hook_is_armed && end > now);
        [by_verdict, patience].into_iter().flatten().min()
    }

    pub(super) fn step_pasted(&mut self, agent: &Attention, now: Instant) -> Step {
        let pace = agent.profile().pace;
        let knows = agent.profile().knows_its_prompt();
        let Phase::Pasted {
            tickets,
            out,
            redrawn,
        } = &mut self.phase
        else {
            return Step::Wait(None);
        };
        let too_long = self.kept.limit();
        if too_long.is_some_and(|limit| now >= limit) {
            let tickets = std::mem::take(tickets);
            return self.strand(tickets, Hold::Mixed, now);
        }
        let Some(out) = *out else {
            return Step::Wait(too_long);
        };
        let shows_it = !knows || matches!(agent.input(), Input::Holds(_));
        *redrawn |= agent.last_output() >= out && shows_it;
        // A program that shows nothing of what is typed cannot be waited for.
        let is_blind = !knows && now >= out + TURN_SIGN;
        let is_lost = knows && now >= out + LOST;
        if !*redrawn && is_lost {
            let tickets = std::mem::take(tickets);
            self.failures[Way::Keyboard as usize] += 1;
            return self.strand(tickets, Hold::UnknownScreen, now);
        }
        if !*redrawn && !is_blind {
            let next = out + if knows { LOST } else { TURN_SIGN };
            return Step::Wait(Some(too_long.map_or(next, |limit| limit.min(next))));
        }
        let ready = (out + pace.before_enter).max(agent.last_output() + pace.quiet_before_enter);
        if now < ready {
            return Step::Wait(Some(ready));
        }
        let obstacle = agent
            .obstacle()
            .or(agent.is_busy().then_some(Hold::Busy))
            .or((!shows_it).then_some(Hold::UnknownScreen));
        if let Some(obstacle) = obstacle {
            // Whatever opened took the text or hides it. No Enter: it would be an answer.
            self.hold = Some((obstacle, now));
            let is_lost =
                matches!(agent.input(), Input::Empty) && agent.verdict(now) == Verdict::Free;
            if is_lost && now >= out + LOST {
                let tickets = std::mem::take(tickets);
                return self.strand(tickets, Hold::UnknownScreen, now);
            }
            return Step::Wait(Some(too_long.unwrap_or(now + TURN_SIGN)));
        }
        self.hold = None;
        let tickets = std::mem::take(tickets);
        self.phase = Phase::Entered {
            tickets,
            out: None,
            presses: 1,
        };
        Step::Write(b"\r".to_vec())
    }

    fn strand(&mut self, tickets: Vec<Ticket>, reason: Hold, now: Instant) -> Step {
        let was_entered = matches!(self.phase, Phase::Entered { .. });
        self.phase = Phase::Stranded {
            tickets: tickets.clone(),
            was_entered,
            since: now,
        };
        Step::Stuck(tickets, reason)
    }

    pub(super) fn step_entered(&mut self, agent: &Attention, now: Instant) -> Step {
        let Phase::Entered {
            tickets,
            out,
            presses,
        } = &mut self.phase
        else {
            return Step::Wait(None);
        };
        let Some(out) = *out else {
            return Step::Wait(None);
        };
        let unheard = self.queue.enter(tickets);
        if !unheard.is_empty() {
            return Step::Entered(unheard);
        }
        if !agent.profile().knows_its_prompt() {
            // No sign to wait for, and never a second Enter.
            let settled = out + agent.profile().pace.before_enter;
            if now < settled {
                return Step::Wait(Some(settled));
            }
            self.begin();
            return self.step(agent, now);
        }
        let late = out + TURN_SIGN;
        let is_taken = agent.last_output() >= out && *agent.input() == Input::Empty;
        if is_taken || (now >= late && agent.is_busy()) {
            self.begin();
            return self.step(agent, now);
        }
        if now < late {
            return Step::Wait(Some(late));
        }
        let is_still_ours = matches!(agent.input(), Input::Holds(_))
            && agent.obstacle().is_none()
            && !self.kept.has_keys();
        if is_still_ours && *presses == 1 {
            self.phase = Phase::Entered {
                tickets: std::mem::take(tickets),
                out: None,
                presses: 2,
            };
            return Step::Write(b"\r".to_vec());
        }
        let tickets = std::mem::take(tickets);
        self.failures[Way::Keyboard as usize] += 1;
        self.strand(tickets, Hold::EnterNotTaken, now)
    }

    pub(super) fn step_stranded(&mut self, agent: &Attention, now: Instant) -> Step {
        if let Some(keys) = self.kept.release() {
            return Step::Replay(keys);
        }
        let Phase::Stranded { since, .. } = &self.phase else {
            return Step::Wait(None);
        };
        // What was seen before the text went in says nothing about it.
        let settled = *since + LOST;
        let is_fresh = agent.last_output() >= *since || now >= settled;
        let is_empty = *agent.input() == Input::Empty || !agent.profile().knows_its_prompt();
        let is_gone = is_fresh && is_empty && agent.verdict(now) == Verdict::Free;
        if !is_gone {
            let again = match agent.verdict(now) {
                Verdict::Hold(_, again) => again,
                Verdict::Free => Some(settled).filter(|&settled| settled > now),
            };
            return Step::Wait(again);
        }
        let Phase::Stranded {
            tickets,
            was_entered,
            ..
        } = std::mem::replace(&mut self.phase, Phase::Waiting)
        else {
            return Step::Wait(None);
        };
        if was_entered {
            self.queue.finish(&tickets);
            return Step::Ended(tickets);
        }
        self.queue.repeat(&tickets);
        self.step(agent, now)
    }
}

/// Rule 8: what the way without the keyboard gets past.
fn may_go_by_hook(hold: &Hold) -> bool {
    matches!(
        hold,
        Hold::Draft | Hold::Dialog(_) | Hold::Busy | Hold::NoWay
    )
}

//! Surveys: before the issuer of a write decides it, R owners are asked what they have of the key.
//! What they answer, and what the issuer's own record has when the write is carried out, is all
//! that the write can cover.

use super::common::{Common, Heard};
use super::env::Env;
use super::plan::Plan;
use super::read::Merged;
use crate::message::{Body, Rejection, RequestId, Response};
use crate::node::io::Io;
use crate::types::{Key, MILLI, Micros, NodeId, Time};

/// A sloppy write without a condition waits for late owners for this share of its deadline, as a
/// divisor, and then covers what it could read.
const SURVEY_SHARE: u32 = 4;
/// Share of the deadline, as a divisor, after which the node that forwarded a write is asked again,
/// and the bounds of that time.
const ASK_SHARE: u64 = 10;
const ASK_PAUSE: (Micros, Micros) = (Micros::from_millis(10), Micros::from_millis(500));
/// Longest time that it waits.
const SURVEY_TIMEOUT: Micros = Micros::from_millis(500);

/// A survey in progress. Its quorum is R owners; fallbacks are not asked.
#[derive(Clone, Debug)]
pub(super) struct SurveyOp {
    pub(super) common: Common,
    pub(super) key: Key,
    pub(super) merged: Merged,
    /// The write that it is made for.
    pub(super) plan: Plan,
    /// When a write that may go on with fewer answers does so; `None` if it may not.
    pub(super) content_at: Option<Time>,
    /// The node that forwarded the write and has not confirmed yet that its client waits for it:
    /// the request may have been on its way for longer than the client waits.
    pub(super) unconfirmed: Option<Unconfirmed>,
}

/// A node that is asked whether its client still waits, again and again until it says so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unconfirmed {
    pub(super) node: NodeId,
    /// The id under which it forwarded the request.
    pub(super) forwarded: RequestId,
    /// When it is asked next.
    pub(super) ask_at: Time,
}

/// What a survey has come to.
pub(super) enum Surveyed {
    /// Owners are still waited for.
    Waits,
    /// The write can be decided.
    Complete,
    /// Too few owners are left to answer.
    Refused(Response),
}

impl SurveyOp {
    /// Until when a sloppy write without a condition waits for answers.
    pub(super) fn timeout(now: Time, timeout_ms: u32) -> Time {
        now + (u64::from(timeout_ms) * MILLI / u64::from(SURVEY_SHARE)).min(SURVEY_TIMEOUT)
    }

    /// Asks up to `count` further owners.
    pub(super) fn query_more(&mut self, now: Time, count: u8, env: &mut Env, io: &mut Io) {
        let (to, _) = self.common.pick(now, count, env);
        self.common.expect_copies(now, &to, env);
        io.out.send(to, self.common.request_id, Body::Read { key: self.key.clone() });
    }

    /// Handles a node's answer, which came `took` after the query.
    pub(super) fn answer(
        &mut self,
        from: NodeId,
        took: Option<Micros>,
        body: Body,
        env: &mut Env,
    ) -> Heard {
        match body {
            Body::Copy { object, authoritative, gc_epoch, .. } => {
                if let Some(took) = took {
                    env.recent.read(from, took);
                }
                self.merged.add(from, object, gc_epoch);
                self.common.quorum_tracker.answer(from, authoritative);
                Heard::Progress
            }
            Body::Failed(rejection) => Heard::Lost(rejection),
            _ => Heard::Nothing,
        }
    }

    /// Says whether the write can be decided now; queries as many more owners as are missing.
    pub(super) fn step(&mut self, now: Time, env: &mut Env, io: &mut Io) -> Surveyed {
        self.ask(now, env, io);
        if self.common.quorum_tracker.reached() {
            return if self.unconfirmed.is_none() { Surveyed::Complete } else { Surveyed::Waits };
        }
        let missing = self.common.quorum_tracker.missing();
        if missing > 0 {
            self.query_more(now, missing, env, io);
        }
        let hopeless = self.common.is_hopeless() && self.common.open.is_empty();
        match self.content_at {
            Some(at) if hopeless || at <= now => {
                if self.unconfirmed.is_none() {
                    Surveyed::Complete
                } else {
                    Surveyed::Waits
                }
            }
            Some(at) => {
                // A question that was due then may have taken the timer with it.
                env.timers.insert((at, self.common.request_id));
                Surveyed::Waits
            }
            None if self.common.is_hopeless() => {
                Surveyed::Refused(self.common.unreachable(&env.config.members))
            }
            _ => Surveyed::Waits,
        }
    }

    /// The answer at the deadline: nothing was written.
    pub(super) fn expire(&self, env: &Env) -> Response {
        match self.unconfirmed {
            Some(_) => Response::Refused(Rejection::GivenUp),
            None => self.common.no_quorum(&env.config.members),
        }
    }

    /// Asks the node that forwarded the write, when that is due.
    fn ask(&mut self, now: Time, env: &mut Env, io: &mut Io) {
        let Some(unconfirmed) = self.unconfirmed.as_mut().filter(|it| it.ask_at <= now) else {
            return;
        };
        let pause = u64::from(self.common.timeout_ms) * MILLI / ASK_SHARE;
        unconfirmed.ask_at = now + pause.clamp(ASK_PAUSE.0, ASK_PAUSE.1);
        env.timers.insert((unconfirmed.ask_at, self.common.request_id));
        let query = Body::QueryWanted(unconfirmed.forwarded);
        io.out.send_to(unconfirmed.node, self.common.request_id, query);
    }

    /// Queries one more owner for each answer that is late.
    pub(super) fn hedge(&mut self, now: Time, env: &mut Env, io: &mut Io) {
        let late = self.common.mark_late(now).len();
        if late > 0 && self.common.quorum_tracker.unasked().next().is_some() {
            self.query_more(now, late as u8, env, io);
        }
    }
}

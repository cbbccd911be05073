use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{debug, warn};

use super::place::Lead;
use crate::{
    batch::{
        Batchable, Unbatchable,
        error::CallFailed,
        explain::Closed,
        metrics::Handles,
        queue::{Batch, Member, Outcome},
        search::Search,
        shared::Shared,
    },
    deadline::Expired,
    inference::{Error, Infer, Response, split},
};

/// The members of a call that has ended, until each has its own answer.
pub(super) struct Answers<S> {
    pub(super) shared: Arc<Shared<S>>,
    pub(super) batch: Batch,
    pub(super) result: Result<Response, Error>,
    pub(super) sent: Instant,
    pub(super) upstream: Duration,
}

impl<S> Answers<S> {
    pub(super) fn deliver(self) {
        let Self {
            shared,
            batch,
            result,
            sent,
            upstream,
        } = self;
        shared.record(
            batch
                .members
                .iter()
                .map(|member| (sent - member.arrived) + upstream),
        );
        let (rows, limit, closed) = (batch.rows, batch.limit, batch.closed);
        let count = batch.members.len();
        let report = move |response: &mut Response, member: &Member| {
            response.report.batch_rows = Some(rows);
            response.report.batch_members = Some(count);
            response.report.batch_limit = Some(limit);
            response.report.batch_reason = Some(closed.name());
            response.report.queue = Some(sent - member.arrived);
            response.report.upstream = Some(upstream);
        };
        let mut members = batch.members;
        if members.len() <= 1 {
            if let Some(member) = members.pop() {
                let result = result.map(|mut response| {
                    report(&mut response, &member);
                    response
                });
                member.answer(result);
            }
            return;
        }
        let response = match result {
            Ok(response) => response,
            Err(cause) => {
                let failed = CallFailed::new(cause);
                members
                    .into_iter()
                    .for_each(|member| member.refuse(failed.clone()));
                return;
            }
        };
        let rows: Vec<usize> = members.iter().map(|member| member.rows).collect();
        match split(response, &rows) {
            Ok(parts) => {
                for (member, mut part) in members.into_iter().zip(parts) {
                    part.id = member.request.head.id.clone();
                    report(&mut part, &member);
                    member.answer(Ok(part));
                }
            }
            Err(uneven) => {
                shared.metrics.uneven.inc();
                shared
                    .capability
                    .set(Batchable::No(Unbatchable::UnevenOutput));
                warn!(
                    reason = %uneven,
                    "the answer to a batch cannot be divided: the model's requests go alone from here on"
                );
                members.into_iter().for_each(|member| member.release());
            }
        }
    }
}

impl<S: Infer + 'static> Lead<S> {
    /// Takes the members of a call into the search for the guilty if one of them may be the cause
    /// of its failure; or hands them back, to be told what came of the call.
    pub(super) fn judge(
        &mut self,
        batch: Batch,
        result: Result<Response, Error>,
        contents: Option<u128>,
    ) -> Option<(Batch, Result<Response, Error>)> {
        if self.beside && self.search.is_none() {
            return Some((batch, result));
        }
        let error = match (&result, &mut self.search) {
            (Ok(_), None) => return Some((batch, result)),
            (Ok(_), Some(search)) => {
                search.answered();
                let members = batch.members.len();
                self.shared.state.lock().budget.part_answered(members);
                return Some((batch, result));
            }
            (Err(error), _) => error,
        };
        let verdict = self.shared.isolation.blames_a_row(error);
        match &mut self.search {
            None => {
                let Some(verdict) = verdict.filter(|_| batch.members.len() > 1) else {
                    return Some((batch, result));
                };
                if !self.shared.state.lock().budget.allows_a_search() {
                    return Some((batch, result));
                }
                self.shared.metrics.halved.inc();
                debug!(
                    batch.members = batch.members.len(),
                    code = %verdict.code(),
                    "halved a batch that failed"
                );
                let failed = CallFailed::new(result.err()?);
                self.search = Some(Box::new(Search::new(batch.members, verdict, failed)));
                None
            }
            Some(search) => {
                let is_spent = self.shared.state.lock().budget.part_failed();
                let Some(verdict) = verdict else {
                    return Some((batch, result));
                };
                if is_spent && !search.has_answered() {
                    search.stop();
                }
                if let Some(contents) = contents {
                    search.failed_alone(contents, &verdict);
                    return Some((batch, result));
                }
                search.failed(batch.members, &verdict, CallFailed::new(result.err()?));
                None
            }
        }
    }

    /// Takes the next part of a batch that failed, without members that have left or whose
    /// deadlines have passed.
    pub(super) fn part(&mut self, now: Instant) -> Option<Batch> {
        let search = self.search.as_mut()?;
        if self.shared.most_rows().is_none() {
            search.give_up().for_each(|(member, _)| member.release());
        }
        while let Some(mut members) = search.next() {
            members.retain(|member| !member.answer.is_closed());
            let late = members.extract_if(.., |member| member.is_late(now));
            late.for_each(|member| {
                member.expire(&self.shared.metrics, Expired::passed());
            });
            if !members.is_empty() {
                let rows = members.iter().map(|member| member.rows).sum();
                return Some(Batch {
                    rows,
                    limit: rows,
                    members,
                    closed: Closed::Halved,
                    held_out: None,
                });
            }
        }
        let mut search = self.search.take()?;
        for (member, failed) in search.give_up() {
            member.refuse(failed);
        }
        debug!(
            guilty = search.guilty().len(),
            answered = search.has_answered(),
            "searched a batch that failed"
        );
        for contents in search.guilty() {
            self.shared.metrics.isolated.inc();
            self.shared.isolation.quarantine().enter(*contents, now);
        }
        None
    }

    /// Returns what the contents of a member that goes alone are known by, if it does so because a
    /// call failed.
    pub(super) fn contents(&self, batch: &Batch) -> Option<u128> {
        match (&self.search, &batch.members[..]) {
            (Some(_), [only]) => Some(self.shared.isolation.quarantine().digest(&only.request)),
            _ => None,
        }
    }
}

impl Member {
    /// Gives the caller its answer, if it is still there.
    fn answer(self: Box<Self>, answer: Result<Response, Error>) {
        let _gone = self.answer.send(Outcome::Answered(answer));
    }

    fn refuse(self: Box<Self>, cause: impl Into<Error>) {
        self.answer(Err(cause.into()));
    }

    fn is_late(&self, now: Instant) -> bool {
        self.request.head.deadline.is_some_and(|at| at <= now)
    }

    pub(super) fn expire(self: Box<Self>, metrics: &Handles, expired: Expired) {
        metrics.expired.inc();
        self.refuse(expired);
    }

    /// Hands the request back to the caller's own future, to be sent by itself.
    pub(super) fn release(self: Box<Self>) {
        let Self {
            request, answer, ..
        } = *self;
        let _gone = answer.send(Outcome::Alone(request));
    }
}

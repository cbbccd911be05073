use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytestring::ByteString;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::time::Instant;
use tower::{Service, ServiceExt as _};
use tracing::info;

use super::{
    Arm, Available, Blame, Combined, Learner, NoArm, ResponseFuture, Selector, ShadowView, Shares,
    ensemble,
    health::Health,
    learner::Asked,
    shadow::{Copies, Shadow},
    votes::Votes,
};
use crate::{
    deadline::{Expired, Late, by},
    inference::{DefaultReason, Error, Infer, Request, Response, SelectionReport, Signature},
};

/// Asks one of a model's arms, or all of them, by what feedback has taught.
///
/// Clones share what is known of the arms.
#[derive(Debug)]
pub struct Select<S>(Arc<Shared<S>>);

#[derive(Debug)]
pub(super) struct Shared<S> {
    /// Those that answer, in the order of the learner's.
    candidates: Box<[Candidate<S>]>,
    /// Those that only get copies.
    shadows: Box<[Shadow<S>]>,
    learner: Learner,
    knows: Knows,
    /// Calls of arms that were not waited for.
    late: Late,
    /// How many candidates have failed since they answered last: mostly none, and nobody looks.
    unsound: AtomicUsize,
}

#[derive(Debug)]
struct Candidate<S> {
    /// Its place among all arms of the model.
    index: usize,
    name: ByteString,
    service: S,
    health: Mutex<Health>,
    /// Whether it was late not long ago: mostly not, and nobody looks.
    was_late: AtomicBool,
}

/// An answer of an arm.
type Answer = (usize, Response);

/// An arm being asked.
type Call = Pin<Box<dyn Future<Output = (usize, Result<Response, Failed>)> + Send>>;

/// Why an arm gave no answer, and whose fault it is.
#[derive(Debug)]
struct Failed {
    error: Error,
    blame: Blame,
}

/// What selection has to be told of errors and of the model, which it does not know itself.
#[derive(Clone)]
pub struct Knows {
    /// Whose fault it is that a call failed.
    pub blame: fn(&Error) -> Blame,
    /// Whether a call failed because its time was up.
    pub is_expired: fn(&Error) -> bool,
    /// What the model's server says of its outputs, if it is known by now.
    pub signature: Arc<dyn Fn() -> Option<Signature> + Send + Sync>,
}

impl<S> Select<S> {
    /// Selects among arms, of which those that answer are the learner's, in its order.
    pub fn new(learner: Learner, arms: impl IntoIterator<Item = (Arm, S)>, knows: Knows) -> Self {
        let mut candidates = Vec::new();
        let mut shadows = Vec::new();
        for (index, (arm, service)) in arms.into_iter().enumerate() {
            match arm.shadow {
                Some(share) => {
                    let metrics = learner.metrics().shadows[shadows.len()].clone();
                    shadows.push(Shadow::new(arm.name, share, service, metrics));
                }
                None => candidates.push(Candidate {
                    index,
                    name: arm.name,
                    service,
                    health: Mutex::default(),
                    was_late: AtomicBool::new(false),
                }),
            }
        }
        learner.metrics().arms.iter().for_each(|arm| {
            arm.up.set(1);
        });
        Self(Arc::new(Shared {
            candidates: candidates.into(),
            shadows: shadows.into(),
            learner,
            knows,
            late: Late::default(),
            unsound: AtomicUsize::new(0),
        }))
    }

    /// Returns what was learned of the arms.
    pub fn learner(&self) -> &Learner {
        &self.0.learner
    }

    /// Returns which arms of the learner's are asked at the moment.
    pub fn available(&self) -> Available {
        self.0.available()
    }

    /// Returns what shadows have answered, compared with the answers that were given.
    pub fn shadows(&self) -> impl Iterator<Item = ShadowView> {
        self.0.shadows.iter().map(Shadow::view)
    }
}

impl<S> Clone for Select<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> Service<Request> for Select<S>
where
    S: Infer + Sync + 'static,
    S::Future: 'static,
{
    type Response = Response;
    type Error = Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // Which arm is asked is not known before the request is.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> ResponseFuture {
        let shared = self.0.clone();
        ResponseFuture::new(async move {
            if !shared.learner.has_default() {
                return match shared.learner.config().asks_all() {
                    true => shared.ask_all(&request).await,
                    false => shared.ask_one(request).await,
                };
            }
            let answer = match shared.learner.config().asks_all() {
                true => shared.ask_all(&request).await,
                false => shared.ask_one(request.clone()).await,
            };
            answer.or_else(|error| shared.instead(&request, error))
        })
    }
}

impl<S> Select<S>
where
    S: Infer + Sync + 'static,
    S::Future: 'static,
{
    /// Asks all arms that are up for an answer that nobody waits for but whoever judges them, and
    /// returns what each said. What the caches know costs nothing.
    pub async fn predictions(&self, request: &Request) -> Vec<Result<Response, Error>> {
        let shared = &self.0;
        let down = |_| Err(NoArm(()).into());
        let mut answers: Vec<Result<Response, Error>> =
            shared.candidates.iter().map(down).collect();
        let mut calls: FuturesUnordered<_> = (shared.available().iter())
            .map(|arm| shared.ask(arm, request.clone()))
            .collect();
        while let Some((arm, answer)) = calls.next().await {
            answers[arm] = answer.map_err(|failed| failed.error);
        }
        answers
    }
}

impl<S> Candidate<S> {
    /// Takes note of an answer that came in time.
    fn in_time(&self) {
        if !self.was_late.load(Ordering::Relaxed) {
            return;
        }
        let mut health = self.health.lock();
        health.was_late(false);
        self.was_late.store(!health.is_in_time(), Ordering::Relaxed);
    }

    /// Takes note of an answer that did not come in time.
    fn is_late(&self) {
        let mut health = self.health.lock();
        health.was_late(true);
        self.was_late.store(true, Ordering::Relaxed);
    }

    /// Returns the share of requests of an ensemble for which it is asked.
    fn asked(&self) -> f64 {
        match self.was_late.load(Ordering::Relaxed) {
            true => self.health.lock().asked(),
            false => 1.,
        }
    }
}

impl std::fmt::Debug for Knows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Knows(..)")
    }
}

impl<S> Shared<S> {
    /// Returns the arms that are up; where none is, all are: one of them may be back.
    fn available(&self) -> Available {
        let all = Available::first(self.candidates.len());
        if self.unsound.load(Ordering::Relaxed) == 0 {
            return all;
        }
        let now = Instant::now();
        let down = self.candidates.iter().enumerate();
        let up = down
            .filter(|(_, candidate)| !candidate.health.lock().is_up(now))
            .fold(all, |up, (arm, _)| up.without(arm));
        if up.is_empty() { all } else { up }
    }

    fn answered(&self, arm: usize) {
        // Nobody has failed: nothing to be taken back, and no lock.
        if self.unsound.load(Ordering::Relaxed) == 0 {
            return;
        }
        let candidate = &self.candidates[arm];
        let mut health = candidate.health.lock();
        if !health.is_sound() {
            health.answered();
            self.unsound.fetch_sub(1, Ordering::Relaxed);
            drop(health);
            if self.learner.metrics().arms[arm].up.set(1) == 0 {
                info!(arm = &*candidate.name, "the arm is back");
            }
        }
    }

    fn failed(&self, arm: usize, unreached: bool) {
        let candidate = &self.candidates[arm];
        let mut health = candidate.health.lock();
        if health.is_sound() {
            self.unsound.fetch_add(1, Ordering::Relaxed);
        }
        if health.failed(unreached, Instant::now()) {
            drop(health);
            if self.learner.metrics().arms[arm].up.set(0) == 1 {
                info!(arm = &*candidate.name, "the arm fails and is left out");
            }
        }
    }

    fn report(&self, arm: usize, shares: &Shares) -> SelectionReport {
        let candidate = &self.candidates[arm];
        SelectionReport {
            arm: Some(candidate.name.clone()),
            index: candidate.index,
            probability: shares[arm],
            policy: self.learner.config().policy.as_str(),
            asked: 1,
            answered: 1,
            ..SelectionReport::default()
        }
    }
}

/// Gives the answer of the arm with the greatest share, where answers cannot be put together.
fn heaviest(voters: &[ensemble::Answer<'_>], total: f64) -> Combined {
    let mut heaviest = &voters[0];
    for voter in voters {
        if voter.weight > heaviest.weight {
            heaviest = voter;
        }
    }
    let sure = if total > 0. {
        heaviest.weight / total
    } else {
        0.
    };
    Combined {
        response: heaviest.response.clone(),
        arm: heaviest.arm,
        confidence: SmallVec::from_elem(sure, 1),
        agree: SmallVec::from_elem(1, 1),
        predictions: vec![None; voters.len()],
    }
}

impl<S> Shared<S>
where
    S: Infer + Sync + 'static,
    S::Future: 'static,
{
    /// Sends copies to the shadows that are to get one.
    fn copy(&self, request: &Request) -> Copies {
        let mut copies = Copies::default();
        for shadow in &self.shadows {
            let label = self.learner.config().label.clone();
            if let Some(told) = shadow.copy(request, self.learner.uniform(), label) {
                copies.push(told);
            }
        }
        copies
    }

    async fn ask(&self, arm: usize, request: Request) -> (usize, Result<Response, Failed>) {
        let service = self.candidates[arm].service.clone();
        self.learner.metrics().arms[arm].chosen.inc();
        let began = Instant::now();
        let answer = service.oneshot(request).await.map_err(|error| {
            let error = error.into();
            let blame = match (self.knows.blame)(&error) {
                // A caller may be in more of a hurry than any arm can be.
                Blame::Arm
                    if (self.knows.is_expired)(&error)
                        && !self.learner.had_time(began.elapsed()) =>
                {
                    Blame::Caller
                }
                blame => blame,
            };
            Failed { error, blame }
        });
        match &answer {
            Ok(_) => self.answered(arm),
            Err(Failed { blame, .. }) if blame.is_failure() => {
                self.failed(arm, *blame == Blame::Unreached);
            }
            Err(_) => {}
        }
        (arm, answer)
    }

    /// Begins to ask an arm; the call may go on without whoever began it.
    fn begin(self: &Arc<Self>, arm: usize, request: Request) -> Call {
        let shared = self.clone();
        let request = request.that_may_be_late();
        Box::pin(async move { shared.ask(arm, request).await })
    }

    /// Takes note of an arm that has not answered in time, though it was asked so long ago.
    fn is_late(&self, asked: &Asked, shares: &Shares, arm: usize, waited: Duration) {
        self.learner.metrics().arms[arm].stragglers.inc();
        if self.learner.had_time(waited) {
            self.candidates[arm].is_late();
            self.learner.failed(asked, shares, arm);
        }
    }

    /// Asks one arm, and another one where it cannot be reached.
    async fn ask_one(self: &Arc<Self>, request: Request) -> Result<Response, Error> {
        let asked = Asked::of(&request);
        let context = asked.context.as_deref();
        let copies = self.copy(&request);
        let (deadline, held) = (request.head.deadline, request.held_len());
        let mut request = Some(request);
        let mut available = self.available();
        let mut unreached = 0;
        loop {
            let shares = self.learner.shares(context, available);
            let Some(arm) = Selector::choose(&shares, self.learner.uniform()) else {
                return Err(NoArm(()).into());
            };
            let others = available.without(arm);
            // The last one that there is needs no copy.
            let sent = match others.is_empty() {
                true => request.take(),
                false => request.clone(),
            };
            let Some(sent) = sent else {
                return Err(NoArm(()).into());
            };
            let began = Instant::now();
            let call = self.begin(arm, sent);
            let answer = match by(deadline, call).await {
                Ok((_, answer)) => answer,
                Err(call) => {
                    self.is_late(&asked, &shares, arm, began.elapsed());
                    self.late.go_on(held, async move { drop(call.await) });
                    return Err(Expired::new().into());
                }
            };
            match answer {
                Ok(mut response) => {
                    self.candidates[arm].in_time();
                    let predictions = self.learner.predictions(&response);
                    let id = self.learner.chose(&asked, &shares, &[(arm, predictions)]);
                    let mut report = self.report(arm, &shares);
                    report.prediction_id = Some(id);
                    report.unreached = unreached;
                    response.report.selection = Some(Box::new(report));
                    copies.compare(&response);
                    return Ok(response);
                }
                Err(Failed { error, blame }) => {
                    if blame.is_failure() {
                        self.learner.failed(&asked, &shares, arm);
                    }
                    // Once it may have been sent, nobody but its caller sends it again.
                    if !blame.is_unsent() || others.is_empty() {
                        return Err(error);
                    }
                    available = others;
                    unreached += 1;
                }
            }
        }
    }

    /// Asks all arms, and puts together what they answer by the deadline, or sooner: when all have
    /// answered, or when no other answer could change what is said.
    async fn ask_all(self: &Arc<Self>, request: &Request) -> Result<Response, Error> {
        let asked = Asked::of(request);
        let context = asked.context.as_deref();
        let copies = self.copy(request);
        let all = Available::first(self.candidates.len());
        // An arm that is not asked still counts among those that might have agreed.
        let shares = self.learner.shares(context, all);
        let available = self.in_time_mostly(request.head.deadline, self.available());
        let mut calls: FuturesUnordered<Call> = (available.iter())
            .map(|arm| self.begin(arm, request.clone()))
            .collect();
        let asked_arms = calls.len();
        let began = Instant::now();
        let mut waited_for = available;
        let mut answers: SmallVec<[Answer; 8]> = SmallVec::new();
        let mut votes = self
            .learner
            .ends_early()
            .then(|| Votes::new(&shares, available));
        let mut failure = None;
        let deadline = request.head.deadline;
        let has_time =
            deadline.is_some_and(|at| self.learner.had_time(at.saturating_duration_since(began)));
        loop {
            let next = match by(deadline, calls.next()).await {
                Ok(Some(next)) => next,
                Ok(None) => break,
                Err(_) => {
                    for arm in waited_for.iter() {
                        self.is_late(&asked, &shares, arm, began.elapsed());
                    }
                    break;
                }
            };
            let (arm, answer) = next;
            waited_for = waited_for.without(arm);
            match answer {
                Ok(response) => {
                    self.candidates[arm].in_time();
                    self.learner.remember(arm, &response);
                    if let Some(votes) = &mut votes {
                        votes.count(arm, self.learner.predictions(&response));
                    }
                    answers.push((arm, response));
                }
                Err(Failed { error, blame }) => {
                    if blame.is_failure() {
                        self.learner.failed(&asked, &shares, arm);
                    } else if blame == Blame::Busy && has_time {
                        // Nothing is said of how it answers, but it has more to do than it can.
                        self.candidates[arm].is_late();
                    }
                    if let Some(votes) = &mut votes {
                        votes.count(arm, None);
                    }
                    failure.get_or_insert(error);
                }
            }
            if votes.as_ref().is_some_and(Votes::is_decided) {
                break;
            }
        }
        if !calls.is_empty() {
            let learner = self.learner.clone();
            self.late.go_on(request.held_len(), async move {
                while let Some((arm, answer)) = calls.next().await {
                    // What it is expected to say the next time that it is late.
                    if let Ok(response) = answer {
                        learner.remember(arm, &response);
                    }
                }
            });
        }
        // In the order of the configuration, so that the same answers are put together the same.
        answers.sort_by_key(|(arm, _)| *arm);
        if answers.is_empty() || answers.len() < self.learner.quorum(asked_arms) {
            return Err(failure.unwrap_or_else(|| Expired::new().into()));
        }
        Ok(self.combine(&asked, &shares, asked_arms, answers, copies))
    }

    /// Leaves arms out that are late mostly, but for a request now and then, and never all.
    fn in_time_mostly(&self, deadline: Option<Instant>, available: Available) -> Available {
        if deadline.is_none() {
            return available;
        }
        let mut left_out: SmallVec<[usize; 8]> = (available.iter())
            .filter(|arm| {
                let asked = self.candidates[*arm].asked();
                asked < 1. && self.learner.uniform() >= asked
            })
            .collect();
        let mut left = left_out
            .iter()
            .fold(available, |left, arm| left.without(*arm));
        // Where all are late mostly, to ask all of them would be what keeps them late.
        let least = self.learner.quorum(available.len());
        while left.len() < least && !left_out.is_empty() {
            let chosen = self.learner.uniform() * left_out.len() as f64;
            let chosen = (chosen as usize).min(left_out.len() - 1);
            left = left.with(left_out.swap_remove(chosen));
        }
        left
    }

    /// Gives the default output in the place of a failure that is not the caller's, if there is one.
    fn instead(&self, request: &Request, error: Error) -> Result<Response, Error> {
        let reason = if error.is::<NoArm>() {
            DefaultReason::NoArm
        } else if error.is::<Expired>() || (self.knows.is_expired)(&error) {
            DefaultReason::Deadline
        } else if (self.knows.blame)(&error) == Blame::Caller {
            return Err(error);
        } else {
            DefaultReason::Error
        };
        let signature = (self.knows.signature)();
        let Some(mut response) = self.learner.default_for(request, signature, reason) else {
            return Err(error);
        };
        response.report.selection = Some(Box::new(SelectionReport {
            index: self.candidates.first().map_or(0, |first| first.index),
            policy: self.learner.config().policy.as_str(),
            default: Some(reason),
            ..SelectionReport::default()
        }));
        Ok(response)
    }

    fn combine(
        &self,
        asked: &Asked,
        shares: &Shares,
        asked_arms: usize,
        answers: SmallVec<[Answer; 8]>,
        copies: Copies,
    ) -> Response {
        let config = self.learner.config();
        let voters: SmallVec<[ensemble::Answer<'_>; 8]> = answers
            .iter()
            .map(|(arm, response)| ensemble::Answer {
                arm: *arm,
                weight: shares[*arm],
                response,
            })
            .collect();
        let missing: SmallVec<[ensemble::Expected; 8]> = (0..self.candidates.len())
            .filter(|arm| answers.iter().all(|(of, _)| of != arm))
            .filter_map(|arm| {
                Some(ensemble::Expected {
                    weight: shares[arm],
                    mean: self.learner.expected(arm)?,
                })
            })
            .collect();
        let total: f64 = shares.iter().sum();
        let (label, loss) = (config.label.as_deref(), config.loss);
        let Combined {
            mut response,
            arm,
            confidence,
            predictions,
            ..
        } = ensemble::combine(&voters, &missing, total, label, loss)
            .unwrap_or_else(|_| heaviest(&voters, total));
        let mut report = self.report(arm, shares);
        report.asked = asked_arms;
        report.answered = answers.len();
        report.confidence = confidence.iter().copied().reduce(f64::min);
        // Shadows are compared with what the arms say, not with what is given in its place.
        copies.compare(&response);
        if self.learner.replace_unsure(&mut response, &confidence) {
            report.default = Some(DefaultReason::LowConfidence);
        }
        let arms = answers.iter().map(|(arm, _)| *arm);
        let mut predicted: SmallVec<[_; 8]> = arms.zip(predictions).collect();
        // First the one whose answer it is: a loss of the answer is that of who agreed with it.
        predicted.sort_by_key(|(of, _)| *of != arm);
        report.prediction_id = Some(self.learner.chose(asked, shares, &predicted));
        response.report.selection = Some(Box::new(report));
        response
    }
}

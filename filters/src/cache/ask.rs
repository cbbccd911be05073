//! Asking the model for what is not there.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::{runtime::Handle, time::timeout_at};
use tower::{ServiceExt as _, util::Oneshot};

use super::{
    Flush, Store,
    error::CallFailed,
    flight::{Answered, Call, Outcome, Waiting},
    frame::{self, Unfit},
    plan::{Asked, Plan, Source, Sources, join},
    store::{Asking, Entry},
};
use crate::{
    batch,
    deadline::Expired,
    inference::{CacheReport, CacheResult, Code, Error, Infer, Request, Response, Status},
    overload::Overloaded,
};

/// Asks the model for the rows that are not there, waits for those that it is being asked for, and
/// puts the answer together.
pub(super) async fn ask<S>(
    store: Store,
    inner: S,
    request: Request,
    mut asked: Asked,
) -> Result<Response, Error>
where
    S: Infer + 'static,
    S::Future: 'static,
{
    let unit = asked.unit;
    let mut reason = "unlike";
    for round in 1..=ROUNDS {
        let missed = match attempt(&store, inner.clone(), &request, asked).await? {
            Ok(answer) => return Ok(answer),
            Err(missed) => missed,
        };
        if round == ROUNDS || missed == Missed::Private {
            break;
        }
        // Who waited for the same wait for one of them. The last time nobody is waited for.
        let joins = missed == Missed::GivenUp && round + 1 < ROUNDS;
        asked = match Plan::again(&store, &request, unit, joins) {
            Plan::Ready(answer) => return answer,
            Plan::Lead(leading, report) => {
                let mut landed = lead(leading, inner, request).await?;
                landed.response.report.cache = Some(report);
                return Ok(landed.response);
            }
            Plan::Ask(asked) => asked,
            Plan::Pass(why) => {
                reason = why;
                break;
            }
        };
    }
    // No answer can be put together: it asks as if there were no cache.
    let mut response = inner.oneshot(request).await.map_err(Into::into)?;
    response.report.cache = Some(CacheReport {
        result: CacheResult::Bypass,
        hits: 0,
        joined: 0,
        sent: 0,
        reason: Some(reason),
        age: None,
    });
    Ok(response)
}

/// Why no answer came of asking, although the model may have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missed {
    /// A call that was waited for was given up, or failed for the sake of other rows.
    GivenUp,
    /// The model's answer is none that is cut into rows, or given to others.
    Private,
    /// Answers to its rows do not go together.
    Unlike,
}

/// Asks, waits and joins once.
async fn attempt<S>(
    store: &Store,
    inner: S,
    request: &Request,
    asked: Asked,
) -> Result<Result<Response, Missed>, Error>
where
    S: Infer + 'static,
    S::Future: 'static,
{
    let Asked {
        generation,
        sources,
        own,
        report,
        ..
    } = asked;
    let mut landed = None;
    if let Some((leading, part)) = own {
        // Before others are waited for: they may be waiting for this.
        let done = lead(leading, inner, part).await?;
        match done.rows {
            Ok(_) => landed = Some(done),
            Err(Unfit::Private) => return Ok(Err(Missed::Private)),
            Err(Unfit::Uneven) => return Ok(Err(Missed::Unlike)),
        }
    }
    for (index, source) in sources.iter().enumerate() {
        let Source::Joined(waiting, _) = source else {
            continue;
        };
        let is_known = sources[..index].iter().any(|before| {
            matches!(before, Source::Joined(other, _) if Arc::ptr_eq(other.call(), waiting.call()))
        });
        if is_known {
            continue;
        }
        match outcome(waiting, &sources, request).await? {
            Outcome::Answered(_) => {}
            // The same was asked, and nothing else: asked again it would fail again.
            Outcome::Failed(cause) if is_all(&sources, waiting) => {
                return Err(CallFailed::new(cause.clone()).into());
            }
            Outcome::Failed(_) | Outcome::GivenUp => return Ok(Err(Missed::GivenUp)),
            Outcome::Unfit => return Ok(Err(Missed::Unlike)),
        }
    }
    // Of before and after a flush, rows may be two models'.
    let is_flushed = store.shared().entries.generation() != generation;
    if is_flushed && sources.windows(2).any(|pair| !pair[0].is_with(&pair[1])) {
        return Ok(Err(Missed::Unlike));
    }
    let rows = landed.as_ref().and_then(|done| done.rows.as_ref().ok());
    let frame = sources.iter().find_map(|source| match source {
        Source::Stored(found) => Some(&found.frame),
        Source::Own(_) => rows.map(|rows| &rows.frame),
        Source::Joined(waiting, _) => waiting.answered().map(|answered| &answered.frame),
    });
    let answer = frame.and_then(|frame| join(frame, &sources, request, rows));
    let Some(mut answer) = answer else {
        store.shared().unlike(&sources, rows);
        return Ok(Err(Missed::Unlike));
    };
    if let Some(done) = landed {
        answer.report = done.response.report;
    }
    answer.report.cache = Some(report);
    Ok(Ok(answer))
}

/// Waits for somebody else's call, as long as the caller has time.
async fn outcome<'a>(
    waiting: &'a Waiting,
    sources: &Sources,
    request: &Request,
) -> Result<&'a Outcome, Error> {
    let Some(deadline) = request.head.deadline else {
        return Ok(waiting.outcome().await);
    };
    match timeout_at(deadline, waiting.outcome()).await {
        Ok(outcome) => Ok(outcome),
        // What comes is worth knowing, but nothing is sent for it any more.
        Err(_) if request.head.may_be_late => {
            for source in sources {
                if let Source::Joined(waiting, _) = source {
                    waiting.step_back();
                }
            }
            Ok(waiting.outcome().await)
        }
        Err(_) => Err(Expired::behind().into()),
    }
}

/// Tells whether all rows of a call are among those that a request waits for.
fn is_all(sources: &Sources, waiting: &Waiting) -> bool {
    let mut rows: Vec<usize> = sources
        .iter()
        .filter_map(|source| match source {
            Source::Joined(other, index) if Arc::ptr_eq(other.call(), waiting.call()) => {
                Some(*index)
            }
            _ => None,
        })
        .collect();
    rows.sort_unstable();
    rows.dedup();
    rows.len() == waiting.call().rows()
}

/// The rows that a request asks the model for, on behalf of all who ask for them meanwhile.
#[derive(Debug)]
pub(super) struct Leading {
    store: Store,
    asking: Asking,
    tenant: u32,
    /// Whether its caller says how long it may wait in the server's queue.
    is_hurried: bool,
    /// In microseconds from the store's beginning.
    sent_at: u64,
    is_over: bool,
}

/// What came of asking.
#[derive(Debug)]
pub(super) struct Landed {
    pub(super) response: Response,
    /// Or why the answer is not one to be cut into rows.
    pub(super) rows: Result<Answered, Unfit>,
}

pin_project! {
    /// The call itself, and what is done with its answer.
    struct Fill<S: Infer> {
        #[pin]
        inner: Oneshot<S, Request>,
        leading: Option<Leading>,
    }
}

/// A [`Fill`], whatever the model's service is.
type Filling = Pin<Box<dyn Future<Output = Result<Landed, Error>> + Send>>;

/// A call that is being made. If it is dropped while others wait, a task goes on with it.
pub(super) struct Led {
    call: Arc<Call>,
    fill: Option<Filling>,
}

/// Asks the model for rows; `request` asks for these and no others.
pub(super) fn lead<S>(leading: Leading, inner: S, request: Request) -> Led
where
    S: Infer + 'static,
    S::Future: 'static,
{
    Led {
        call: leading.asking.call.clone(),
        fill: Some(Box::pin(Fill {
            inner: inner.oneshot(request),
            leading: Some(leading),
        })),
    }
}

impl Leading {
    /// Begins at a moment that counts from the store's beginning, in microseconds.
    pub(super) fn new(store: &Store, asking: Asking, request: &Request, now: u64) -> Self {
        Self {
            store: store.clone(),
            asking,
            tenant: store.shared().entries.tenant_of(request),
            is_hurried: request.parameters.get("timeout").is_some(),
            sent_at: now,
            is_over: false,
        }
    }

    /// Stores what came, and tells those who wait.
    fn land(mut self, answered: Result<Response, Error>) -> Result<Landed, Error> {
        let landed = match answered {
            Ok(response) => Ok(self.answered(response)),
            Err(error) => Err(self.failed(error)),
        };
        self.is_over = true;
        landed
    }

    fn answered(&self, response: Response) -> Landed {
        let shared = self.store.shared();
        let entries = &shared.entries;
        let began = shared.lands();
        let now = entries.now();
        if began.is_some() {
            let report = &response.report;
            let rows = report.batch_rows.unwrap_or(self.asking.sent.len());
            let since = || Duration::from_micros(now.saturating_sub(self.sent_at));
            shared.upstream(rows, report.upstream.unwrap_or_else(since));
        }
        let Asking {
            call,
            question,
            sent,
        } = &self.asking;
        let by_row = question.by_row();
        // What a model says that was asked before a flush says nothing of the next one.
        let is_current = call.generation == entries.generation();
        let answers = match frame::cut(&response, sent.len(), by_row) {
            Ok(answers) => answers,
            Err(unfit) => {
                if unfit == Unfit::Uneven && is_current {
                    shared.is_uneven();
                }
                self.over(Outcome::Unfit);
                return Landed {
                    response,
                    rows: Err(unfit),
                };
            }
        };
        let frame = entries.frame(&response, by_row);
        if is_current && shared.is_new_version(question, frame.version()) {
            self.store.flush(Flush::Version);
        }
        let is_stored = call.generation == entries.generation();
        for (index, sent) in sent.iter().enumerate() {
            let entry = is_stored.then(|| {
                let outputs = answers.iter().map(|cells| &cells[index]);
                let term = entries.term(sent.digest, self.tenant, now);
                let question = question.clone();
                Entry::new(question, sent, frame.clone(), outputs, term)
            });
            entries.land(call, index, sent.digest, entry.flatten());
        }
        shared.landed(sent.len(), began);
        // Nobody can find its rows any more.
        if call.is_heard() {
            call.end(Outcome::Answered(Answered {
                frame: frame.clone(),
                answers: answers.clone(),
            }));
        }
        Landed {
            response,
            rows: Ok(Answered { frame, answers }),
        }
    }

    fn failed(&self, error: Error) -> Error {
        self.leave();
        if !self.asking.call.is_heard() {
            return error;
        }
        if self.is_hurried || is_of_caller(error.as_ref()) {
            self.over(Outcome::GivenUp);
            return error;
        }
        let cause: Arc<dyn std::error::Error + Send + Sync> = error.into();
        self.over(Outcome::Failed(cause.clone()));
        CallFailed::new(cause).into()
    }

    /// Takes the rows out of those under way, and says what came of them.
    fn over(&self, outcome: Outcome) {
        self.leave();
        self.asking.call.end(outcome);
    }

    fn leave(&self) {
        let entries = &self.store.shared().entries;
        for (index, sent) in self.asking.sent.iter().enumerate() {
            entries.land(&self.asking.call, index, sent.digest, None);
        }
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        if !self.is_over {
            self.over(Outcome::GivenUp);
        }
    }
}

impl<S: Infer> Future for Fill<S> {
    type Output = Result<Landed, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answered = ready!(this.inner.poll(cx)).map_err(Into::into);
        let leading = this.leading.take();
        let leading = leading.expect("a future is not polled after it was ready");
        Poll::Ready(leading.land(answered))
    }
}

impl Future for Led {
    type Output = Result<Landed, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Out of its place meanwhile: if it panics, it is gone, and its rows with it.
        let Some(mut fill) = self.fill.take() else {
            return Poll::Pending;
        };
        let landed = fill.as_mut().poll(cx);
        if landed.is_pending() {
            self.fill = Some(fill);
        }
        landed
    }
}

impl Drop for Led {
    fn drop(&mut self) {
        let Some(fill) = self.fill.take().filter(|_| self.call.is_awaited()) else {
            return;
        };
        // Without a runtime the process ends, and who waits asks by himself.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(until_abandoned(fill, self.call.clone()));
        }
    }
}

/// Goes on with a call until it is over or nobody waits for it.
async fn until_abandoned(mut fill: Filling, call: Arc<Call>) {
    let mut abandoned = pin!(call.abandoned());
    poll_fn(|cx| {
        if fill.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        abandoned.as_mut().poll(cx)
    })
    .await;
}

/// Tells whether a call failed for the sake of the one who made it: others may have more time.
fn is_of_caller(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |&cause| cause.source()).any(|cause| {
        let status = cause.downcast_ref::<Status>();
        cause.is::<Expired>()
            // By its deadline and its class: another one is judged by its own.
            || cause.is::<Overloaded>()
            || cause.is::<batch::Interrupted>()
            || status.is_some_and(|status| {
                matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled)
            })
    })
}

/// How often a request is looked for: once as it comes, once more together with those who waited
/// for the same in vain, and once by itself.
const ROUNDS: usize = 3;

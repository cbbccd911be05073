//! What becomes of a request: what is known of its rows, and what the model is to be asked.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{
    Store, Unit,
    ask::Leading,
    error::NotCached,
    flight::{Answered, Waiting},
    frame::Frame,
    key::{Cut, MOST_ROWS},
    store::{Counted, Found, Place, Seek},
};
use crate::inference::{CacheReport, CacheResult, Error, Form, Payload, Request, Response, select};

/// What becomes of a request.
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart at once, and a hit shall allocate nothing"
)]
pub(super) enum Plan {
    /// It is none of the cache's business, for a reason.
    Pass(&'static str),
    /// There is an answer, or there will be none.
    Ready(Result<Response, Error>),
    /// Nothing of it is there: the model is sent the very message that came, and its answer is what
    /// the model says.
    Lead(Leading, CacheReport),
    /// Rows of it are there, or the model is being asked for them already.
    Ask(Asked),
}

/// A request whose answer is not all there.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) unit: Unit,
    /// The store's generation when its rows were looked for.
    pub(super) generation: u64,
    /// Where each row's answer comes from.
    pub(super) sources: Sources,
    /// The call for the rows that nobody else asks for, and what is sent.
    pub(super) own: Option<(Leading, Request)>,
    pub(super) report: CacheReport,
}

pub(super) type Sources = SmallVec<[Source; 1]>;

/// Where the answer to a row comes from.
#[derive(Debug)]
pub(super) enum Source {
    Stored(Found),
    /// A row of the call that is made for this request.
    Own(usize),
    /// A row of somebody else's call.
    Joined(Waiting, usize),
}

impl Plan {
    /// Looks for the rows of a request.
    pub(super) fn of(store: &Store, request: &Request, unit: Unit) -> Self {
        let control = request.head.cache;
        let shared = store.shared();
        let by_row = match reason_against(request) {
            None if control.no_store => Err("no_store"),
            None if shared.passes(request) => Err("does_not_pay"),
            None => shared.is_by_row(unit),
            Some(reason) => Err(reason),
        };
        let by_row = match by_row {
            Ok(by_row) => by_row,
            Err(reason) => {
                let rows = request.inputs.first().and_then(|input| input.shape.rows());
                // A shape may say anything; a row takes a byte, where it is in the message.
                let most = request.payload_len().max(MOST_ROWS);
                shared.bypassed(rows.unwrap_or(1).min(most));
                return match control.only_if_cached {
                    true => Self::Ready(Err(NotCached::new().into())),
                    false => Self::Pass(reason),
                };
            }
        };
        let seek = Seek {
            stored: !control.no_cache,
            under_way: !control.no_cache,
            asks: !control.only_if_cached,
            max_age: control.max_age,
        };
        let plan = Self::seek(store, request, unit, by_row, seek);
        // Whoever is looked for again is counted as he came.
        if let Some(report) = plan.report() {
            shared.count(report.hits, report.joined, report.sent);
        }
        plan
    }

    /// Returns what is reported of it, where rows were looked for.
    fn report(&self) -> Option<CacheReport> {
        match self {
            Self::Ready(answer) => answer.as_ref().ok()?.report.cache,
            Self::Lead(_, report) => Some(*report),
            Self::Ask(asked) => Some(asked.report),
            Self::Pass(_) => None,
        }
    }

    /// Looks for the rows of a request again, of which others' calls came to nothing; `joins` calls
    /// that others have begun since.
    pub(super) fn again(store: &Store, request: &Request, unit: Unit, joins: bool) -> Self {
        let control = request.head.cache;
        let seek = Seek {
            stored: !control.no_cache,
            under_way: joins && !control.no_cache,
            asks: true,
            max_age: control.max_age,
        };
        // It may have come out meanwhile what the model is.
        match store.shared().is_by_row(unit) {
            Ok(by_row) => Self::seek(store, request, unit, by_row, seek),
            Err(reason) => Self::Pass(reason),
        }
    }

    fn seek(store: &Store, request: &Request, unit: Unit, by_row: bool, seek: Seek) -> Self {
        let shared = store.shared();
        let began = shared.looks_up();
        let entries = &shared.entries;
        let generation = entries.generation();
        let cut = cut(store, request, by_row);
        let now = entries.now();
        let mut sources = Sources::with_capacity(cut.rows);
        let mut chosen = SmallVec::<[usize; 1]>::new();
        let mut asking = None;
        let (mut hits, mut joined, mut expired, mut oldest) = (0, 0, false, None);
        for row in 0..cut.rows {
            let digest = cut.digest(entries.keys(), row);
            match entries.place(&cut, row, digest, seek, &mut asking, now) {
                Place::Stored(found) => {
                    hits += 1;
                    oldest = oldest.min(Some(found.stored)).or(Some(found.stored));
                    sources.push(Source::Stored(found));
                }
                Place::UnderWay(waiting, index) => {
                    let own = asking.as_ref();
                    if own.is_some_and(|own| Arc::ptr_eq(&own.call, waiting.call())) {
                        sources.push(Source::Own(index));
                    } else {
                        joined += 1;
                        sources.push(Source::Joined(waiting, index));
                    }
                }
                Place::New { expired: too_old } => {
                    expired |= too_old;
                    sources.push(Source::Own(chosen.len()));
                    chosen.push(row);
                }
            }
        }
        let sent = chosen.len();
        let report = CacheReport {
            result: match (sent, hits + joined) {
                (0, _) => CacheResult::Hit,
                (_, 0) => CacheResult::Miss,
                _ => CacheResult::Partial,
            },
            hits,
            joined: cut.rows - hits - sent,
            sent,
            reason: match (sent, expired) {
                (0, _) => None,
                _ if !seek.stored => Some("no_cache"),
                (_, true) => Some("expired"),
                (_, false) => Some("absent"),
            },
            age: oldest.map(|oldest| std::time::Duration::from_micros(now.saturating_sub(oldest))),
        };
        if sent > 0 && !seek.asks {
            return Self::Ready(Err(NotCached::new().into()));
        }
        shared.looked_up(cut.rows, began);
        let mut own = None;
        if let Some(asking) = asking {
            let leading = Leading::new(store, asking, request, now);
            // Whoever misses all sends the very message that came.
            let is_part = sent < cut.rows;
            let part = is_part.then(|| select(request, &cut.cells, &chosen));
            match part.flatten() {
                Some(part) => own = Some((leading, part)),
                None => return Self::Lead(leading, report),
            }
        }
        if own.is_none() && joined == 0 {
            let frame = sources.iter().find_map(Source::stored);
            if let Some(mut answer) = frame.and_then(|frame| join(&frame, &sources, request, None))
            {
                answer.report.cache = Some(report);
                return Self::Ready(Ok(answer));
            }
            if !seek.asks {
                return Self::Ready(Err(NotCached::new().into()));
            }
        }
        Self::Ask(Asked {
            unit,
            generation,
            sources,
            own,
            report,
        })
    }
}

/// Puts an answer together, or returns `None` where the rows' answers do not go together; `own` are
/// the answers of the request's own call.
pub(super) fn join(
    frame: &Arc<Counted<Frame>>,
    sources: &Sources,
    request: &Request,
    own: Option<&Answered>,
) -> Option<Response> {
    let is_alike = sources.iter().all(|source| {
        let of_row = match source {
            Source::Stored(found) => Some(&found.frame),
            Source::Own(_) => own.map(|own| &own.frame),
            Source::Joined(waiting, _) => waiting.answered().map(|answered| &answered.frame),
        };
        of_row.is_some_and(|of_row| frame.is_alike(of_row))
    });
    if !is_alike {
        return None;
    }
    frame.answer(sources.len(), &request.head.id, |output, row| {
        let cell = |answered: &Answered, index: usize| -> Option<Payload> {
            answered.answers.get(output)?.get(index).cloned()
        };
        match sources.get(row)? {
            Source::Stored(found) => found.output(output),
            Source::Own(index) => cell(own?, *index),
            Source::Joined(waiting, index) => cell(waiting.answered()?, *index),
        }
    })
}

/// Looks for the answers to all rows of a request, and changes nothing.
pub(super) fn look_up(store: &Store, request: &Request) -> Option<Response> {
    if reason_against(request).is_some() {
        return None;
    }
    let shared = store.shared();
    let by_row = shared.is_by_row(store.config().unit).ok()?;
    let now = shared.entries.now();
    // Versions that take no batches, and models of which it came out late, have whole requests.
    [by_row, false].into_iter().find_map(|by_row| {
        let cut = cut(store, request, by_row);
        let found = (0..cut.rows).map(|row| {
            let found = shared.entries.peek(&cut, row, now)?;
            Some(Source::Stored(found))
        });
        let sources: Sources = found.collect::<Option<_>>()?;
        let frame = sources.iter().find_map(Source::stored)?;
        join(&frame, &sources, request, None)
    })
}

impl Source {
    /// Tells whether answers to two rows come of one call.
    pub(super) fn is_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Own(_), Self::Own(_)) => true,
            (Self::Joined(one, _), Self::Joined(other, _)) => Arc::ptr_eq(one.call(), other.call()),
            _ => false,
        }
    }

    fn stored(&self) -> Option<Arc<Counted<Frame>>> {
        match self {
            Self::Stored(found) => Some(found.frame.clone()),
            _ => None,
        }
    }
}

/// What cannot be cut into rows is kept as it is.
fn cut<'a>(store: &Store, request: &'a Request, by_row: bool) -> Cut<'a> {
    let keys = store.shared().entries.keys();
    let by_row = by_row.then(|| Cut::by_row(request, keys)).flatten();
    by_row.unwrap_or_else(|| Cut::whole(request, keys))
}

/// Says why a request is never looked for.
fn reason_against(request: &Request) -> Option<&'static str> {
    if let Some(apart) = request.apart() {
        return Some(apart.name());
    }
    let absent = |form: Form| form == Form::Absent;
    if request.inputs.iter().any(|input| absent(input.form)) {
        return Some("shared_memory");
    }
    None
}

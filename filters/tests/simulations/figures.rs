use std::{collections::BTreeMap, sync::Arc, time::Duration};

use outrigger_filters::batch::{Pays, View};
use serde::Deserialize;
use tokio::time::Instant;

use crate::{
    case::{Case, Expectation},
    clock::Clock,
    records::{Call, End, Record, Records},
};

/// A figure of a run.
///
/// *Best* is what the best static limit makes of the model; a request is *in time* within its
/// deadline or, if it has none, the objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Figure {
    /// Rows a second that are answered.
    Throughput,
    /// The same, to what came.
    ThroughputOfOffered,
    /// The same, to the best.
    ThroughputOfBest,
    /// Rows a second that are answered in time, to the best.
    GoodputOfBest,
    /// Milliseconds that half of the answers took.
    P50,
    /// Milliseconds that 99 of 100 answers took.
    P99,
    /// Milliseconds that the answers took at most.
    Longest,
    /// The share of requests that is answered in time.
    InTime,
    /// The share of requests that is answered.
    Answered,
    /// The share of requests that finds the queue full.
    Refused,
    /// The share of requests that is told that it is too late.
    Expired,
    /// Of requests that are refused or told that it is too late: the share that is told at once.
    ToldAtOnce,
    /// Milliseconds until half of them are told.
    UntilTold,
    /// The share of requests that the model refuses or fails.
    Failed,
    /// Requests that failed, although the model would not have refused them.
    InnocentFailed,
    /// The most milliseconds that an answer says that it waited.
    Queue,
    /// Rows of a call, on average.
    Rows,
    /// Calls for each request that came.
    CallsOfRequests,
    /// The share of calls that took longer than the objective.
    CallsLate,
    /// Calls until one is within the objective.
    CallsUntilInTime,
    /// Calls until one has four fifths of the rows of the best.
    CallsUntilWide,
    /// The share of the model's work for callers who had left, or whose time was over.
    ForNobody,
    /// Jain's index of the answers that callers got: 1 if all got as many.
    Fairness,
    /// At the end of the run: how many times as fast batching makes the model.
    SpeedUp,
    /// At the end of the run: 1 if batching pays, 0 if it does not, a half if that is not known.
    Pays,
    /// At the end of the run: calls that may be under way.
    Places,
}

/// What was seen in a run.
#[derive(Debug)]
pub(crate) struct Seen {
    start: Instant,
    length: Duration,
    objective: Duration,
    best: (usize, f64),
    streams: Vec<String>,
    requests: Vec<Record>,
    calls: Vec<Call>,
    view: View,
    left: Option<String>,
}

impl Figure {
    pub(crate) fn name(self) -> String {
        let mut name = String::new();
        for letter in format!("{self:?}").chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    }
}

impl Seen {
    pub(crate) fn new(
        case: &Case,
        records: Arc<Records>,
        clock: &Clock,
        view: View,
        left: Option<String>,
    ) -> Self {
        let (requests, calls) = records.take();
        let objective = case.filter.objective();
        Self {
            start: clock.start(),
            length: case.length,
            objective,
            best: case.model.best(objective),
            streams: case.load.keys().cloned().collect(),
            requests,
            calls,
            view,
            left,
        }
    }

    /// Returns what was left undone.
    pub(crate) fn left(&self) -> Option<&str> {
        self.left.as_deref()
    }

    pub(crate) fn figure(&self, figure: Figure, expectation: &Expectation) -> f64 {
        let from = self.start + expectation.from;
        let to = self.start + expectation.to.unwrap_or(self.length);
        let within = |at: Instant| (from..to).contains(&at);
        let seconds = (to - from).as_secs_f64();
        let stream = expectation
            .of
            .as_ref()
            .and_then(|of| self.streams.iter().position(|stream| stream == of));
        let is_of = |request: &&Record| stream.is_none_or(|stream| request.stream == stream);
        let of_stream = || self.requests.iter().filter(is_of);
        let came = || of_stream().filter(|request| within(request.arrived));
        let calls = || self.calls.iter().filter(|call| within(call.sent));
        let offered = || came().map(|request| request.rows).sum::<usize>() as f64 / seconds;
        let throughput = |counts: &dyn Fn(&Record) -> bool| {
            let answered = of_stream().filter(|request| {
                let answered = |(at, end)| end == End::Answered && within(at);
                request.ended.is_some_and(answered) && counts(request)
            });
            answered.map(|request| request.rows).sum::<usize>() as f64 / seconds
        };
        let in_time = |request: &Record| {
            request.took().is_some_and(|took| match request.deadline {
                Some(deadline) => request.arrived + took <= deadline,
                None => took <= self.objective,
            })
        };
        let share = |counts: &dyn Fn(&Record) -> bool| {
            let counted = came().filter(|request| counts(request)).count();
            counted as f64 / came().count() as f64
        };
        let ended = |how| share(&|request| request.ended.is_some_and(|(_, end)| end == how));
        let percentile = |of_100: usize| {
            let mut took: Vec<Duration> = came().filter_map(Record::took).collect();
            took.sort_unstable();
            let at = (took.len() * of_100 / 100).min(took.len().saturating_sub(1));
            took.get(at).map_or(f64::NAN, millis)
        };
        let told = || {
            let mut told: Vec<Duration> = came().filter_map(Record::told).collect();
            told.sort_unstable();
            told
        };
        let until = |counts: &dyn Fn(&Call) -> bool| {
            let mut calls: Vec<&Call> = calls().collect();
            calls.sort_unstable_by_key(|call| call.sent);
            let first = calls.iter().position(|call| counts(call));
            first.unwrap_or(calls.len()) as f64
        };
        let is_in_time = |call: &Call| call.ended - call.sent <= self.objective;
        match figure {
            Figure::Throughput => throughput(&|_| true),
            Figure::ThroughputOfOffered => throughput(&|_| true) / offered(),
            Figure::ThroughputOfBest => throughput(&|_| true) / self.best.1,
            Figure::GoodputOfBest => throughput(&in_time) / self.best.1,
            Figure::P50 => percentile(50),
            Figure::P99 => percentile(99),
            Figure::Longest => percentile(100),
            Figure::InTime => share(&in_time),
            Figure::Answered => ended(End::Answered),
            Figure::Refused => ended(End::Refused),
            Figure::Expired => ended(End::Expired),
            Figure::ToldAtOnce => {
                let told = told();
                told.iter().filter(|after| after.is_zero()).count() as f64 / told.len() as f64
            }
            Figure::UntilTold => {
                let told = told();
                told.get(told.len() / 2).map_or(f64::NAN, millis)
            }
            Figure::Failed => ended(End::Failed),
            Figure::InnocentFailed => {
                let failed = |request: &&Record| {
                    !request.bad && request.ended.is_some_and(|(_, end)| end == End::Failed)
                };
                came().filter(failed).count() as f64
            }
            Figure::Queue => {
                let waited = came().filter_map(|request| request.queue);
                waited.max().map_or(f64::NAN, |most| millis(&most))
            }
            Figure::Rows => {
                calls().map(|call| call.rows).sum::<usize>() as f64 / calls().count() as f64
            }
            Figure::CallsOfRequests => calls().count() as f64 / came().count() as f64,
            Figure::CallsLate => {
                let late = calls().filter(|call| !is_in_time(call)).count();
                late as f64 / calls().count() as f64
            }
            Figure::CallsUntilInTime => until(&is_in_time),
            Figure::CallsUntilWide => until(&|call| call.rows as f64 >= 0.8 * self.best.0 as f64),
            Figure::ForNobody => {
                let work = |call: &Call| call.busy.as_secs_f64();
                let lost = |call: &Call| work(call) * call.for_nobody as f64 / call.rows as f64;
                calls().map(lost).sum::<f64>() / calls().map(work).sum::<f64>()
            }
            Figure::Fairness => {
                let mut answers: BTreeMap<usize, f64> = BTreeMap::new();
                for request in came() {
                    let answered = request.took().is_some();
                    *answers.entry(request.caller).or_default() += f64::from(u8::from(answered));
                }
                let sum: f64 = answers.values().sum();
                let squares: f64 = answers.values().map(|count| count * count).sum();
                sum * sum / (answers.len() as f64 * squares)
            }
            Figure::SpeedUp => self.view.benefit.speed_up.unwrap_or(f64::NAN),
            Figure::Pays => match self.view.benefit.pays {
                Pays::Yes => 1.,
                Pays::Unknown => 0.5,
                Pays::No { .. } => 0.,
            },
            Figure::Places => self.view.places as f64,
        }
    }
}

impl Record {
    /// Returns how long the answer took, if there was one.
    fn took(&self) -> Option<Duration> {
        let (at, end) = self.ended?;
        (end == End::Answered).then(|| at - self.arrived)
    }

    /// Returns after what time it was told that there will be no answer.
    fn told(&self) -> Option<Duration> {
        let (at, end) = self.ended?;
        matches!(end, End::Refused | End::Expired).then(|| at - self.arrived)
    }
}

fn millis(duration: &Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

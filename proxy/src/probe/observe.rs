//! The calls that are made of one endpoint, and what comes of them.

use std::time::Duration;

use outrigger_filters::inference::{self, Request, Response, Tensor};

use super::{
    Error,
    ask::{Answer, Asker},
    compare::{Scales, compare},
    finding::{Finding, Place},
    plan::compositions,
};

/// What is asked of an endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Questions<'a> {
    /// Requests of one row each, in the form that the server takes.
    pub(super) rows: &'a [Request],
    /// Whether they were made at random.
    pub(super) made: bool,
    /// The most rows of a call; one where there is nothing to merge.
    pub(super) most: usize,
    pub(super) repeat: u32,
    pub(super) tolerance: f64,
    pub(super) seed: u64,
}

impl Questions<'_> {
    fn unanswered(&self, row: usize, source: inference::Error) -> Error {
        let made = self.made;
        Error::NoAnswer { row, made, source }
    }
}

/// What was seen of an endpoint.
#[derive(Clone, Debug, Default)]
pub(super) struct Observed {
    /// How many rows were asked for.
    pub(super) rows: usize,
    /// How many rows the largest merged call had; none where nothing was merged.
    pub(super) most: usize,
    /// How often each row was asked for alone.
    pub(super) repeat: u32,
    pub(super) tolerance: f64,
    /// The same row alone, asked again.
    pub(super) again: Finding,
    /// Rows in merged calls against the same alone.
    pub(super) merged: Finding,
    /// How many merged calls were answered.
    pub(super) calls: usize,
    /// The same merged call, asked again.
    pub(super) merged_again: Finding,
    /// Why merged calls, or their answers, come to nothing.
    pub(super) fault: Option<String>,
    /// The median times of a call of one row and of one of `most`.
    pub(super) times: Times,
}

/// How long calls take, at the median.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) alone: Option<Duration>,
    pub(super) merged: Option<Duration>,
}

/// Asks for each row alone and again, and for rows in many compositions.
///
/// # Errors
///
/// Fails where a row alone has no answer: then nothing can be said.
pub(super) async fn observe(asker: &Asker, questions: Questions<'_>) -> Result<Observed, Error> {
    let mut observed = Observed {
        rows: questions.rows.len(),
        repeat: questions.repeat,
        tolerance: questions.tolerance,
        ..Observed::default()
    };
    let alone = ask_alone(asker, questions, &mut observed).await?;
    let calls = compositions(questions.rows.len(), questions.most, questions.seed);
    if calls.is_empty() {
        return Ok(observed);
    }
    // A row without a row of its own in the answer has none among others either.
    for (row, answer) in alone.iter().enumerate() {
        if let Err(uneven) = inference::split(answer.clone(), &[1]) {
            observed.fault = Some(format!("row {row} alone: {uneven}"));
            return Ok(observed);
        }
    }
    merge(asker, questions, &alone, calls, &mut observed).await?;
    Ok(observed)
}

async fn ask_alone(
    asker: &Asker,
    questions: Questions<'_>,
    observed: &mut Observed,
) -> Result<Vec<Response>, Error> {
    let ask = async |row: usize| match questions.rows.get(row) {
        Some(request) => {
            let answer = asker.ask(request.clone()).await;
            answer.map_err(|source| questions.unanswered(row, source))
        }
        None => Err(Error::NoRows("there are none".to_owned())),
    };
    // The first call connects and warms up; its time is not the model's.
    ask(0).await?;
    let mut times = Vec::new();
    let mut first = Vec::with_capacity(questions.rows.len());
    for row in 0..questions.rows.len() {
        let Answer { response, took } = ask(row).await?;
        times.push(took);
        first.push(response);
    }
    let scales = Scales::of(first.iter().map(outputs));
    for _ in 1..questions.repeat {
        for (row, before) in first.iter().enumerate() {
            let Answer { response, took } = ask(row).await?;
            times.push(took);
            let place = Place { row, among: 1 };
            let (before, after) = (outputs(before), outputs(&response));
            let compared = compare(before, after, &scales, questions.tolerance);
            observed.again.take(compared, place);
        }
    }
    observed.times.alone = median(times);
    Ok(first)
}

async fn merge(
    asker: &Asker,
    questions: Questions<'_>,
    alone: &[Response],
    calls: Vec<Vec<usize>>,
    observed: &mut Observed,
) -> Result<(), Error> {
    let scales = Scales::of(alone.iter().map(outputs));
    let largest = calls.iter().map(Vec::len).max().unwrap_or_default();
    // The first rows once more, and often enough for a median.
    let full: Vec<usize> = (0..largest).collect();
    let again = (0..questions.repeat.max(TIMED)).map(|_| full.clone());
    let timed = calls.len();
    let (mut alone_times, mut times) = (Vec::new(), Vec::new());
    let mut before: Option<Vec<Response>> = None;
    for (number, call) in calls.into_iter().chain(again).enumerate() {
        if number >= timed
            && let Some(request) = questions.rows.first()
        {
            // In turn with the merged ones: what else the machine does slows both.
            let answer = asker.ask(request.clone()).await;
            let answer = answer.map_err(|source| questions.unanswered(0, source))?;
            alone_times.push(answer.took);
        }
        let members = call.iter().filter_map(|row| questions.rows.get(*row));
        let merged = match asker.ask(inference::concat(members)).await {
            Ok(merged) => merged,
            Err(error) => {
                // The model has fallen over, or is it the call that it cannot answer?
                let row = call.first().copied().unwrap_or_default();
                let Some(request) = questions.rows.get(row) else {
                    return Ok(());
                };
                let answer = asker.ask(request.clone()).await;
                answer.map_err(|source| questions.unanswered(row, source))?;
                let error = Error::whole(error.as_ref());
                observed.fault = Some(format!(
                    "a call of {} rows fails while a row alone is answered: {error}",
                    call.len()
                ));
                return Ok(());
            }
        };
        let divided = match inference::split(merged.response, &vec![1; call.len()]) {
            Ok(divided) => divided,
            Err(uneven) => {
                observed.fault = Some(format!("a call of {} rows: {uneven}", call.len()));
                return Ok(());
            }
        };
        observed.calls += 1;
        observed.most = observed.most.max(call.len());
        let tolerance = questions.tolerance;
        for (row, found) in call.iter().zip(&divided) {
            let Some(alone) = alone.get(*row) else {
                continue;
            };
            let place = Place {
                row: *row,
                among: call.len(),
            };
            let compared = compare(outputs(alone), outputs(found), &scales, tolerance);
            observed.merged.take(compared, place);
        }
        if number < timed {
            continue;
        }
        times.push(merged.took);
        match &before {
            None => before = Some(divided),
            Some(before) => {
                for (row, (before, after)) in before.iter().zip(&divided).enumerate() {
                    let compared = compare(outputs(before), outputs(after), &scales, tolerance);
                    let among = call.len();
                    observed.merged_again.take(compared, Place { row, among });
                }
            }
        }
    }
    observed.times = Times {
        alone: median(alone_times),
        merged: median(times),
    };
    Ok(())
}

fn outputs(response: &Response) -> &[Tensor] {
    &response.outputs
}

fn median(mut times: Vec<Duration>) -> Option<Duration> {
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

/// So many calls tell a median, however few repeats tell whether answers differ.
const TIMED: u32 = 7;

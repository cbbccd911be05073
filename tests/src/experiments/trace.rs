//! Figure 4, from the first call on: how the size of batches follows what the model does.

use std::collections::BTreeMap;
use std::time::Duration;

use outrigger::demo::load::{Load, Pace, Running, Target};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::admin::learned;
use super::containers::{Call, Recorder};
use super::plot::{Panel, Sheet, Style};
use super::scale::Kind;
use super::subject::{Subject, Way};
use super::throughput::{SCALE, callers};
use super::{Findings, Options, short, spread};
use crate::bench::Result;
use crate::bench::curves::Curve;
use crate::bench::demand::progress;
use crate::bench::message;
use crate::bench::process::pause;
use crate::bench::table::Table;

/// What happened from a cold start on, call by call.
#[derive(Clone, Debug)]
struct Trace {
    calls: Vec<Call>,
    /// The limit at each call's end.
    limits: Vec<f64>,
    /// The first call that was slower, and the first that was fast again.
    slower: usize,
    faster: usize,
    /// Rows of the best static batch, and the objective.
    best: f64,
    objective: Duration,
}

/// How soon a trace was where it should be: the number of the first call that was, from 1.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Progress {
    /// From a cold start on, with 80 % of the rows of the best static batch.
    reached: Option<usize>,
    /// After the model became twice as slow, within the objective.
    yielded: Option<usize>,
    /// After it became fast again, with 80 % of the rows that calls had before.
    back: Option<usize>,
    /// The share of calls over the objective, but for those before it yielded.
    over: f64,
}

/// Makes traces, prints a table, and returns what was found. `best` has the rows of the best static
/// batches that a search has found, by curve.
pub fn run(best: &BTreeMap<&str, u64>, options: &Options) -> Result<Findings> {
    let mut table = Table::new([
        "container",
        "controller",
        "best static",
        "calls to 80%",
        "calls over",
        "calls to yield",
        "calls to be back",
    ]);
    let mut sheet = Sheet::new("Figure 4: batches from a cold start", 2).note(
        "Every call could be filled. Shaded: the model is twice as slow. Best static: of the sizes that were searched, or what theory expects.",
    );
    let mut all = Vec::new();
    let curves = if options.quick {
        1
    } else {
        options.curves.len()
    };
    let controllers: &[&'static str] = if options.quick {
        &["quantile"]
    } else {
        &["aimd", "quantile"]
    };
    for curve in options.curves.iter().copied().take(curves) {
        for controller in controllers.iter().copied() {
            let way = Way::Controller(controller);
            let mut traces = Vec::new();
            for _ in 0..options.repeats {
                progress(format_args!("{} {controller} trace:", curve.name));
                let best = best.get(curve.name).copied();
                traces.push(follow(curve, way, best, options)?);
                progress(format_args!("\n"));
            }
            let paces: Vec<_> = traces.iter().map(Trace::progress).collect();
            let median = |of: fn(&Progress) -> Option<usize>| {
                let reached: Vec<f64> = paces
                    .iter()
                    .map(|pace| of(pace).map_or(f64::INFINITY, |calls| calls as f64))
                    .collect();
                spread(&reached).1
            };
            let over: Vec<f64> = paces.iter().map(|pace| pace.over).collect();
            let best = traces.first().map_or(f64::NAN, |trace| trace.best);
            table.row([
                curve.name.into(),
                controller.into(),
                short(best),
                short(median(|pace| pace.reached)),
                format!("{:.1}%", spread(&over).1 * 100.0),
                short(median(|pace| pace.yielded)),
                short(median(|pace| pace.back)),
            ]);
            sheet.extend(traces.first().map(|trace| trace.panel(curve, controller)));
            all.push(json!({
                "container": curve.name,
                "controller": controller,
                "best_static_rows": best,
                "repeats": traces.iter().map(Trace::figures).collect::<Vec<_>>(),
                "first_at_ms_rows_took_ms_limit": traces.first().map(Trace::course),
            }));
        }
    }
    println!(
        "Calls until 80% of the best static batch (paper's research code: 155 to 521), over the objective, until one is in time\nafter the model became twice as slow, and until 80% of the rows after it became fast again\n\n{table}"
    );
    Ok(Findings {
        figures: all.into(),
        pictures: vec![("fig4-trace", sheet)],
    })
}

/// Starts cold, makes the model slower, and fast again.
fn follow(curve: Curve, way: Way, best: Option<u64>, options: &Options) -> Result<Trace> {
    let subject = Subject::synthetic(curve, options.scale.unwrap_or(SCALE))?;
    let handle = subject.handle.clone().ok_or("it is in this process")?;
    let recorder = Recorder::start(handle)?;
    let proxy = subject.behind(way, "", options)?;
    let objective = subject.objective();
    let callers = callers(&subject);
    let [cold, slow, back] = if options.quick {
        [50, 25, 30]
    } else {
        [100, 50, 100]
    };
    let longest = objective.mul_f64(3.0) * (cold + slow + back) as u32;

    let connections = callers.div_ceil(50).clamp(4, 64);
    let target = Target::new(proxy.address, message::INFER)?.connections(connections);
    let running = Load::new(target, Pace::Closed { callers }, subject.calls.clone())
        .lasting(longest)
        .patience(objective * 20)
        .start()?;
    let mut polled: Vec<(Instant, f64)> = Vec::new();
    let mut until = |running: &Running, calls: usize| -> Result<()> {
        while recorder.count() < calls {
            if running.is_over() {
                return Err(format!("{}: {calls} calls take too long", curve.name).into());
            }
            let limits = learned(proxy.admin, &subject.name)?;
            let limit = limits.first().map_or(f64::NAN, |endpoint| endpoint.limit);
            polled.push((Instant::now(), limit));
            pause(objective / 20);
        }
        Ok(())
    };
    until(&running, cold)?;
    subject.slow_down(2.0);
    let slower = recorder.count();
    until(&running, slower + slow)?;
    subject.slow_down(1.0);
    let faster = recorder.count();
    until(&running, faster + back)?;
    running.stop();
    let report = running.wait();
    progress(format_args!(" {} calls", recorder.count()));
    if report.answered() == 0 {
        return Err(format!("{}: nothing was answered:\n{report}", curve.name).into());
    }
    // The answers that nobody waited for any more are no part of it.
    let calls: Vec<Call> = recorder.calls(0).into_iter().take(faster + back).collect();
    let limits = calls
        .iter()
        .map(|call| limit_at(&polled, call.at))
        .collect();
    let usual = |call: &Call| call.took.as_secs_f64() < subject.curve.cost(call.rows) * BETWEEN;
    // A call that was under way at the change took as long as before.
    let slower = first(&calls, slower, |call| !usual(call));
    let faster = first(&calls, faster, usual);
    Ok(Trace {
        calls,
        limits,
        slower,
        faster,
        best: best.map_or_else(|| expected(subject.curve, objective), |rows| rows as f64),
        objective,
    })
}

/// The rows of the best static batch, where none was searched for: what keeps to three quarters of
/// the objective and leaves the queue the rest. Where that is not even two rows, all of it.
fn expected(curve: Curve, objective: Duration) -> f64 {
    let within = |share: f64| (objective.as_secs_f64() * share - curve.beta) / curve.alpha;
    let rows = match within(0.75) {
        rows if rows < 2.0 => within(1.0),
        rows => rows,
    };
    rows.floor().max(1.0)
}

/// The first call from this one on of which something is true, or this one.
fn first(calls: &[Call], from: usize, wanted: impl Fn(&Call) -> bool) -> usize {
    let rest = calls.get(from..).unwrap_or_default();
    from + rest.iter().position(wanted).unwrap_or(0)
}

/// What the limit was at a moment: what was read last before it.
fn limit_at(polled: &[(Instant, f64)], at: Instant) -> f64 {
    let after = polled.partition_point(|(read, _)| *read <= at);
    polled
        .get(after.saturating_sub(1))
        .map_or(f64::NAN, |(_, limit)| *limit)
}

impl Trace {
    fn progress(&self) -> Progress {
        let in_time = |call: &Call| call.took <= self.objective;
        let full = |(n, _): &(usize, &Call)| !self.is_held_out(*n);
        let calls: Vec<(usize, &Call)> = self.calls.iter().enumerate().filter(full).collect();
        let between = |from: usize, to: usize| {
            let within = move |(n, _): &&(usize, &Call)| (from..to).contains(n);
            calls.iter().filter(within).map(|(_, call)| *call)
        };
        let end = self.calls.len();
        let before = between(0, self.slower).next_back();
        let before = before.map_or(self.best, |call| call.rows);
        let yielded = between(self.slower, self.faster).position(in_time);
        // Those at fault are the ones after that, and those before the model was slower.
        let slow = self.slower + yielded.unwrap_or(0);
        let counted = between(0, self.slower).chain(between(slow, end));
        let late = counted.clone().filter(|call| !in_time(call)).count();
        Progress {
            reached: between(0, end)
                .position(|call| call.rows >= SHARE * self.best)
                .map(|n| n + 1),
            yielded: yielded.map(|n| n + 1),
            back: between(self.faster, end)
                .position(|call| call.rows >= SHARE * before)
                .map(|n| n + 1),
            over: late as f64 / counted.count().max(1) as f64,
        }
    }

    /// Whether a call is a request that the meter of the benefit sends by itself: every other
    /// could be filled.
    fn is_held_out(&self, call: usize) -> bool {
        let limit = self.limits.get(call).copied().unwrap_or(f64::NAN);
        self.calls[call].rows == 1.0 && limit >= 4.0
    }

    fn panel(&self, curve: Curve, controller: &str) -> Panel {
        let numbered = |figures: Vec<f64>| figures.into_iter().enumerate();
        let points = |figures| numbered(figures).map(|(n, figure)| (n as f64 + 1.0, figure));
        let rows = self.calls.iter().map(|call| call.rows).collect();
        Panel::new(
            format!("{}, {controller}", curve.name),
            ("calls", Kind::Linear),
            ("rows", Kind::Linear),
        )
        .band("twice as slow", self.slower as f64, self.faster as f64)
        .series("limit", Style::Steps, points(self.limits.clone()))
        .series("rows of the call", Style::Points, points(rows))
        .level("best static", self.best)
    }

    fn figures(&self) -> Value {
        let progress = self.progress();
        json!({
            "calls_to_80_percent": progress.reached,
            "calls_to_yield": progress.yielded,
            "calls_to_be_back": progress.back,
            "share_over_objective": progress.over,
            "slower_from_call": self.slower,
            "faster_from_call": self.faster,
        })
    }

    /// What is drawn: of each call when it was over, its rows, how long it took, and the limit.
    fn course(&self) -> Value {
        let started = self.calls.first().map(|call| call.at - call.took);
        let calls = self.calls.iter().zip(&self.limits).map(|(call, limit)| {
            let since = started.map_or(0.0, |started| (call.at - started).as_secs_f64());
            json!([
                round(since * 1e3),
                call.rows,
                round(call.took.as_secs_f64() * 1e3),
                limit
            ])
        });
        calls.collect()
    }
}

fn round(millis: f64) -> f64 {
    (millis * 10.0).round() / 10.0
}

/// Between what a call takes, and what it takes when the model is twice as slow.
const BETWEEN: f64 = 1.5;
/// The share of the best static batch that counts as reached.
const SHARE: f64 = 0.8;

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(calls: &[(f64, u64)], slower: usize, faster: usize) -> Trace {
        let at = Instant::now();
        let calls = calls.iter().map(|(rows, millis)| Call {
            at,
            rows: *rows,
            took: Duration::from_millis(*millis),
        });
        Trace {
            calls: calls.collect(),
            limits: Vec::new(),
            slower,
            faster,
            best: 100.0,
            objective: Duration::from_millis(20),
        }
    }

    #[test]
    fn calls_are_counted_until_the_trace_is_where_it_should_be() {
        let calls = [
            (1.0, 2),
            (50.0, 7),
            (80.0, 12),
            (100.0, 15),
            // Twice as slow.
            (100.0, 30),
            (60.0, 21),
            (50.0, 18),
            // Fast again.
            (50.0, 9),
            (90.0, 14),
        ];
        let progress = trace(&calls, 4, 7).progress();
        let expected = Progress {
            reached: Some(3),
            yielded: Some(3),
            back: Some(2),
            over: 0.0,
        };
        assert_eq!(progress, expected);
    }

    #[test]
    fn a_request_that_is_held_out_of_batches_is_no_batch() {
        let calls = [
            (50.0, 7),
            (90.0, 14),
            (90.0, 28),
            (1.0, 8),
            (60.0, 24),
            (45.0, 16),
        ];
        let mut trace = trace(&calls, 2, 6);
        trace.limits = vec![50.0, 90.0, 90.0, 45.0, 45.0, 45.0];
        assert_eq!(trace.progress().yielded, Some(3));
        trace.limits = vec![1.0; 6];
        assert_eq!(
            trace.progress().yielded,
            Some(2),
            "where every call has one row, it is one"
        );
    }

    #[test]
    fn what_is_never_reached_is_not_counted() {
        let progress = trace(&[(1.0, 30), (1.0, 30), (1.0, 30)], 1, 2).progress();
        assert_eq!((progress.reached, progress.yielded), (None, None));
        assert_eq!(progress.over, 1.0);
    }

    #[test]
    fn the_limit_is_the_last_that_was_read() {
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let polled = [(after(0), 1.0), (after(10), 2.0)];
        assert_eq!(limit_at(&polled, after(9)), 1.0);
        assert_eq!(limit_at(&polled, after(10)), 2.0);
        assert_eq!(limit_at(&polled[..1], after(99)), 1.0);
        assert!(limit_at(&[], start).is_nan());
    }
}

//! The rule against a sweep of fixed delays, event by event: no runtime and no clock.
//!
//! One endpoint, one call at a time, on the cost curves of Clipper's containers with a little
//! noise. The rule knows of costs what [`Costs`] learns from the calls. [`LOADS`] says what comes.
//!
//! *Single* is 1 / (beta + alpha), what the endpoint answers without any batches; *batched* is what
//! it answers in batches of the best static limit. Answers within 20 ms are good ones. Requests of
//! an open load whose time is over are dropped; callers of a closed one wait for ever.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    fmt::{self, Write},
    time::Duration,
};

use tokio::time::Instant;

use super::{Delay, Waiting};
use crate::{
    batch::controller::{BatchLimit, Call, Costs, Fixed, Quantile},
    random::Random,
};

#[derive(Clone, Copy, Debug)]
struct Curve {
    name: &'static str,
    /// Microseconds of a call, and of a row.
    beta: f64,
    alpha: f64,
    /// The most rows that three quarters of the objective leave time for; of the kernel SVM two.
    limit: usize,
}

const CURVES: [Curve; 6] = [
    Curve::new("no-op", 813., 19., 746),
    Curve::new("logistic regression", 783., 24., 592),
    Curve::new("linear SVM", 3671., 12.5, 906),
    Curve::new("PySpark SVM", 1088., 34., 409),
    Curve::new("random forest", 7663., 32., 229),
    Curve::new("kernel SVM", 5889., 5062., 2),
];

/// What comes.
#[derive(Clone, Copy, Debug)]
enum Load {
    /// Requests of one row by chance, at so many times what single calls answer.
    Single(f64),
    /// The same, at so many times what the best batches answer.
    Batched(f64),
    /// Callers, each of whom asks again so long after its answer: at least, and how much longer at
    /// most.
    Closed(usize, f64, f64),
    /// So many requests within a time, and again after another time by chance.
    Bursts(usize, f64, f64),
    /// The same, but as many as chance will have it, up to twice as many.
    Uneven(usize, f64, f64),
}

/// All times are in milliseconds.
const LOADS: [Load; 19] = [
    Load::Single(0.1),
    Load::Single(0.3),
    Load::Single(0.9),
    Load::Single(1.5),
    Load::Single(3.),
    Load::Batched(0.3),
    Load::Batched(0.9),
    Load::Closed(1, 0., 1.),
    Load::Closed(2, 0., 1.),
    Load::Closed(4, 0., 1.),
    Load::Closed(8, 0., 0.2),
    Load::Closed(32, 0., 1.),
    Load::Closed(32, 0.5, 0.1),
    Load::Closed(128, 0., 1.),
    Load::Closed(32, 0., 4.),
    Load::Bursts(8, 10., 0.1),
    Load::Bursts(32, 30., 0.2),
    Load::Bursts(32, 30., 1.),
    Load::Uneven(16, 20., 0.3),
];

/// The fixed delays of the sweep: from the oldest one's arrival, unless the batch is full.
const SWEEP: [f64; 7] = [0., 0.25, 0.5, 1., 2., 5., 10.];

/// What decides when to send.
#[derive(Debug)]
enum Policy {
    Fixed(Duration),
    Rule(Box<Delay>),
}

/// What came of a load.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    /// Good answers a second.
    good: f64,
    /// Milliseconds.
    mean: f64,
    p99: f64,
    /// Calls a second.
    calls: f64,
}

/// What happens next: an arrival, or a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival,
    Burst,
}

struct Arrivals {
    load: Load,
    /// Requests a second, of those that come by chance.
    rate: f64,
    random: Random,
    thinking: Random,
    next: BinaryHeap<Reverse<(Duration, Event)>>,
}

impl Curve {
    const fn new(name: &'static str, beta: f64, alpha: f64, limit: usize) -> Self {
        Self {
            name,
            beta,
            alpha,
            limit,
        }
    }

    /// Seconds of a call.
    fn time(self, rows: usize) -> f64 {
        (self.beta + self.alpha * rows as f64) * 1e-6
    }

    fn rate(self, load: Load) -> f64 {
        match load {
            Load::Single(share) => share / self.time(1),
            Load::Batched(share) => share * self.limit as f64 / self.time(self.limit),
            _ => 0.,
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Single(share) => write!(f, "{share} of single"),
            Self::Batched(share) => write!(f, "{share} of batched"),
            Self::Closed(callers, least, more) => {
                write!(
                    f,
                    "{callers} callers, back in {least} to {} ms",
                    least + more
                )
            }
            Self::Bursts(size, every, within) => {
                write!(f, "{size} within {within} ms, every {every} ms")
            }
            Self::Uneven(size, every, within) => {
                write!(f, "1 to {} within {within} ms, every {every} ms", 2 * size)
            }
        }
    }
}

/// Good answers a second, the mean and the p99 in milliseconds, and calls a second.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            good,
            mean,
            p99,
            calls,
        } = self;
        write!(f, "{good:.0}, {mean:.2}, {p99:.2}, {calls:.0}")
    }
}

impl Arrivals {
    fn new(load: Load, rate: f64, seed: u64) -> Self {
        let mut arrivals = Self {
            load,
            rate,
            random: Random::new(seed),
            thinking: Random::new(!seed),
            next: BinaryHeap::new(),
        };
        match load {
            Load::Single(_) | Load::Batched(_) => arrivals.chance(Duration::ZERO),
            Load::Closed(callers, ..) => {
                (0..callers).for_each(|_| arrivals.think(Duration::ZERO));
            }
            Load::Bursts(..) | Load::Uneven(..) => arrivals.burst(Duration::ZERO),
        }
        arrivals
    }

    fn push(&mut self, at: Duration, event: Event) {
        self.next.push(Reverse((at, event)));
    }

    fn chance(&mut self, now: Duration) {
        let after = self.random.exponential() / self.rate;
        self.push(now + Duration::from_secs_f64(after), Event::Arrival);
    }

    /// A caller has its answer, and asks again.
    fn think(&mut self, now: Duration) {
        if let Load::Closed(_, least, more) = self.load {
            let after = least + more * self.thinking.uniform();
            self.push(now + millis(after), Event::Arrival);
        }
    }

    fn burst(&mut self, now: Duration) {
        let (Load::Bursts(size, every, within) | Load::Uneven(size, every, within)) = self.load
        else {
            return;
        };
        let at = now + millis(every * self.random.exponential());
        let size = match self.load {
            Load::Uneven(..) => 1 + (self.random.uniform() * 2. * size as f64) as usize,
            _ => size,
        };
        for _ in 0..size {
            let after = within * self.random.uniform();
            self.push(at + millis(after), Event::Arrival);
        }
        self.push(at, Event::Burst);
    }

    /// Returns when the next request comes.
    fn peek(&mut self) -> Duration {
        while let Some(Reverse((at, Event::Burst))) = self.next.peek().copied() {
            self.next.pop();
            self.burst(at);
        }
        self.next.peek().map_or(Duration::MAX, |next| next.0.0)
    }

    fn pop(&mut self, now: Duration) {
        self.next.pop();
        if let Load::Single(_) | Load::Batched(_) = self.load {
            self.chance(now);
        }
    }
}

fn millis(millis: f64) -> Duration {
    Duration::from_secs_f64(millis * 1e-3)
}

fn rule(max: f64) -> Policy {
    Policy::Rule(Box::new(Delay::new(millis(max))))
}

/// Runs a load for so many requests, and tells what came of the last four fifths. Timers go off
/// at the next whole tick, if there are ticks.
fn run(
    curve: Curve,
    load: Load,
    limit: &mut dyn BatchLimit,
    mut policy: Policy,
    tick: Duration,
    requests: usize,
) -> Outcome {
    let origin = Instant::now();
    let mut arrivals = Arrivals::new(load, curve.rate(load), SEED);
    let mut noise = Random::new(SEED + 1);
    let mut costs = Costs::default();
    let mut waiting: VecDeque<Duration> = VecDeque::new();
    // When the call under way ends, when it began, and when its requests came.
    let mut call: Option<(Duration, Duration, Vec<Duration>)> = None;
    let (mut wake, mut free) = (Duration::MAX, Duration::ZERO);
    let mut latencies = Vec::with_capacity(requests);
    let (mut done, mut calls, mut warm) = (0, 0_usize, None);
    let mut now = Duration::ZERO;
    while done < requests {
        let ends = call.as_ref().map_or(Duration::MAX, |call| call.0);
        let comes = arrivals.peek();
        now = ends.min(comes).min(wake);
        if ends <= now {
            let (_, began, members) = call.take().expect("it ends");
            let rows = members.len();
            costs.observe(rows as f64, (now - began).as_secs_f64());
            limit.observe(&Call {
                rows,
                requests: rows,
                full: rows == limit.limit(curve.limit),
                answered: true,
                queue: began - members[0],
                model: now - began,
                most: curve.limit,
                places: 1,
            });
            if let Policy::Rule(delay) = &mut policy {
                delay.answered(origin + now, rows, costs.line());
            }
            free = now;
            done += rows;
            for arrived in members {
                latencies.push((now - arrived).as_secs_f64() * 1e3);
                arrivals.think(now);
            }
        } else if comes <= now {
            arrivals.pop(now);
            waiting.push_back(now);
            if let Policy::Rule(delay) = &mut policy {
                delay.arrived(origin + now, 1);
            }
        }
        if done >= requests / 5 && warm.is_none() {
            warm = Some((now, calls));
            latencies.clear();
        }
        wake = Duration::MAX;
        if call.is_some() {
            continue;
        }
        let closed = matches!(load, Load::Closed(..));
        let hopeless = |arrived: &Duration| {
            let least = Duration::from_secs_f64(curve.time(1));
            !closed && *arrived + OBJECTIVE < now + least
        };
        while waiting.front().is_some_and(hopeless) {
            waiting.pop_front();
            done += 1;
        }
        let Some(&oldest) = waiting.front() else {
            continue;
        };
        let most = limit.limit(curve.limit);
        let rows = waiting.len().min(most);
        let takes = Duration::from_secs_f64(curve.time(rows));
        let until = match &policy {
            Policy::Fixed(delay) => (rows < most).then_some(oldest + *delay),
            Policy::Rule(delay) => {
                let latest = (oldest + OBJECTIVE).saturating_sub(takes);
                let until = delay.until(&Waiting {
                    now: origin + now,
                    rows,
                    since: origin + oldest.max(free),
                    limit: most,
                    latest: (!closed).then_some(origin + latest),
                    line: costs.line(),
                });
                until.map(|until| until - origin)
            }
        };
        match until {
            Some(until) if until > now => {
                wake = match tick.is_zero() {
                    true => until,
                    false => tick * until.as_nanos().div_ceil(tick.as_nanos()) as u32,
                };
            }
            _ => {
                calls += 1;
                let takes = takes.mul_f64(1. + NOISE * noise.exponential());
                call = Some((now + takes, now, waiting.drain(..rows).collect()));
            }
        }
    }
    let (since, before) = warm.expect("a fifth is over");
    let seconds = (now - since).as_secs_f64();
    let good = |latency: &&f64| **latency <= OBJECTIVE.as_secs_f64() * 1e3;
    let good = latencies.iter().filter(good).count() as f64 / seconds;
    let mean = latencies.iter().sum::<f64>() / latencies.len().max(1) as f64;
    let at = latencies.len() * 99 / 100;
    Outcome {
        good,
        mean,
        p99: *latencies.select_nth_unstable_by(at, f64::total_cmp).1,
        calls: (calls - before) as f64 / seconds,
    }
}

/// Returns what comes of the best delay of the sweep, up to a bound: of those whose goodput is the
/// highest within a hundredth, the one of the least mean.
fn best(max: f64, mut run: impl FnMut(f64) -> Outcome) -> (f64, Outcome) {
    let swept: Vec<(f64, Outcome)> = SWEEP
        .into_iter()
        .filter(|delay| *delay <= max)
        .map(|delay| (delay, run(delay)))
        .collect();
    let good = swept.iter().map(|(_, of)| of.good).fold(0., f64::max);
    let most = swept.into_iter().filter(|(_, of)| of.good >= 0.99 * good);
    most.min_by(|(_, one), (_, other)| one.mean.total_cmp(&other.mean))
        .expect("the sweep is not empty")
}

/// Holds the rule against the sweep, prints a row of the table, and tells what is wrong.
fn compare(
    curve: Curve,
    load: Load,
    max: f64,
    tick: Duration,
    limit: impl Fn() -> Box<dyn BatchLimit>,
    table: &mut String,
) -> Option<String> {
    let run = |policy| run(curve, load, &mut *limit(), policy, tick, REQUESTS);
    let none = run(Policy::Fixed(Duration::ZERO));
    let (delay, best) = best(max, |delay| match delay > 0. {
        true => run(Policy::Fixed(millis(delay))),
        false => none,
    });
    let ours = run(rule(max));
    let row = format!(
        "| {} | {load} | {none} | {delay} ms: {best} | {ours} |",
        curve.name
    );
    writeln!(table, "{row}").expect("a string takes all");
    let even = matches!(load, Load::Single(_) | Load::Batched(_));
    let light = matches!(load, Load::Single(share) if share <= 0.1);
    // Under waves what is best for the mean and what is for the p99 are not the same delay.
    let (mean, p99) = match (tick.is_zero(), even) {
        (_, true) => (1.05, 1.05),
        (true, false) => (1.05, 1.15),
        (false, false) => (1.1, 1.4),
    };
    let fine = ours.good >= 0.95 * best.good
        && ours.mean <= mean * best.mean
        && ours.p99 <= p99 * best.p99
        && (!light || ours.mean <= 1.01 * none.mean);
    (!fine).then_some(row)
}

fn table() -> String {
    "\n| model | load | none | best fixed delay | the rule |\n| --- | --- | --- | --- | --- |\n"
        .into()
}

/// Two rows of the kernel SVM at most: what is over its capacity fills every call.
fn is_over(curve: Curve, load: Load) -> bool {
    curve.limit <= 2
        && match load {
            Load::Single(share) => share > 1.5,
            Load::Batched(_) => false,
            Load::Closed(callers, ..) => callers > 2,
            Load::Bursts(..) | Load::Uneven(..) => true,
        }
}

#[test]
fn no_fixed_delay_is_better_by_more_than_a_twentieth() {
    let (mut table, mut faults) = (table(), Vec::new());
    for curve in CURVES {
        for load in LOADS.into_iter().filter(|load| !is_over(curve, *load)) {
            let limit = || Box::new(Fixed) as Box<dyn BatchLimit>;
            faults.extend(compare(curve, load, 5., Duration::ZERO, limit, &mut table));
        }
    }
    println!("{table}");
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn nor_is_any_where_the_limit_of_rows_is_learned_and_the_bound_is_twice_that() {
    let (mut table, mut faults) = (table(), Vec::new());
    for curve in CURVES {
        for load in LOADS.into_iter().filter(|load| !is_over(curve, *load)) {
            if matches!(load, Load::Closed(4.., ..)) {
                continue;
            }
            let limit = || Box::new(Quantile::new(OBJECTIVE)) as Box<dyn BatchLimit>;
            faults.extend(compare(curve, load, 10., Duration::ZERO, limit, &mut table));
        }
    }
    println!("{table}");
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn timers_that_go_off_every_millisecond_are_no_reason_to_wait_for_long() {
    let (mut table, mut faults) = (table(), Vec::new());
    let tick = Duration::from_millis(1);
    for curve in [CURVES[0], CURVES[2]] {
        for load in LOADS {
            let limit = || Box::new(Fixed) as Box<dyn BatchLimit>;
            faults.extend(compare(curve, load, 5., tick, limit, &mut table));
        }
    }
    println!("{table}");
    assert!(faults.is_empty(), "{faults:#?}");
}

const REQUESTS: usize = 6000;
const OBJECTIVE: Duration = Duration::from_millis(20);
const NOISE: f64 = 0.02;
const SEED: u64 = 7;

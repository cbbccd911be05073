//! The controllers against the cost curves of Clipper's containers, event by event.
//!
//! One endpoint, one call at a time, requests of one row that arrive by a Poisson process: no
//! runtime and no clock. A million requests take a second.

use std::{collections::VecDeque, time::Duration};

use proptest::prelude::*;

use super::{Aimd, BatchLimit, Call};

/// What a call costs: `beta + alpha * rows` seconds.
#[derive(Clone, Copy, Debug)]
struct Curve {
    beta: f64,
    alpha: f64,
    /// The mean of an exponential part that comes on top, as a share of the whole.
    jitter: f64,
}

/// No-op, logistic regression, linear SVM, PySpark SVM, random forest, kernel SVM: microseconds.
const CURVES: [(f64, f64); 6] = [
    (813., 19.),
    (783., 24.),
    (3671., 12.5),
    (1088., 34.),
    (7663., 32.),
    (5889., 5062.),
];
const OBJECTIVE: Duration = Duration::from_millis(20);
const MOST: usize = 4096;

/// A generator that is the same everywhere (splitmix64).
#[derive(Clone, Debug)]
struct Random(u64);

#[derive(Clone, Copy, Debug)]
struct Static(usize);

impl Curve {
    fn new((beta, alpha): (f64, f64), jitter: f64) -> Self {
        Self {
            beta: beta * 1e-6,
            alpha: alpha * 1e-6,
            jitter,
        }
    }

    fn time(self, rows: usize, random: &mut Random) -> f64 {
        (self.beta + self.alpha * rows as f64) * (1. + self.jitter * random.exponential())
    }

    /// The most rows that take no longer.
    fn rows_within(self, seconds: f64) -> usize {
        ((seconds - self.beta) / self.alpha).max(1.) as usize
    }

    fn slower(self, factor: f64) -> Self {
        Self {
            beta: self.beta * factor,
            alpha: self.alpha * factor,
            ..self
        }
    }
}

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn exponential(&mut self) -> f64 {
        -(1. - self.uniform()).ln()
    }
}

impl BatchLimit for Static {
    fn limit(&self, most: usize) -> usize {
        self.0.min(most)
    }

    fn observe(&mut self, _: &Call) {}
}

/// Returns the p99 of whole requests, in seconds, once the first fifth has passed.
fn p99(curve: Curve, limit: &mut dyn BatchLimit, rate: f64, seed: u64) -> f64 {
    let requests = ((rate * 20.) as usize).clamp(15_000, 60_000);
    let (mut arriving, mut noise) = (Random(seed), Random(!seed));
    let mut waiting = VecDeque::new();
    let mut latencies = Vec::with_capacity(requests);
    let (mut now, mut next, mut left) = (0_f64, arriving.exponential() / rate, requests);
    while left > 0 || !waiting.is_empty() {
        if waiting.is_empty() {
            now = now.max(next);
        }
        while left > 0 && next <= now {
            waiting.push_back(next);
            next += arriving.exponential() / rate;
            left -= 1;
        }
        let most = limit.limit(MOST);
        let rows = waiting.len().min(most);
        let model = curve.time(rows, &mut noise);
        let queue = now - waiting[0];
        now += model;
        latencies.extend(waiting.drain(..rows).map(|arrived| now - arrived));
        limit.observe(&call(rows, rows == most, queue, model));
    }
    let mut latencies = latencies.split_off(requests / 5);
    let at = latencies.len() * 99 / 100;
    *latencies.select_nth_unstable_by(at, f64::total_cmp).1
}

fn call(rows: usize, full: bool, queue: f64, model: f64) -> Call {
    Call {
        rows,
        full,
        queue: Duration::from_secs_f64(queue),
        model: Duration::from_secs_f64(model),
        most: MOST,
    }
}

/// Tells whether most of three runs keep the p99 within the objective.
fn holds(curve: Curve, rate: f64, make: impl Fn() -> Box<dyn BatchLimit>) -> bool {
    let kept = |seed| p99(curve, &mut *make(), rate, seed) <= OBJECTIVE.as_secs_f64();
    [11, 22, 33].into_iter().filter(|seed| kept(*seed)).count() >= 2
}

/// Returns the highest rate at which a fixed limit holds the objective, within 4%.
fn throughput(curve: Curve, limit: usize) -> f64 {
    let (mut low, mut high) = (0.05 / curve.alpha, 1.2 / curve.alpha);
    if !holds(curve, low, || Box::new(Static(limit))) {
        // Of the rows that a batch makes cheap only the first is: hardly any load is held.
        low = 0.5;
    }
    while high / low > 1.04 {
        let rate = f64::sqrt(low * high);
        match holds(curve, rate, || Box::new(Static(limit))) {
            true => low = rate,
            false => high = rate,
        }
    }
    low
}

/// Runs calls under a load that fills every one of them, and returns the limits.
fn saturate(limit: &mut Aimd, curve: Curve, calls: usize, seed: u64) -> Vec<usize> {
    let mut noise = Random(seed);
    (0..calls)
        .map(|_| {
            let rows = limit.limit(MOST);
            limit.observe(&call(rows, true, 1., curve.time(rows, &mut noise)));
            rows
        })
        .collect()
}

#[test]
fn the_best_static_limit_is_matched_on_every_curve() {
    for costs in CURVES {
        for jitter in [0., 0.05] {
            let curve = Curve::new(costs, jitter);
            // Where rows are cheap, a limit over what comes in a call's time is as good as any.
            let sweep = match curve.alpha < 0.1 * curve.beta {
                true => [128, 512, MOST],
                false => [1, 2, 3],
            };
            let best = sweep
                .into_iter()
                .map(|limit| throughput(curve, limit))
                .fold(0., f64::max);
            assert!(
                holds(curve, 0.95 * best, || Box::new(Aimd::new(OBJECTIVE))),
                "{curve:?} at 0.95 of {best} requests a second"
            );
        }
    }
}

#[test]
fn a_cold_start_reaches_four_fifths_of_the_budget_within_thirty_calls() {
    for costs in CURVES {
        let curve = Curve::new(costs, 0.02);
        let target = curve.rows_within(OBJECTIVE.as_secs_f64() * super::aimd::MODEL_SHARE);
        let limits = saturate(&mut Aimd::new(OBJECTIVE), curve, 30, 1);
        assert!(
            limits[29] as f64 >= 0.8 * target as f64,
            "{limits:?} of {target} on {curve:?}"
        );
    }
}

#[test]
fn a_model_that_becomes_slow_is_followed_within_five_calls_and_back_within_fifty() {
    for costs in &CURVES[..4] {
        let curve = Curve::new(*costs, 0.);
        let mut limit = Aimd::new(OBJECTIVE);
        saturate(&mut limit, curve, 100, 1);
        let before = limit.limit(MOST) as f64;
        let slow = curve.slower(2.);
        saturate(&mut limit, slow, 5, 1);
        let time = slow.time(limit.limit(MOST), &mut Random(1));
        assert!(time <= OBJECTIVE.as_secs_f64(), "{time} on {curve:?}");
        saturate(&mut limit, slow, 300, 1);
        saturate(&mut limit, curve, 50, 1);
        let after = limit.limit(MOST) as f64;
        assert!(after >= 0.8 * before, "{after} of {before} on {curve:?}");
    }
}

#[test]
fn light_load_costs_nothing_of_the_limit() {
    let curve = Curve::new(CURVES[2], 0.05);
    let mut limit = Aimd::new(OBJECTIVE);
    saturate(&mut limit, curve, 100, 1);
    let before = limit.limit(MOST);
    for index in 0..10_000 {
        // Now and then a pause of the server hits one of the small calls.
        let pause = if index % 50 == 0 { 0.05 } else { 0. };
        limit.observe(&call(1, false, 0., 0.004 + pause));
    }
    assert_eq!(limit.limit(MOST), before);
}

#[test]
fn one_late_call_in_twenty_is_noise() {
    let curve = Curve::new(CURVES[2], 0.);
    let mut limit = Aimd::new(OBJECTIVE);
    saturate(&mut limit, curve, 200, 1);
    let before = limit.limit(MOST);
    for _ in 0..50 {
        let rows = limit.limit(MOST);
        limit.observe(&call(rows, true, 0., 0.2));
        for _ in 0..19 {
            limit.observe(&call(rows / 2, false, 0., 0.005));
        }
    }
    assert!(limit.limit(MOST) >= before);
}

#[test]
fn a_model_of_few_rows_settles_instead_of_swinging() {
    // With these objectives the model may have one, two and three rows; one more is late.
    for (millis, rows) in [(15, 1), (23, 2), (29, 3)] {
        let objective = Duration::from_millis(millis);
        let curve = Curve::new(CURVES[5], 0.);
        let mut limit = Aimd::new(objective);
        saturate(&mut limit, curve, 200, 1);
        let limits = saturate(&mut limit, curve, 1000, 1);
        let over = limits.iter().filter(|limit| **limit > rows).count();
        let under = limits.iter().filter(|limit| **limit < rows).count();
        assert!(over <= 30, "{over} of 1000 calls over {rows} rows");
        assert!(under <= 200, "{under} of 1000 calls under {rows} rows");
    }
}

#[test]
fn an_overloaded_queue_does_not_make_batches_smaller() {
    for costs in CURVES {
        let curve = Curve::new(costs, 0.);
        let target = curve.rows_within(OBJECTIVE.as_secs_f64() * super::aimd::MODEL_SHARE);
        let mut limit = Aimd::new(OBJECTIVE);
        saturate(&mut limit, curve, 1000, 1);
        let limits = saturate(&mut limit, curve, 1000, 1);
        let mean = limits.iter().sum::<usize>() as f64 / limits.len() as f64;
        assert!(
            mean >= 0.85 * target as f64,
            "{mean} of {target} on {curve:?}"
        );
    }
}

#[test]
fn an_objective_that_one_row_breaks_does_not_cost_the_throughput() {
    // Half of the highest throughput there is: rows then cost as much as the call itself.
    for (costs, least) in [
        ((50_000., 100.), 500),
        ((30_000., 1000.), 30),
        ((40_000., 50_000.), 1),
    ] {
        let curve = Curve::new(costs, 0.02);
        let mut limit = Aimd::new(OBJECTIVE);
        saturate(&mut limit, curve, 200, 1);
        let limits = saturate(&mut limit, curve, 1000, 1);
        let mean = limits.iter().sum::<usize>() as f64 / limits.len() as f64;
        let share = mean / least as f64;
        assert!((0.5..2.).contains(&share), "{mean} of {least} on {curve:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_limit_keeps_its_bounds_for_any_latencies(
        calls in prop::collection::vec(
            (1..5000_usize, any::<bool>(), 0..u64::MAX, prop_oneof![0..100_000_u64, any::<u64>()]),
            0..200,
        ),
        most in 1..5000_usize,
    ) {
        let mut limit = Aimd::new(OBJECTIVE);
        for (rows, full, queue, model) in calls {
            limit.observe(&Call {
                rows,
                full,
                queue: Duration::from_micros(queue),
                model: Duration::from_micros(model),
                most,
            });
            prop_assert!((1..=most).contains(&limit.limit(most)));
        }
    }
}

//! The meter before models whose costs are known, event by event: no runtime and no clock.
//!
//! [`every_curve_pays_and_is_found_to_and_hold_outs_cost_less_than_a_percent`] prints the table of the README.

use std::{collections::VecDeque, time::Duration};

use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::random::Random;

/// The microseconds of a call and of a row.
type Costs = (f64, f64);

const LINEAR_SVM: Costs = (3671., 12.5);
const KERNEL_SVM: Costs = (5889., 5062.);
const PROPORTIONAL: Costs = (0., 5000.);
/// Clipper's containers, and as many rows as keep to 15 ms, of which the queue takes 5.
const CURVES: [(&str, Costs, usize); 6] = [
    ("no-op", (813., 19.), 598),
    ("logistic regression", (783., 24.), 475),
    ("linear SVM", LINEAR_SVM, 681),
    ("PySpark SVM", (1088., 34.), 326),
    ("random forest", (7663., 32.), 141),
    ("kernel SVM", KERNEL_SVM, 2),
];
const NOISES: [(&str, Noise); 4] = [
    ("none", Noise::None),
    ("15%", Noise::Normal(0.15)),
    ("log-normal, 50%", Noise::LogNormal(0.47)),
    ("1 in 50 hangs", Noise::Stumbling(50)),
];
/// What is configured if nothing is.
const SHARE: f64 = 0.005;

#[derive(Clone, Copy, Debug)]
enum Noise {
    None,
    Normal(f64),
    /// The deviation of the logarithm; the mean is one.
    LogNormal(f64),
    /// One call in so many takes twenty times as long.
    Stumbling(usize),
}

/// What comes.
#[derive(Clone, Copy, Debug)]
enum Load {
    /// More than there is room for.
    Full,
    /// So many requests a second, at random.
    Poisson(f64),
}

/// An endpoint with a queue before it, as the filter has it, on a clock of its own.
#[derive(Debug)]
struct Endpoint {
    benefit: Benefit,
    costs: Costs,
    noise: Noise,
    load: Load,
    limit: usize,
    /// Rows of a request: from one to so many.
    rows: usize,
    places: usize,
    /// When the server's executors are free.
    executors: Vec<f64>,
    queue: VecDeque<usize>,
    under_way: Vec<Ending>,
    random: Random,
    start: Instant,
    clock: f64,
    arrival: f64,
    seen: Seen,
}

#[derive(Clone, Copy, Debug)]
struct Ending {
    at: f64,
    began: f64,
    requests: usize,
    rows: usize,
    held_out: Option<HoldOut>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    calls: usize,
    requests: usize,
    rows: usize,
    held_out: usize,
    seconds: f64,
    held_out_seconds: f64,
}

impl Endpoint {
    fn new(costs: Costs, limit: usize, noise: Noise) -> Self {
        Self {
            benefit: Benefit::new(SHARE),
            costs,
            noise,
            load: Load::Full,
            limit,
            rows: 1,
            places: 1,
            executors: vec![0.],
            queue: VecDeque::new(),
            under_way: Vec::new(),
            random: Random::new(7),
            start: Instant::now(),
            clock: 0.,
            arrival: 0.,
            seen: Seen::default(),
        }
    }

    fn seed(mut self, seed: u64) -> Self {
        self.random = Random::new(seed);
        self
    }

    fn load(mut self, load: Load) -> Self {
        self.load = load;
        self
    }

    fn rows(mut self, rows: usize) -> Self {
        self.rows = rows;
        self
    }

    fn places(mut self, places: usize, executors: usize) -> Self {
        self.places = places;
        self.executors = vec![0.; executors];
        self
    }

    /// Goes on for so many calls.
    fn calls(&mut self, calls: usize) {
        let until = self.seen.calls + calls;
        while self.seen.calls < until {
            self.step();
        }
    }

    /// Goes on until the meter says so; returns the calls that it took, at most so many.
    fn until(&mut self, most: usize, holds: impl Fn(Pays) -> bool) -> usize {
        let before = self.seen.calls;
        while !holds(self.pays()) && self.seen.calls < before + most {
            self.step();
        }
        self.seen.calls - before
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_secs_f64(self.clock)
    }

    fn view(&self) -> BenefitView {
        self.benefit.view(self.now())
    }

    fn pays(&self) -> Pays {
        self.view().pays
    }

    /// Goes to the next end of a call, or arrival.
    fn step(&mut self) {
        while self.under_way.len() < self.places && self.begin() {}
        let ends = self.under_way.iter().enumerate();
        let next = ends.min_by(|(_, one), (_, other)| one.at.total_cmp(&other.at));
        if let Load::Poisson(rate) = self.load
            && next.is_none_or(|(_, ending)| self.arrival < ending.at)
        {
            self.clock = self.arrival;
            self.arrival += self.random.exponential() / rate;
            let rows = self.request();
            self.queue.push_back(rows);
            return;
        }
        let (index, _) = next.expect("without arrivals there is always a call");
        let ending = self.under_way.swap_remove(index);
        self.clock = ending.at;
        self.seen.count(&ending);
        let called = Called {
            requests: ending.requests,
            rows: ending.rows,
            held_out: ending.held_out,
            model: Duration::from_secs_f64(ending.at - ending.began),
            answered: true,
        };
        self.benefit.called(self.now(), &called);
    }

    fn request(&mut self) -> usize {
        1 + below(&mut self.random, self.rows)
    }

    fn begin(&mut self) -> bool {
        if matches!(self.load, Load::Full) {
            while self.queue.len() <= self.limit {
                let rows = self.request();
                self.queue.push_back(rows);
            }
        }
        let Some(first) = self.queue.pop_front() else {
            return false;
        };
        let (mut requests, mut rows) = (1, first);
        let fits = |queue: &VecDeque<usize>, rows: usize| {
            queue.front().is_some_and(|next| rows + next <= self.limit)
        };
        let draw = self.random.uniform();
        let held_out = match fits(&self.queue, rows) {
            true => self
                .benefit
                .hold_out(draw, self.under_way.len(), self.places),
            false => None,
        };
        if held_out.is_none() && self.benefit.batches(self.now()) {
            if matches!(self.load, Load::Full) && self.rows == 1 {
                // As below, but all at once.
                (requests, rows) = (self.limit, self.limit);
            }
            while fits(&self.queue, rows) {
                rows += self.queue.pop_front().expect("it fits");
                requests += 1;
            }
        }
        let service = self.time(rows);
        let free = self
            .executors
            .iter_mut()
            .min_by(|one, other| one.total_cmp(other))
            .expect("there is an executor");
        *free = free.max(self.clock) + service;
        self.under_way.push(Ending {
            at: *free,
            began: self.clock,
            requests,
            rows,
            held_out,
        });
        true
    }

    fn mean(&self, rows: f64) -> f64 {
        (self.costs.0 + self.costs.1 * rows) * 1e-6
    }

    fn time(&mut self, rows: usize) -> f64 {
        let noise = match self.noise {
            Noise::None => 1.,
            Noise::Normal(deviation) => (1. + deviation * normal(&mut self.random)).max(0.1),
            Noise::LogNormal(deviation) => {
                (deviation * normal(&mut self.random) - deviation * deviation / 2.).exp()
            }
            Noise::Stumbling(one_in) => match below(&mut self.random, one_in) {
                0 => 20.,
                _ => 1.,
            },
        };
        self.mean(rows as f64) * noise
    }

    /// How many times as fast full batches are, by the curve.
    fn speed_up(&self) -> f64 {
        let (request, batch) = ((1 + self.rows) as f64 / 2., self.limit as f64);
        (self.mean(request) / request) / (self.mean(batch) / batch)
    }
}

impl Seen {
    fn count(&mut self, ending: &Ending) {
        self.calls += 1;
        self.requests += ending.requests;
        self.rows += ending.rows;
        self.seconds += ending.at - ending.began;
        if ending.held_out.is_some() {
            self.held_out += 1;
            self.held_out_seconds += ending.at - ending.began;
        }
    }
}

fn below(random: &mut Random, bound: usize) -> usize {
    (random.uniform() * bound as f64) as usize
}

fn normal(random: &mut Random) -> f64 {
    let (length, turn) = (2. * random.exponential(), random.uniform());
    length.sqrt() * (std::f64::consts::TAU * turn).cos()
}

fn is_yes(pays: Pays) -> bool {
    pays == Pays::Yes
}

fn is_no(pays: Pays) -> bool {
    matches!(pays, Pays::No { .. })
}

#[test]
fn every_curve_pays_and_is_found_to_and_hold_outs_cost_less_than_a_percent() {
    println!(
        "| curve | noise | calls | seconds | speed-up | measured | of requests | of time | lost |"
    );
    for (name, costs, limit) in CURVES {
        for (noise_name, noise) in NOISES {
            let mut endpoint = Endpoint::new(costs, limit, noise);
            let calls = endpoint.until(100_000, |pays| pays != Pays::Unknown);
            let seconds = endpoint.clock;
            assert_eq!(endpoint.pays(), Pays::Yes, "{name}, {noise_name}");
            endpoint.calls(20_000);
            let seen = endpoint.seen;
            let view = endpoint.view();
            let measured = view.speed_up.unwrap();
            let requests = seen.held_out as f64 / seen.requests as f64;
            let time = seen.held_out_seconds / seen.seconds;
            // What the hold-outs' time would have been worth to batches.
            let others =
                (seen.seconds - seen.held_out_seconds) / (seen.rows - seen.held_out) as f64;
            let lost = 1. - seen.rows as f64 * others / seen.seconds;
            let truth = endpoint.speed_up();
            println!(
                "| {name} | {noise_name} | {calls} | {seconds:.0} | {truth:.2} | {measured:.2} | {:.2}% | {:.2}% | {:.2}% |",
                100. * requests,
                100. * time,
                100. * lost
            );
            assert!(is_yes(view.pays), "{name}, {noise_name}: {view:?}");
            // A hold-out that hangs is charged eight times what is usual: it would have hung in a
            // batch too.
            assert!(requests <= 0.005 && time < 0.009 && lost < 0.009);
            let tolerance = match noise {
                Noise::None => 0.02,
                Noise::Normal(_) => 0.06,
                // What hangs is not counted in full, in neither.
                _ => 0.4,
            };
            assert!(
                (measured / truth - 1.).abs() < tolerance,
                "{name}, {noise_name}"
            );
            if matches!(noise, Noise::Normal(_)) {
                // By the law of Little.
                assert!((0.95..1.05).contains(&view.busy.unwrap()));
                let without = view.busy_without.unwrap() / measured;
                assert!((0.98..1.02).contains(&without));
            }
        }
    }
}

#[test]
fn a_proportional_model_is_found_out_within_minutes() {
    for (limit, costs, noise, most) in [
        (4, PROPORTIONAL, Noise::None, 2_000),
        (4, PROPORTIONAL, Noise::Normal(0.15), 4_000),
        (4, PROPORTIONAL, Noise::LogNormal(0.47), 30_000),
        (150, (2., 100.), Noise::None, 1_000),
        (150, (2., 100.), Noise::Normal(0.15), 1_500),
        (150, (2., 100.), Noise::LogNormal(0.47), 6_000),
    ] {
        let mut worst = 0;
        for seed in 0..10 {
            let mut endpoint = Endpoint::new(costs, limit, noise).seed(seed);
            worst = worst.max(endpoint.until(most, is_no));
            assert!(
                is_no(endpoint.pays()),
                "{costs:?} {noise:?} {:?}",
                endpoint.view()
            );
            assert!(!endpoint.benefit.batches(endpoint.now()));
        }
        println!("{costs:?} by {limit}, {noise:?}: {worst} calls at most");
    }
}

#[test]
fn noise_never_makes_a_model_that_gains_a_third_go_singly() {
    for noise in [
        Noise::Normal(0.15),
        Noise::LogNormal(0.47),
        Noise::LogNormal(1.),
        Noise::Stumbling(50),
    ] {
        for seed in 0..10 {
            let mut endpoint = Endpoint::new(KERNEL_SVM, 2, noise).seed(seed);
            endpoint.until(10_000, is_no);
            assert!(
                !is_no(endpoint.pays()),
                "{noise:?} {seed}: {:?}",
                endpoint.view()
            );
        }
    }
}

#[test]
fn at_any_load_a_model_that_gains_is_batched_and_hold_outs_keep_to_their_share() {
    // Requests a second: an idle model, one that would be busy, and ones that need batches.
    for rate in [20., 200., 1000., 20_000.] {
        let mut endpoint = Endpoint::new(LINEAR_SVM, 681, Noise::Normal(0.15));
        endpoint = endpoint.load(Load::Poisson(rate));
        endpoint.calls(10_000);
        let view = endpoint.view();
        assert!(!is_no(view.pays), "{rate}: {view:?}");
        let seen = endpoint.seen;
        assert!(seen.held_out as f64 <= 0.005 * seen.requests as f64);
        assert!(seen.held_out_seconds <= 0.0055 * seen.seconds);
        assert!(
            (0.8..1.2).contains(&(view.rate.unwrap() / rate)),
            "{view:?}"
        );
        if rate > 10_000. {
            // 20000 requests of 3.7 ms each in a second.
            let without = view.busy_without.unwrap();
            assert!((60.0..90.).contains(&without), "{view:?}");
            assert!(view.busy.unwrap() <= 1.05);
        }
    }
}

#[test]
fn requests_of_several_rows_are_compared_by_their_rows() {
    // 31 us a row in a batch of 200 and, of requests of 10.5 rows on average, 362 us alone; but what
    // is left at the head of a queue has 14.
    let mut endpoint = Endpoint::new(LINEAR_SVM, 200, Noise::Normal(0.15)).rows(20);
    endpoint.calls(20_000);
    let (measured, truth) = (endpoint.view().speed_up.unwrap(), endpoint.speed_up());
    assert!(
        (0.85..1.15).contains(&(measured / truth)),
        "{measured} {truth}"
    );
    let mut endpoint = Endpoint::new((0., 200.), 100, Noise::Normal(0.15)).rows(20);
    endpoint.until(4_000, is_no);
    assert!(is_no(endpoint.pays()), "{:?}", endpoint.view());
}

#[test]
fn places_and_executors_do_not_blur_what_is_compared() {
    // A server that works on one call at a time makes the others wait; one with an instance for
    // each place does not. What a single gains is the same.
    for (places, executors) in [(2, 1), (2, 2), (4, 1), (4, 2), (4, 4), (8, 1)] {
        let mut endpoint =
            Endpoint::new(KERNEL_SVM, 2, Noise::Normal(0.15)).places(places, executors);
        let calls = endpoint.until(100_000, is_yes);
        let view = endpoint.view();
        let measured = view.speed_up.unwrap();
        println!(
            "{places} places, {executors} executors: {calls} calls, {measured:.2} +- {:.2}",
            view.error.unwrap()
        );
        assert!(
            (1.2..1.55).contains(&measured),
            "{places} {executors} {view:?}"
        );
        assert!(is_yes(view.pays), "{places} {executors} {view:?}");
        let mut endpoint =
            Endpoint::new(PROPORTIONAL, 4, Noise::Normal(0.15)).places(places, executors);
        let calls = endpoint.until(100_000, is_no);
        let view = endpoint.view();
        println!(
            "  proportional: {calls} calls, {:?} +- {:?}",
            view.speed_up, view.error
        );
        assert!(is_no(view.pays), "{places} {executors} {view:?}");
    }
}

#[test]
fn a_model_that_changes_is_followed_both_ways() {
    for seed in 0..5 {
        let mut endpoint = Endpoint::new(LINEAR_SVM, 681, Noise::Normal(0.15)).seed(seed);
        endpoint.calls(30_000);
        assert!(is_yes(endpoint.pays()));
        (endpoint.costs, endpoint.limit) = (PROPORTIONAL, 4);
        let calls = endpoint.until(10_000, is_no);
        println!("no longer batchable: {calls} calls");
        assert!(is_no(endpoint.pays()), "{:?}", endpoint.view());

        (endpoint.costs, endpoint.limit) = (LINEAR_SVM, 681);
        endpoint.until(100_000, |pays| pays == Pays::Unknown);
        let calls = endpoint.until(500, is_yes);
        println!("batchable again: {calls} calls");
        assert!(is_yes(endpoint.pays()), "{:?}", endpoint.view());
    }
}

#[test]
fn a_model_that_becomes_slower_or_faster_as_a_whole_is_no_different() {
    // Batches of four gain 1.6: compared with the singles of before, half as fast ones would not.
    for seed in 0..5 {
        let costs = (5000., 5000.);
        let mut endpoint = Endpoint::new(costs, 4, Noise::Normal(0.15)).seed(seed);
        for factor in [1., 2., 1., 0.2, 10.] {
            endpoint.costs = (costs.0 * factor, costs.1 * factor);
            endpoint.until(5000, is_no);
            let view = endpoint.view();
            assert!(
                is_yes(view.pays) && view.speed_up.unwrap() > 1.4,
                "{view:?}"
            );
        }
    }
}

#[test]
fn where_batching_does_not_pay_it_is_tried_again_at_longer_and_longer_intervals() {
    let mut endpoint = Endpoint::new((0., 50_000.), 4, Noise::Normal(0.15));
    let mut tried = Vec::new();
    for minutes in [1, 2, 4, 8, 16, 32, 60, 60] {
        endpoint.until(20_000, is_no);
        let Pays::No { again } = endpoint.pays() else {
            panic!("{:?}", endpoint.view());
        };
        assert!((again.as_secs_f64() / 60. - f64::from(minutes)).abs() < 0.01);
        assert!(endpoint.benefit.hold_out(0., 0, 1).is_none());
        let (calls, held_out) = (endpoint.seen.calls, endpoint.seen.held_out);
        endpoint.until(100_000, |pays| !is_no(pays));
        assert_eq!(
            endpoint.seen.held_out, held_out,
            "nothing is held out of singles"
        );
        let minutes = f64::from(minutes);
        assert!(((endpoint.seen.calls - calls) as f64 * 0.05 / 60. / minutes - 1.).abs() < 0.05);
        let began = endpoint.clock;
        endpoint.until(20_000, is_no);
        tried.push((endpoint.clock - began).round());
    }
    println!("seconds of trials: {tried:?}");
    assert!(tried.iter().all(|seconds| *seconds < 100.), "{tried:?}");
}

#[test]
fn calls_of_one_request_teach_nothing_and_are_never_held_out() {
    let mut endpoint = Endpoint::new(PROPORTIONAL, 4, Noise::None).load(Load::Poisson(0.1));
    endpoint.calls(2000);
    let view = endpoint.view();
    assert_eq!(
        (view.pays, view.speed_up, view.hold_outs),
        (Pays::Unknown, None, 0)
    );
    assert!(endpoint.benefit.batches(endpoint.now()));
}

#[test]
fn a_few_calls_never_see_a_hold_out() {
    let mut endpoint = Endpoint::new(LINEAR_SVM, 681, Noise::None);
    endpoint.calls(50);
    assert_eq!(endpoint.view().hold_outs, 0);
    assert_eq!(endpoint.view().without, None);
}

#[test]
fn calls_that_fail_teach_nothing_and_are_paid_for() {
    let start = Instant::now();
    let mut benefit = Benefit::new(0.5);
    for step in 0..1000 {
        let held_out = benefit.hold_out(0., 0, 1);
        benefit.called(
            start + Duration::from_millis(step),
            &Called {
                requests: if held_out.is_some() { 1 } else { 4 },
                rows: 4,
                held_out,
                model: Duration::from_micros(800),
                answered: held_out.is_none(),
            },
        );
    }
    let view = benefit.view(start + Duration::from_secs(1));
    assert!(view.hold_outs > 100 && view.speed_up.is_none() && view.alone_p50.is_none());
}

proptest! {
    #[test]
    fn whatever_is_called_the_figures_are_figures(
        share in -1.0..2.0_f64,
        calls in prop::collection::vec((0..5_usize, 0..100_usize, any::<bool>(), 0..u64::MAX / 2, any::<bool>(), 0..100_000_u64, 0..20_usize), 0..300),
    ) {
        let mut benefit = Benefit::new(share);
        let mut now = Instant::now();
        for (requests, rows, held_out, micros, answered, passed, places) in calls {
            now += Duration::from_millis(passed);
            let draw = (passed % 100) as f64 / 100.;
            let held_out = benefit.hold_out(draw, places / 2, places).filter(|_| held_out);
            // From nothing to half of a million years.
            let model = Duration::from_micros(micros >> (micros % 64));
            benefit.called(now, &Called { requests, rows, held_out, model, answered });
            let view = benefit.view(now);
            for figure in [view.speed_up, view.error, view.rate, view.busy, view.busy_without, view.batch_rows] {
                prop_assert!(figure.is_none_or(|figure| figure.is_finite() && figure >= 0.), "{view:?}");
            }
            prop_assert_eq!(benefit.batches(now), !is_no(view.pays));
        }
    }
}

//! `auto` and the controller of rows together, against servers with several executors and
//! networks with latency, event by event.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use super::{Ended, Flight, Turn};
use crate::{
    batch::{BatchLimit, Call, Quantile},
    random::Random,
};

/// The microseconds of a call and of a row.
type Costs = (f64, f64);

const CURVES: [(&str, Costs); 6] = [
    ("no-op", (813., 19.)),
    ("logistic regression", (783., 24.)),
    ("linear SVM", (3671., 12.5)),
    ("PySpark SVM", (1088., 34.)),
    ("random forest", (7663., 32.)),
    ("kernel SVM", (5889., 5062.)),
];
const OBJECTIVE: Duration = Duration::from_millis(20);
const MOST: usize = 4096;

/// A server behind a network.
#[derive(Clone, Debug)]
struct Server {
    costs: Costs,
    /// The mean of an exponential part of the costs, as a share of the rest.
    jitter: f64,
    /// Seconds on the way, there and back.
    rtt: f64,
    /// When each executor is free, in nanoseconds.
    free: Vec<u64>,
    noise: Random,
    seed: u64,
}

#[derive(Clone, Copy, Debug)]
enum Load {
    /// More waits than calls can take.
    Saturating,
    /// Single rows a second.
    Poisson(f64),
}

/// An endpoint with what decides of it, and what is under way.
#[derive(Debug)]
struct Endpoint {
    server: Server,
    limit: Quantile,
    saved: Option<Quantile>,
    trials: usize,
    flight: Flight,
    start: Instant,
    now: u64,
    under_way: BinaryHeap<Reverse<(u64, usize)>>,
    calls: Vec<Sent>,
    waiting: VecDeque<u64>,
    arriving: Random,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    began: u64,
    ends: u64,
    rows: usize,
    full: bool,
    queue: u64,
    places: usize,
}

#[derive(Debug, Default)]
struct Outcome {
    calls: Vec<Sent>,
    /// Of single requests, in nanoseconds.
    latencies: Vec<u64>,
}

impl Server {
    fn new(costs: Costs, jitter: f64, rtt: f64, executors: usize, seed: u64) -> Self {
        Self {
            costs,
            jitter,
            rtt,
            free: vec![0; executors],
            noise: Random::new(seed),
            seed,
        }
    }

    /// Returns when a call that is sent now is answered.
    fn serve(&mut self, now: u64, rows: usize) -> u64 {
        let (beta, alpha) = self.costs;
        let least = (beta + alpha * rows as f64) * 1e-6;
        let time = least * (1. + self.jitter * self.noise.exponential());
        let way = nanos(self.rtt / 2.);
        let soonest = self.free.iter_mut().min().expect("a server executes");
        *soonest = (*soonest).max(now + way) + nanos(time);
        *soonest + way
    }
}

impl Endpoint {
    fn new(server: Server, flight: Flight) -> Self {
        Self {
            arriving: Random::new(!server.seed),
            server,
            limit: Quantile::new(OBJECTIVE),
            saved: None,
            trials: 0,
            flight,
            start: Instant::now(),
            now: 0,
            under_way: BinaryHeap::new(),
            calls: Vec::new(),
            waiting: VecDeque::new(),
        }
    }

    fn at(&self, nanos: u64) -> Instant {
        self.start + Duration::from_nanos(nanos)
    }

    /// Runs until so many calls more have ended.
    fn run(&mut self, load: Load, calls: usize) -> Outcome {
        let mut outcome = Outcome::default();
        self.waiting.clear();
        let gap = |random: &mut Random, rate: f64| nanos(random.exponential() / rate);
        let mut next = match load {
            Load::Saturating => u64::MAX,
            Load::Poisson(rate) => self.now + gap(&mut self.arriving, rate),
        };
        self.send(load);
        while outcome.calls.len() < calls {
            let ends = self.under_way.peek().map_or(u64::MAX, |first| first.0.0);
            if next < ends {
                self.now = next;
                self.waiting.push_back(next);
                if let Load::Poisson(rate) = load {
                    next += gap(&mut self.arriving, rate);
                }
            } else {
                self.end(load, &mut outcome);
            }
            self.send(load);
        }
        outcome
    }

    fn waits(&self, load: Load) -> bool {
        matches!(load, Load::Saturating) || !self.waiting.is_empty()
    }

    fn end(&mut self, load: Load, outcome: &mut Outcome) {
        let Some(Reverse((now, index))) = self.under_way.pop() else {
            return;
        };
        self.now = now;
        let call = self.calls[index];
        if !self.flight.is_past(self.at(call.began)) {
            self.limit.observe(&Call {
                rows: call.rows,
                requests: call.rows,
                full: call.full,
                answered: true,
                queue: Duration::from_nanos(call.queue),
                model: Duration::from_nanos(now - call.began),
                most: MOST,
                places: usize::MAX,
            });
        }
        let turn = self.flight.ended(&Ended {
            now: self.at(now),
            rows: call.rows,
            began: self.at(call.began),
            in_flight: self.under_way.len() + 1,
            waits: matches!(load, Load::Saturating) || self.waiting.len() > self.limit.limit(MOST),
            answered: true,
        });
        match turn {
            Turn::None => {}
            Turn::Tries => {
                self.trials += 1;
                self.saved = Some(self.limit.clone());
                self.limit.moved();
            }
            Turn::Stays => self.saved = None,
            Turn::Returns => self.limit = self.saved.take().expect("saved before the trial"),
        }
        outcome.calls.push(call);
        if let Load::Poisson(_) = load {
            // The oldest's latency stands for its call's: the worst of it.
            outcome.latencies.extend(std::iter::repeat_n(
                now - call.began + call.queue,
                call.rows,
            ));
        }
    }

    fn send(&mut self, load: Load) {
        while self.under_way.len() < self.flight.places() && self.waits(load) {
            let most = self.limit.limit(MOST);
            let (rows, queue) = match load {
                Load::Saturating => (most, nanos(1.)),
                Load::Poisson(_) => (self.waiting.len().min(most), self.now - self.waiting[0]),
            };
            if let Load::Poisson(_) = load {
                self.waiting.drain(..rows);
            }
            let ends = self.server.serve(self.now, rows);
            self.under_way.push(Reverse((ends, self.calls.len())));
            self.calls.push(Sent {
                began: self.now,
                ends,
                rows,
                full: rows == most,
                queue,
                places: self.flight.places(),
            });
        }
    }
}

impl Outcome {
    /// Rows a second, and those of calls within the objective.
    fn throughput(&self) -> (f64, f64) {
        let (first, last) = (&self.calls[0], &self.calls[self.calls.len() - 1]);
        let objective = nanos(OBJECTIVE.as_secs_f64());
        let mut sums = (0., 0.);
        for call in &self.calls[1..] {
            sums.0 += call.rows as f64;
            if call.ends - call.began <= objective {
                sums.1 += call.rows as f64;
            }
        }
        let seconds = (last.ends - first.ends) as f64 * 1e-9;
        (sums.0 / seconds, sums.1 / seconds)
    }

    /// The share of calls over the objective.
    fn late(&self) -> f64 {
        let objective = nanos(OBJECTIVE.as_secs_f64());
        let late = |call: &&Sent| call.ends - call.began > objective;
        self.calls.iter().filter(late).count() as f64 / self.calls.len() as f64
    }

    fn places(&self) -> f64 {
        let places: usize = self.calls.iter().map(|call| call.places).sum();
        places as f64 / self.calls.len() as f64
    }

    /// The p99 of requests, in milliseconds.
    fn p99(mut self) -> f64 {
        let at = self.latencies.len() * 99 / 100;
        *self.latencies.select_nth_unstable(at).1 as f64 * 1e-6
    }
}

fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

/// The rate of what counts: where the objective is lost anyway, all rows.
fn rate(outcome: &Outcome, is_lost: bool) -> f64 {
    let (all, timely) = outcome.throughput();
    if is_lost { all } else { timely }
}

/// Saturates an endpoint with a fixed number of places, from cold and then for so many calls.
fn fixed(server: Server, places: usize, calls: usize) -> Outcome {
    let mut endpoint = Endpoint::new(server, Flight::fixed(places));
    endpoint.run(Load::Saturating, 200 + 20 * places);
    endpoint.run(Load::Saturating, calls)
}

#[test]
fn the_best_number_of_places_is_found_on_every_curve() {
    let mut table = String::from(
        "| curve | instances | rtt | noise | best static | `auto` | throughput to best | late | late with best | calls to be there | trials in 1000 calls |\n",
    );
    let mut faults = Vec::new();
    for (model, costs) in CURVES {
        for executors in [1, 2, 4, 8] {
            for (rtt, jitter) in [(0., 0.05), (0., 0.15), (0.01, 0.05)] {
                // Where a call of one row and the way take two thirds of the objective the limit of
                // rows has no room: that is not for the places to mend.
                if rtt > 0. && costs.0 + costs.1 > 2000. {
                    continue;
                }
                let server = |seed| Server::new(costs, jitter, rtt, executors, seed);
                let calls = 1500 + 250 * executors;
                let candidates: &[usize] = match rtt > 0. {
                    true => &[1, 2, 3, 4, 6, 8, 10, 12, 14, 16],
                    false => &[1, 2, 4, 8, 16],
                };
                let is_lost = fixed(server(1), 1, 100).late() > 0.5;
                let of_statics: Vec<_> = candidates
                    .iter()
                    .map(|places| rate(&fixed(server(1), *places, 300 + 50 * places), is_lost))
                    .collect();
                let most = of_statics.iter().copied().fold(0., f64::max);
                let at = |part: f64| {
                    let index = of_statics.iter().position(|rate| *rate >= part * most);
                    candidates[index.unwrap_or(0)]
                };
                let best = fixed(server(1), at(1.), calls);
                let most = rate(&best, is_lost);
                let (mut ratio, mut late, mut places) = (0., 0., 0.);
                let (mut there, mut trials) = (0, 0);
                for seed in 1..=SEEDS {
                    let mut endpoint = Endpoint::new(server(seed), Flight::auto(OBJECTIVE));
                    let cold = endpoint.run(Load::Saturating, 60 * executors.max(at(1.)));
                    let first = cold.calls.iter().position(|call| call.places >= at(0.9));
                    there = there.max(first.unwrap_or(cold.calls.len()));
                    endpoint.run(Load::Saturating, 400 * executors);
                    let before = endpoint.trials;
                    let settled = endpoint.run(Load::Saturating, calls);
                    trials += endpoint.trials - before;
                    ratio += rate(&settled, is_lost) / most / SEEDS as f64;
                    late += settled.late() / SEEDS as f64;
                    places += settled.places() / SEEDS as f64;
                }
                let trials = trials as f64 * 1000. / (calls as f64 * SEEDS as f64);
                let line = format!(
                    "| {model} | {executors} | {:.0} ms | {:.0}% | {} | {places:.1} | {ratio:.2} | {:.1}% | {:.1}% | {there} | {trials:.0} |\n",
                    rtt * 1e3,
                    jitter * 1e2,
                    at(1.),
                    late * 1e2,
                    best.late() * 1e2,
                );
                table += &line;
                let least = if rtt > 0. { FAR_SHARE } else { SHARE };
                if ratio < least || late > best.late() + 0.02 {
                    faults.push(line);
                }
            }
        }
    }
    println!("{table}");
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn a_limit_of_rows_grows_whatever_is_under_way_meanwhile() {
    // Four calls of one row wait for each other in the server, and four of two do not any more:
    // two rows seem to cost half as much a row, and those under way are of one.
    let server = Server::new(CURVES[0].1, 0.05, 0.01, 1, 1);
    let one = fixed(server.clone(), 1, 500).throughput().1;
    let four = fixed(server, 4, 500).throughput().1;
    assert!(
        four > 3. * one,
        "{four} rows a second with 4 calls, {one} with one"
    );
}

#[test]
fn places_come_down_when_instances_are_lost_and_go_up_when_there_are_more() {
    for (model, costs) in &CURVES[..4] {
        let server = Server::new(*costs, 0.05, 0., 8, 1);
        let mut endpoint = Endpoint::new(server, Flight::auto(OBJECTIVE));
        endpoint.run(Load::Saturating, 4000);
        let full = endpoint.run(Load::Saturating, 500).places();
        assert!((7.0..10.).contains(&full), "{model}: {full} places for 8");
        let last = endpoint.server.free.clone();
        endpoint.server.free.truncate(4);
        endpoint.run(Load::Saturating, 5000);
        let few = endpoint.run(Load::Saturating, 500).places();
        assert!((3.5..6.5).contains(&few), "{model}: {few} places for 4");
        endpoint.server.free = last;
        endpoint.run(Load::Saturating, 8000);
        let again = endpoint.run(Load::Saturating, 500).places();
        assert!((6.5..10.).contains(&again), "{model}: {again} places for 8");
    }
}

#[test]
fn under_light_load_places_stay_and_requests_are_in_time() {
    for (model, costs) in &CURVES[..4] {
        for executors in [1, 4] {
            let server = Server::new(*costs, 0.05, 0., executors, 1);
            let most = fixed(server.clone(), executors, 1000).throughput().1;
            let mut endpoint = Endpoint::new(server, Flight::auto(OBJECTIVE));
            endpoint.run(Load::Saturating, 1500 * executors);
            endpoint.run(Load::Poisson(most / 2.), 200);
            let (places, trials) = (endpoint.flight.places(), endpoint.trials);
            let light = endpoint.run(Load::Poisson(most / 2.), 600);
            assert_eq!(light.places(), places as f64, "{model}, {executors}");
            assert_eq!(endpoint.trials, trials, "{model}, {executors}");
            let p99 = light.p99();
            assert!(p99 <= 20., "{model}, {executors}: {p99} ms");
        }
    }
}

/// What is reached of the throughput of the best number of places at least, with a near server and
/// with one that is 10 ms away.
const SHARE: f64 = 0.92;
const FAR_SHARE: f64 = 0.9;
/// Runs that a figure is the mean of.
const SEEDS: u64 = 3;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::controller::Line;

/// When an endpoint would answer a request that comes now, by what its calls cost and by what is
/// before it: written by the filter's task, and read without a lock by whoever compares endpoints.
///
/// ```text
///     now
///  |---+-------|-----------|-----------|------|
///  the call    full calls of what      the call in which the new row goes
///  under way   waits (limit each)      with the rest of what waits
/// ```
///
/// Values that are read together may stem from different moments: a choice between endpoints is
/// a guess, and the next one is made anew.
#[derive(Debug)]
pub(super) struct Expected {
    base: Instant,
    /// What calls cost: beta and alpha as `f32`, or 0 before the first call.
    line: AtomicU64,
    limit: AtomicUsize,
    places: AtomicUsize,
    /// Calls under way and their rows.
    calls: AtomicUsize,
    rows: AtomicUsize,
    /// When the last call began, and when the last one ended, in nanoseconds since the base.
    began: AtomicU64,
    ended: AtomicU64,
}

/// A call under way, however it ends: counted until dropped.
#[derive(Debug)]
pub(super) struct UnderWay {
    expected: Arc<Expected>,
    rows: usize,
}

impl Expected {
    pub(super) fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self {
            base: now,
            line: AtomicU64::new(0),
            limit: AtomicUsize::new(1),
            places: AtomicUsize::new(1),
            calls: AtomicUsize::new(0),
            rows: AtomicUsize::new(0),
            began: AtomicU64::new(0),
            ended: AtomicU64::new(0),
        })
    }

    /// Takes note of a call that begins.
    pub(super) fn begin(self: &Arc<Self>, rows: usize, now: Instant) -> UnderWay {
        self.began.store(self.nanos(now), Relaxed);
        self.calls.fetch_add(1, Relaxed);
        self.rows.fetch_add(rows, Relaxed);
        UnderWay {
            expected: Arc::clone(self),
            rows,
        }
    }

    /// Takes note of what was learned from a call that has ended: what calls cost, how many rows
    /// one may have, and how many calls may be under way.
    pub(super) fn learned(&self, line: Option<Line>, limit: usize, places: usize, now: Instant) {
        if let Some(line) = line {
            self.line.store(pack(line), Relaxed);
        }
        self.limit.store(limit, Relaxed);
        self.places.store(places, Relaxed);
        self.ended.store(self.nanos(now), Relaxed);
    }

    /// Forgets what calls cost: requests do not come here in calls any more.
    pub(super) fn forget(&self) {
        self.line.store(0, Relaxed);
    }

    /// Returns how long a request of one row would take from now on, where so many rows wait or
    /// are under way already; `None` before the first answer.
    pub(super) fn completion(&self, load: usize, now: Instant) -> Option<Duration> {
        let line = unpack(self.line.load(Relaxed))?;
        let (calls, under_way) = (self.calls.load(Relaxed), self.rows.load(Relaxed));
        let limit = self.limit.load(Relaxed).max(1);
        let places = self.places.load(Relaxed).max(1);
        let waiting = load.saturating_sub(under_way);
        if calls == 0 && waiting == 0 {
            let idle = self.since(&self.ended, now);
            return seconds(line.time(1.) * belief(idle));
        }
        let rest = match calls < places {
            true => 0.,
            false => {
                let call = line.time(under_way as f64 / calls.max(1) as f64);
                // A call that takes longer than it should will take as long again.
                (call - self.since(&self.began, now)).abs()
            }
        };
        let full = (waiting / limit) as f64 * line.time(limit as f64);
        let own = line.time((waiting % limit) as f64 + 1.);
        seconds((rest + full) / places as f64 + own)
    }

    fn nanos(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.base);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    fn since(&self, moment: &AtomicU64, now: Instant) -> f64 {
        let nanos = self.nanos(now).saturating_sub(moment.load(Relaxed));
        nanos as f64 * 1e-9
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.expected.calls.fetch_sub(1, Relaxed);
        self.expected.rows.fetch_sub(self.rows, Relaxed);
    }
}

/// The share of an estimate that is believed after so many seconds without a call: an endpoint
/// that was slow is tried again some time, and the later the slower it was.
fn belief(idle: f64) -> f64 {
    (-idle / HALF).exp2()
}

fn seconds(seconds: f64) -> Option<Duration> {
    Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

fn pack(line: Line) -> u64 {
    let bits = |seconds: f64| u64::from((seconds as f32).to_bits());
    bits(line.beta) << 32 | bits(line.alpha)
}

fn unpack(packed: u64) -> Option<Line> {
    let seconds = |bits: u64| f64::from(f32::from_bits(bits as u32));
    (packed != 0).then(|| Line {
        beta: seconds(packed >> 32),
        alpha: seconds(packed),
    })
}

/// Seconds without a call after which half of an estimate is believed. With endpoints of which one
/// is four times as slow as the others, a request in 4 s goes to see whether it still is.
const HALF: f64 = 2.;

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::{batch::controller::Costs, random::Random};

    const CALL: Line = Line {
        beta: 0.010,
        alpha: 0.001,
    };

    fn at(base: Instant, millis: u64) -> Instant {
        base + Duration::from_millis(millis)
    }

    /// Returns the expected completion in whole milliseconds.
    fn millis(expected: &Expected, load: usize, now: Instant) -> u128 {
        let completion = expected.completion(load, now).unwrap();
        (completion + Duration::from_micros(500)).as_millis()
    }

    #[tokio::test]
    async fn a_request_waits_for_the_call_under_way_for_full_calls_and_takes_its_own() {
        let base = Instant::now();
        let expected = Expected::new(base);
        assert_eq!(expected.completion(3, base), None);
        expected.learned(Some(CALL), 4, 1, base);
        assert_eq!(millis(&expected, 0, base), 11);
        let call = expected.begin(4, base);
        assert_eq!(millis(&expected, 4, at(base, 4)), 10 + 11);
        // Two more wait, and share its call.
        assert_eq!(millis(&expected, 6, at(base, 4)), 10 + 13);
        // Nine more: two full calls before its own.
        assert_eq!(millis(&expected, 13, at(base, 4)), 10 + 28 + 12);
        expected.learned(None, 4, 2, base);
        assert_eq!(millis(&expected, 13, at(base, 4)), 14 + 12);
        drop(call);
        assert_eq!(millis(&expected, 0, base), 11);
    }

    #[tokio::test]
    async fn a_call_that_never_ends_makes_its_endpoint_the_last_choice() {
        let base = Instant::now();
        let expected = Expected::new(base);
        expected.learned(Some(CALL), 4, 1, base);
        let _stuck = expected.begin(1, base);
        assert_eq!(millis(&expected, 1, at(base, 1011)), 1000 + 11);
    }

    #[tokio::test]
    async fn what_was_slow_long_ago_is_tried_again() {
        let base = Instant::now();
        let (slow, fast) = (Expected::new(base), Expected::new(base));
        let four_times = Line {
            beta: 4. * CALL.beta,
            alpha: 4. * CALL.alpha,
        };
        slow.learned(Some(four_times), 4, 1, base);
        for (second, slower) in [(1, true), (3, true), (5, false)] {
            let now = base + Duration::from_secs(second);
            fast.learned(Some(CALL), 4, 1, now);
            assert_eq!(
                slow.completion(0, now) > fast.completion(0, now),
                slower,
                "{second}"
            );
        }
    }

    /// How an endpoint is chosen of those of the simulation.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Rule {
        Random,
        /// The one of two with fewer rows.
        Load,
        /// The one of two that is expected to answer sooner.
        Expected,
        /// The one of all that will surely answer soonest.
        Best,
    }

    /// A server that takes one call at a time, and the queue before it.
    #[derive(Debug)]
    struct Server {
        line: Line,
        costs: Costs,
        expected: Arc<Expected>,
        waiting: VecDeque<f64>,
        call: Vec<f64>,
        until: f64,
        under_way: Option<UnderWay>,
        answered: usize,
    }

    const LIMIT: usize = 32;

    struct Simulation {
        base: Instant,
        random: Random,
        servers: Vec<Server>,
        times: Vec<f64>,
    }

    impl Simulation {
        /// Servers that are so many times as slow as a call of 2 ms and 0.1 ms a row.
        fn new(slower: &[f64]) -> Self {
            let base = Instant::now();
            let server = |times: &f64| Server {
                line: Line {
                    beta: 0.002 * times,
                    alpha: 0.0001 * times,
                },
                costs: Costs::default(),
                expected: Expected::new(base),
                waiting: VecDeque::new(),
                call: Vec::new(),
                until: f64::INFINITY,
                under_way: None,
                answered: 0,
            };
            Self {
                base,
                random: Random::new(7),
                servers: slower.iter().map(server).collect(),
                times: Vec::new(),
            }
        }

        fn now(&self, seconds: f64) -> Instant {
            self.base + Duration::from_secs_f64(seconds)
        }

        fn choose(&mut self, rule: Rule, time: f64) -> usize {
            let count = self.servers.len();
            let first = (self.random.uniform() * count as f64) as usize;
            let second =
                (first + 1 + (self.random.uniform() * (count - 1) as f64) as usize) % count;
            let now = self.now(time);
            let load =
                |index: usize| self.servers[index].waiting.len() + self.servers[index].call.len();
            let expected = |index: usize| self.servers[index].expected.completion(load(index), now);
            let truly = |server: &Server| {
                let rest = if server.call.is_empty() {
                    0.
                } else {
                    server.until - time
                };
                let full = (server.waiting.len() / LIMIT) as f64 * server.line.time(LIMIT as f64);
                rest + full + server.line.time((server.waiting.len() % LIMIT + 1) as f64)
            };
            let second_is_better = match rule {
                Rule::Random => false,
                Rule::Load => load(second) < load(first),
                Rule::Expected => expected(second) < expected(first),
                Rule::Best => {
                    let times = self.servers.iter().map(truly).enumerate();
                    return times.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0;
                }
            };
            if second_is_better { second } else { first }
        }

        fn begin(&mut self, index: usize, time: f64) {
            let now = self.now(time);
            let server = &mut self.servers[index];
            let rows = server.waiting.len().min(LIMIT);
            if rows == 0 {
                return;
            }
            server.call = server.waiting.drain(..rows).collect();
            server.until = time + server.line.time(rows as f64);
            server.under_way = Some(server.expected.begin(rows, now));
        }

        fn end(&mut self, index: usize) {
            let time = self.servers[index].until;
            let now = self.now(time);
            let server = &mut self.servers[index];
            let rows = server.call.len();
            self.times
                .extend(server.call.drain(..).map(|came| time - came));
            server.answered += rows;
            server.under_way = None;
            server.until = f64::INFINITY;
            server
                .costs
                .observe(rows as f64, server.line.time(rows as f64));
            server.expected.learned(server.costs.line(), LIMIT, 1, now);
            self.begin(index, time);
        }

        /// Lets requests of one row come at random, so many a second, and returns the 99th
        /// percentile of their times and the last server's share of them.
        fn run(mut self, rule: Rule, rate: f64) -> (f64, f64) {
            let mut arrival = 0.;
            while self.times.len() < 40_000 {
                let ends = self.servers.iter().map(|server| server.until).enumerate();
                let (index, end) = ends.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
                if end <= arrival {
                    self.end(index);
                    continue;
                }
                let chosen = self.choose(rule, arrival);
                self.servers[chosen].waiting.push_back(arrival);
                if self.servers[chosen].call.is_empty() {
                    self.begin(chosen, arrival);
                }
                arrival += self.random.exponential() / rate;
            }
            let last = self.servers.last().unwrap().answered;
            let share = last as f64 / self.times.len() as f64;
            self.times.sort_by(f64::total_cmp);
            (self.times[self.times.len() * 99 / 100], share)
        }
    }

    /// Three servers answer 6150 rows a second each, and one a quarter of that.
    #[tokio::test]
    async fn one_slow_server_of_four_does_not_decide_how_long_requests_take() {
        let run = |rule, rate| Simulation::new(&[1., 1., 1., 4.]).run(rule, rate);
        for (rate, of_best) in [
            (2_000., 1.5),
            (8_000., 1.35),
            (14_000., 1.35),
            (18_000., 1.35),
        ] {
            let (best, _) = run(Rule::Best, rate);
            let (expected, share) = run(Rule::Expected, rate);
            let (load, of_load) = run(Rule::Load, rate);
            let (random, _) = run(Rule::Random, rate);
            assert!(expected <= best * of_best, "{rate}: {expected} {best}");
            assert!(expected < load && load < random, "{rate}");
            // Its part of what all can do is a thirteenth.
            assert!(share < 1. / 13. && share < of_load, "{rate}: {share}");
        }
    }

    #[tokio::test]
    async fn equal_servers_share_equally() {
        let (_, share) = Simulation::new(&[1.; 4]).run(Rule::Expected, 14_000.);
        assert!((share - 0.25).abs() < 0.01, "{share}");
    }
}

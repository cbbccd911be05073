//! How long answers take from the moment when their request really left.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use outrigger::demo::load::Calls;
use tokio::time::Instant;

/// Calls of which the time from sending to the answer is kept.
///
/// A load's own latencies begin when a request was *meant* to be sent. That is what a caller
/// feels, and it holds up to 0.2 ms in which the generator's pacer slept: much, beside an answer
/// that takes less.
#[derive(Clone, Debug)]
pub(super) struct Timed<C> {
    calls: C,
    times: Times,
}

/// What was kept; a clone is the same.
#[derive(Clone, Debug)]
pub(super) struct Times(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    begin: Instant,
    /// Nanoseconds after the begin at which a call was sent, by its number, modulo their count.
    sent: Vec<AtomicU64>,
    /// Answers by their microseconds; the last holds all that took longer.
    answers: Vec<AtomicU32>,
}

impl<C: Calls> Timed<C> {
    pub(super) fn new(calls: C) -> (Self, Times) {
        let times = Times(Arc::new(Shared {
            begin: Instant::now(),
            sent: (0..AT_ONCE).map(|_| AtomicU64::new(0)).collect(),
            answers: (0..LONGEST).map(|_| AtomicU32::new(0)).collect(),
        }));
        let timed = Self {
            calls,
            times: times.clone(),
        };
        (timed, times)
    }
}

impl<C: Calls> Calls for Timed<C> {
    fn body(&self, n: u64) -> Bytes {
        let body = self.calls.body(n);
        let shared = &self.times.0;
        let sent = shared.begin.elapsed().as_nanos() as u64;
        shared.sent[n as usize % AT_ONCE].store(sent, Ordering::Relaxed);
        body
    }

    fn accept(&self, n: u64, answer: &Bytes) -> bool {
        let shared = &self.times.0;
        let sent = shared.sent[n as usize % AT_ONCE].load(Ordering::Relaxed);
        let took = (shared.begin.elapsed().as_nanos() as u64).saturating_sub(sent) / 1000;
        let place = (took as usize).min(LONGEST - 1);
        shared.answers[place].fetch_add(1, Ordering::Relaxed);
        self.calls.accept(n, answer)
    }
}

impl Times {
    /// The time that this share of the answers did not exceed.
    pub(super) fn quantile(&self, quantile: f64) -> Duration {
        let counts: Vec<u64> = self
            .0
            .answers
            .iter()
            .map(|count| u64::from(count.load(Ordering::Relaxed)))
            .collect();
        let wanted = (counts.iter().sum::<u64>() as f64 * quantile).ceil() as u64;
        let mut seen = 0;
        let reached = |count: &u64| {
            seen += count;
            seen >= wanted
        };
        let place = counts.iter().position(reached).unwrap_or(LONGEST - 1);
        // A place holds what took up to a microsecond more.
        Duration::from_micros(place as u64 + 1)
    }
}

/// More calls than wait for their answer at any time.
const AT_ONCE: usize = 1 << 17;
/// Microseconds of the longest time that is kept apart: a tenth of a second.
const LONGEST: usize = 100_000;

#[cfg(test)]
mod tests {
    use outrigger::demo::load::Repeat;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_time_runs_from_the_body_to_the_answer() {
        let (timed, times) = Timed::new(Repeat::new([Bytes::from_static(b"body")]));
        for n in 0..100 {
            timed.body(n);
            let wait = if n < 98 { 50 } else { 7000 };
            tokio::time::advance(Duration::from_micros(wait)).await;
            assert!(timed.accept(n, &Bytes::new()));
        }
        assert_eq!(times.quantile(0.5), Duration::from_micros(51));
        assert_eq!(times.quantile(0.98), Duration::from_micros(51));
        assert_eq!(times.quantile(0.99), Duration::from_micros(7001));
    }
}

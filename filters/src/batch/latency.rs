use std::time::Duration;

/// A histogram of durations that forgets: percentiles of the last few thousand.
///
/// Eight buckets to each doubling, so that a figure is right within an eighth; when as many have
/// been counted as make a judgement, all counts are halved.
#[derive(Clone, Debug)]
pub(super) struct Latency {
    counts: Vec<u32>,
    total: u32,
    window: u32,
}

impl Latency {
    /// Makes one in which older durations weigh half after so many.
    pub(super) fn over(window: u32) -> Self {
        Self {
            counts: vec![0; BUCKETS],
            total: 0,
            window,
        }
    }

    /// Counts one.
    pub(super) fn record(&mut self, duration: Duration) {
        self.counts[bucket(duration)] += 1;
        self.total += 1;
        if self.total >= self.window {
            self.total = 0;
            for count in &mut self.counts {
                *count /= 2;
                self.total += *count;
            }
        }
    }

    /// Returns the duration that 99 of 100 kept to, or `None` where there is none yet.
    pub(super) fn p99(&self) -> Option<Duration> {
        self.percentile(99)
    }

    /// Returns the duration that so many of 100 kept to, or `None` where there is none yet.
    pub(super) fn percentile(&self, of_100: u32) -> Option<Duration> {
        let mut over = (u64::from(self.total) * u64::from(100 - of_100.min(100)) / 100) as u32;
        self.counts
            .iter()
            .enumerate()
            .rev()
            .find(|(_, count)| {
                let found = **count > over;
                over = over.saturating_sub(**count);
                found
            })
            .map(|(index, _)| upper(index))
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self::over(WINDOW)
    }
}

/// Durations that are counted before older ones weigh half.
const WINDOW: u32 = 8192;
/// The lowest bits of a duration in microseconds that tell the buckets of a doubling apart.
const STEP: u32 = 3;
/// Up to 2^30 microseconds, a quarter of an hour.
const BUCKETS: usize = (30 - STEP as usize) << STEP;

fn bucket(duration: Duration) -> usize {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let Some(shift) = (micros >> STEP).checked_ilog2().map(|log| log + 1) else {
        return micros as usize;
    };
    // The leading one of the mantissa counts as a doubling of its own.
    let mantissa = (micros >> (shift - 1)) as usize;
    (((shift as usize - 1) << STEP) + mantissa).min(BUCKETS - 1)
}

fn upper(bucket: usize) -> Duration {
    let (doubling, step) = (bucket >> STEP, bucket & ((1 << STEP) - 1));
    let micros = match doubling {
        0 => bucket as u64,
        _ => (((1 << STEP) + step + 1) as u64) << (doubling - 1),
    };
    Duration::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_99th_percentile_is_right_within_an_eighth() {
        for scale in [1_u64, 50, 1000, 77_777] {
            let mut latency = Latency::default();
            assert_eq!(latency.p99(), None);
            for step in 1..=1000 {
                latency.record(Duration::from_micros(step * scale));
            }
            let p99 = latency.p99().unwrap().as_secs_f64();
            let exact = Duration::from_micros(990 * scale).as_secs_f64();
            assert!((0.99..1.135).contains(&(p99 / exact)), "{p99} for {exact}");
        }
    }

    #[test]
    fn any_percentile_can_be_asked_for() {
        let mut latency = Latency::over(512);
        assert_eq!(latency.percentile(50), None);
        (1..=400).for_each(|step| latency.record(Duration::from_millis(step)));
        let median = latency.percentile(50).unwrap().as_secs_f64();
        assert!((0.19..0.23).contains(&median), "{median}");
        assert!(latency.percentile(0) <= latency.percentile(100));
    }

    #[test]
    fn what_was_slow_long_ago_is_forgotten() {
        let mut latency = Latency::default();
        (0..1000).for_each(|_| latency.record(Duration::from_secs(3)));
        (0..100_000).for_each(|_| latency.record(Duration::from_millis(3)));
        assert!(latency.p99().unwrap() < Duration::from_millis(4));
    }

    #[test]
    fn any_duration_has_a_bucket() {
        let mut latency = Latency::default();
        latency.record(Duration::ZERO);
        latency.record(Duration::MAX);
        assert!(latency.p99().is_some());
        let mut last = 0;
        for micros in 0..100_000 {
            let bucket = bucket(Duration::from_micros(micros));
            assert!(bucket == last || bucket == last + 1);
            last = bucket;
        }
    }
}

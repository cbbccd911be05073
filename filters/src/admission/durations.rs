use std::time::Duration;

/// What the calls of late took.
#[derive(Clone, Debug)]
pub(super) struct Durations {
    /// As they came, the oldest at `next` once it is full; in nanoseconds.
    recent: [u64; WINDOW],
    /// The same, in order.
    sorted: [u64; WINDOW],
    len: usize,
    next: usize,
    sum: u128,
}

impl Durations {
    pub(super) fn record(&mut self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        if self.len == WINDOW {
            let oldest = self.recent[self.next];
            let at = self.sorted[..self.len].partition_point(|other| *other < oldest);
            self.sorted.copy_within(at + 1..self.len, at);
            self.len -= 1;
            self.sum -= u128::from(oldest);
        }
        let at = self.sorted[..self.len].partition_point(|other| *other < took);
        self.sorted.copy_within(at..self.len, at + 1);
        self.sorted[at] = took;
        self.len += 1;
        self.sum += u128::from(took);
        self.recent[self.next] = took;
        self.next = (self.next + 1) % WINDOW;
    }

    /// Returns the share of calls that took no longer; all, while nothing is known.
    pub(super) fn within(&self, time: Duration) -> f64 {
        if self.len == 0 {
            return 1.;
        }
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let within = self.sorted[..self.len].partition_point(|took| *took <= time);
        within as f64 / self.len as f64
    }

    /// Returns what so large a share of calls kept to.
    pub(super) fn quantile(&self, share: f64) -> Option<Duration> {
        let at = (share * self.len as f64).ceil() as usize;
        let took = self.sorted[..self.len].get(at.saturating_sub(1))?;
        Some(Duration::from_nanos(*took))
    }

    /// Returns what a call took in the mean.
    pub(super) fn mean(&self) -> Option<Duration> {
        let mean = self.sum.checked_div(self.len as u128)?;
        Some(Duration::from_nanos(
            u64::try_from(mean).unwrap_or(u64::MAX),
        ))
    }
}

impl Default for Durations {
    fn default() -> Self {
        Self {
            recent: [0; WINDOW],
            sorted: [0; WINDOW],
            len: 0,
            next: 0,
            sum: 0,
        }
    }
}

/// Calls that are remembered: enough to tell what one in twenty takes, and few enough that a model
/// which has become slower is soon known as such.
const WINDOW: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn shares_quantiles_and_mean_are_those_of_the_last_calls() {
        let mut durations = Durations::default();
        assert_eq!((durations.mean(), durations.quantile(0.5)), (None, None));
        assert!(durations.within(Duration::ZERO) == 1.);
        let (mut random, mut all) = (Random::new(1), Vec::new());
        for _ in 0..500 {
            let took = Duration::from_nanos(random.next() % 100);
            durations.record(took);
            all.push(took);
            let mut last = all[all.len().saturating_sub(WINDOW)..].to_vec();
            last.sort();
            let sum: Duration = last.iter().sum();
            assert_eq!(durations.mean(), Some(sum / last.len() as u32));
            let within = last.iter().filter(|other| **other <= took).count();
            assert_eq!(durations.within(took), within as f64 / last.len() as f64);
            let least = last[(last.len() as f64 * 0.05).ceil() as usize - 1];
            assert_eq!(durations.quantile(0.05), Some(least));
        }
    }
}

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// How long before a deadline an answer has to be there, so that it is out by the deadline: what
/// the timer is late by, and what encoding takes.
///
/// It is learned of the answers that were cut off, and follows the latest of them at once, and the
/// others slowly: about one answer in a hundred is later than that.
#[derive(Debug)]
pub struct Margin {
    /// In nanoseconds.
    learned: AtomicU64,
}

impl Margin {
    /// Returns the instant's distance from the deadline, for a request with so much time in all.
    ///
    /// It is never more than half of that time: a request is not given up because others were late.
    /// Less would not do: with the processors overloaded four times over, answers were out 8 ms after
    /// the instant, of 20 ms in all.
    pub fn of(&self, timeout: Duration) -> Duration {
        self.learned().min(timeout / 2)
    }

    /// Returns what was learned.
    pub fn learned(&self) -> Duration {
        Duration::from_nanos(self.learned.load(Relaxed))
    }

    /// Takes note that an answer that was cut off was out so long after the instant.
    pub fn observe(&self, late: Duration) {
        let late = u64::try_from(late.as_nanos()).unwrap_or(u64::MAX);
        let follow = |learned: u64| {
            let next = if late > learned {
                // Whole bursts are late: half of the way at once.
                learned + (late - learned) / 2
            } else {
                // A hundred answers that are not late for one that is.
                learned - (learned - late) / SLOW
            };
            Some(next.clamp(LEAST, MOST))
        };
        // Always `Some`.
        let _ = self.learned.fetch_update(Relaxed, Relaxed, follow);
    }
}

impl Default for Margin {
    fn default() -> Self {
        Self {
            learned: AtomicU64::new(LEAST),
        }
    }
}

/// What a timer of a runtime that has nothing else to do is late by: it counts milliseconds, and
/// fires in the one that follows.
const LEAST: u64 = 1_000_000;
/// A process that is later than that is no longer helped by giving up sooner.
const MOST: u64 = 20_000_000;
/// Over how many answers a late one is forgotten.
const SLOW: u64 = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn it_follows_late_answers_at_once_and_forgets_them_slowly() {
        let margin = Margin::default();
        let long = Duration::from_secs(1);
        assert_eq!(margin.of(long), milliseconds(1));
        for _ in 0..5 {
            margin.observe(milliseconds(9));
        }
        assert!(margin.of(long) > milliseconds(8), "{margin:?}");
        for _ in 0..20 {
            margin.observe(Duration::ZERO);
        }
        assert!(margin.of(long) > milliseconds(7), "{margin:?}");
        for _ in 0..1000 {
            margin.observe(Duration::ZERO);
        }
        assert_eq!(margin.of(long), milliseconds(1));
    }

    #[test]
    fn it_never_takes_more_than_half_of_the_time_nor_grows_without_bound() {
        let margin = Margin::default();
        for _ in 0..100 {
            margin.observe(Duration::MAX);
        }
        assert_eq!(margin.of(Duration::from_secs(1)), milliseconds(20));
        assert_eq!(margin.of(milliseconds(8)), milliseconds(4));
    }
}

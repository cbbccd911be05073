use std::{io, sync::Arc, time::Duration};

use tokio::time::Instant;

/// How long an endpoint that could not be reached is left alone.
///
/// It is tried by one caller then, and left alone by the others until that try is over:
///
/// ```text
///             failed               one caller tries
/// reachable ----------> left alone -----------------> tried by one
///     ^                     ^                           |    |
///     |                     '---------------------------'    |
///     |                                 failed               |
///     '------------------------------------------------------'
///                             succeeded
/// ```
///
/// The wait doubles from 50 ms to 2 s: a model server beside us restarts in seconds, and a refused
/// connection on the same host costs next to nothing, so the longest wait stays short.
#[derive(Debug)]
pub(crate) struct Backoff {
    longest: Duration,
    failures: u32,
    until: Option<Instant>,
    error: Option<Arc<io::Error>>,
}

impl Backoff {
    /// Begins without a failure, and lets no wait be longer than this, nor than two seconds.
    pub(crate) fn at_most(longest: Duration) -> Self {
        Self {
            longest: longest.min(LONGEST),
            failures: 0,
            until: None,
            error: None,
        }
    }

    /// Returns the time left until the next try, if there is any.
    pub(crate) fn left(&self, now: Instant) -> Option<Duration> {
        self.until
            .and_then(|until| until.checked_duration_since(now))
            .filter(|left| !left.is_zero())
    }

    /// Returns why the last try failed, if it did.
    pub(crate) fn error(&self) -> Option<&Arc<io::Error>> {
        self.error.as_ref()
    }

    /// Takes note of a failed try. `jitter` in 0..1 spreads the tries of many proxies.
    pub(crate) fn failed(&mut self, now: Instant, jitter: f64, error: Arc<io::Error>) {
        self.error = Some(error);
        let doubled = FIRST.saturating_mul(1 << self.failures.min(10));
        self.failures = self.failures.saturating_add(1);
        self.until = Some(
            now + doubled
                .min(self.longest)
                .mul_f64(0.75 + jitter.clamp(0.0, 1.0) / 4.0),
        );
    }

    /// Takes note of a try that is over by `end`: after a failure the endpoint is left alone for
    /// that long, so that one caller waits for what may still be silent, and not all.
    pub(crate) fn tries(&mut self, end: Instant) {
        if self.failures > 0 {
            self.until = Some(end);
        }
    }

    /// Takes note of a connection.
    pub(crate) fn succeeded(&mut self) {
        *self = Self::at_most(self.longest);
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::at_most(LONGEST)
    }
}

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_grow_to_a_bound_and_end_with_a_success() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        assert_eq!(backoff.left(now), None);
        let mut longest = Duration::ZERO;
        for _ in 0..100 {
            backoff.failed(now, 1.0, Arc::new(io::ErrorKind::ConnectionRefused.into()));
            let left = backoff.left(now).unwrap();
            assert!(left >= longest && left <= LONGEST);
            longest = left;
        }
        assert_eq!(longest, LONGEST);
        assert!(backoff.error().is_some());
        assert_eq!(backoff.left(now + LONGEST), None);
        backoff.succeeded();
        assert_eq!(backoff.left(now), None);
    }
}

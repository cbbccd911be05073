use std::time::Duration;

use tokio::time::Instant;

/// Whether an arm is up, as far as its calls tell.
///
/// ```text
///            3 failures in a row, or one that did not reach it
///     up ------------------------------------------------------> down
///      ^                                                         |  ^
///      | a call is answered              the wait is over, 1..30 s  | one more failure:
///      |                                                         v  | twice the wait
///      '------------------------------------------------------ on trial
/// ```
///
/// On trial it is chosen as though it were up: it is the policy that knows how much of it is wanted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Health {
    /// Failures since the last answer.
    failures: u32,
    down: Option<Down>,
    /// The share of calls, of late, that were not answered in time.
    late: f64,
}

#[derive(Clone, Copy, Debug)]
struct Down {
    until: Instant,
    wait: Duration,
}

impl Health {
    /// Tells whether the arm may be asked.
    pub(super) fn is_up(&self, now: Instant) -> bool {
        self.down.is_none_or(|down| now >= down.until)
    }

    /// Tells whether it has failed since it answered last.
    pub(super) fn is_sound(&self) -> bool {
        self.failures == 0
    }

    /// Takes note of an answer.
    pub(super) fn answered(&mut self) {
        *self = Self {
            late: self.late,
            ..Self::default()
        };
    }

    /// Takes note of whether a call was answered in time.
    pub(super) fn was_late(&mut self, late: bool) {
        let late = if late { 1. } else { 0. };
        self.late += (late - self.late) / CALLS;
    }

    /// Forgets that calls were late, once that is so rare that it makes no difference; tells whether
    /// nothing is left of it.
    pub(super) fn is_in_time(&mut self) -> bool {
        if self.late < FORGOTTEN {
            self.late = 0.;
        }
        self.late == 0.
    }

    /// Returns the share of requests of an ensemble for which the arm is asked: all, unless it is
    /// late for more than half of them; then fewer the more it is, and never none.
    pub(super) fn asked(&self) -> f64 {
        match self.late {
            late if late <= 0.5 => 1.,
            late => (2. * (1. - late)).clamp(LEAST_ASKED, 1.),
        }
    }

    /// Takes note of a failure by the arm's fault; returns whether it is down from now on.
    pub(super) fn failed(&mut self, unreached: bool, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        let wait = match self.down {
            // Calls that were under way when it went down say nothing new.
            Some(down) if now < down.until => return false,
            Some(down) => (down.wait * 2).min(LONGEST),
            None if unreached || self.failures >= FAILURES => SHORTEST,
            None => return false,
        };
        let until = now + wait;
        self.down = Some(Down { until, wait });
        true
    }
}

/// Over how many calls it is counted how many are late: a moment's load does not count, and an arm
/// that is quick again is asked again after some tens of requests that it is asked for.
const CALLS: f64 = 16.;
/// The share of late calls that is forgotten.
const FORGOTTEN: f64 = 0.01;
/// An arm that is late always is asked once in so many requests, to see whether it still is.
const LEAST_ASKED: f64 = 0.05;
/// Failures in a row that no chance explains: of calls of which one in a hundred fails, three in a
/// row do once in a million.
const FAILURES: u32 = 3;
/// As long as a server takes to restart at best.
const SHORTEST: Duration = Duration::from_secs(1);
/// An arm that is back serves again after so long at most.
const LONGEST: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_arm_that_fails_is_left_out_ever_longer_and_comes_back() {
        let mut health = Health::default();
        let start = Instant::now();
        assert!(!health.failed(false, start) && !health.failed(false, start));
        assert!(health.is_up(start) && !health.is_sound());
        assert!(health.failed(false, start));
        let mut now = start;
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            assert!(!health.is_up(now), "{seconds}");
            assert!(!health.failed(false, now), "it is down already");
            now += Duration::from_secs(seconds);
            assert!(health.is_up(now), "on trial after {seconds} s");
            assert!(health.failed(false, now));
        }
        now += LONGEST;
        health.answered();
        assert!(health.is_up(now) && health.is_sound());
        assert!(!health.failed(false, now), "the past is forgotten");
    }

    #[test]
    fn an_arm_that_is_late_is_asked_less_and_again_when_it_is_not() {
        let mut health = Health::default();
        for _ in 0..10 {
            health.was_late(true);
        }
        assert_eq!(health.asked(), 1., "a few may be chance");
        for _ in 0..100 {
            health.was_late(true);
        }
        assert_eq!(health.asked(), LEAST_ASKED);
        for _ in 0..12 {
            health.was_late(false);
        }
        assert_eq!(health.asked(), 1.);
    }

    #[tokio::test(start_paused = true)]
    async fn an_arm_that_cannot_be_reached_is_left_out_at_once() {
        let mut health = Health::default();
        assert!(health.failed(true, Instant::now()));
        assert!(!health.is_up(Instant::now()));
    }
}

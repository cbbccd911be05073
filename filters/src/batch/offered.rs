use tokio::time::Instant;

/// How many rows come in a second, also those that are refused.
#[derive(Debug, Default)]
pub(super) struct Offered {
    /// Since the last turn.
    rows: f64,
    since: Option<Instant>,
    /// What came before, ever less of it.
    sum: f64,
    seconds: f64,
}

impl Offered {
    /// Takes note of rows that come.
    pub(super) fn came(&mut self, rows: usize) {
        self.rows += rows as f64;
    }

    /// Takes note of a call that begins: what comes is added up from one to the next.
    pub(super) fn turn(&mut self, now: Instant) {
        let rows = std::mem::take(&mut self.rows);
        if let Some(since) = self.since.replace(now) {
            let seconds = now.saturating_duration_since(since).as_secs_f64();
            self.sum = self.sum * MEMORY + rows;
            self.seconds = self.seconds * MEMORY + seconds;
        }
    }

    /// Returns rows a second; none before two calls have begun.
    pub(super) fn rate(&self) -> f64 {
        match self.seconds > 0. {
            true => self.sum / self.seconds,
            false => 0.,
        }
    }
}

/// What a turn still counts after another one: some ten matter, so that a moment's burst does not,
/// and a load that has gone is forgotten within them.
const MEMORY: f64 = 0.9;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_comes_is_known_after_some_calls_and_so_is_that_it_has_gone() {
        let mut offered = Offered::default();
        assert_eq!(offered.rate(), 0.);
        let mut now = Instant::now();
        let mut turns = |rows: usize, count: usize| {
            for _ in 0..count {
                offered.turn(now);
                offered.came(rows);
                now += Duration::from_millis(10);
            }
            offered.turn(now);
            offered.rate()
        };
        assert!((turns(50, 3) - 5000.).abs() < 1.);
        assert!((turns(500, 30) - 50_000.).abs() < 3000.);
        assert!(turns(0, 30) < 3000.);
    }
}

use super::controller::Line;
use std::time::Duration;
use tokio::time::Instant;
#[derive(Debug)]
pub(super) struct Delay {
    max: Duration,
}
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) now: Instant,
    pub(super) rows: usize,
    pub(super) oldest: Instant,
    pub(super) limit: usize,
    pub(super) latest: Option<Instant>,
    pub(super) line: Option<Line>,
}
impl Delay {
    pub(super) fn new(max: Duration, _objective: Duration) -> Self {
        Self { max }
    }
    pub(super) fn arrived(&mut self, _now: Instant, _rows: usize) {}
    pub(super) fn until(&self, w: &Waiting) -> Option<Instant> {
        if self.max.is_zero() || w.rows >= w.limit {
            return None;
        }
        let at = w.oldest + self.max;
        let at = w.latest.map_or(at, |l| l.min(at));
        let _ = w.line;
        (at > w.now).then_some(at)
    }
}

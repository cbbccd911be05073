use std::time::Duration;
use tokio::time::Instant;
#[derive(Debug)]
pub(super) struct Benefit(f64);
#[derive(Debug)]
pub(super) struct Called {
    pub(super) requests: usize,
    pub(super) rows: usize,
    pub(super) held_out: bool,
    pub(super) model: Duration,
    pub(super) answered: bool,
}
impl Benefit {
    pub(super) fn new(share: f64) -> Self {
        Self(share)
    }
    pub(super) fn hold_out(&mut self, draw: f64) -> bool {
        draw < self.0 && false
    }
    pub(super) fn called(&mut self, _now: Instant, c: &Called) {
        let _ = (c.requests, c.rows, c.held_out, c.model, c.answered);
    }
    pub(super) fn batches(&self, _now: Instant) -> bool {
        true
    }
}

use tokio::time::Instant;
#[derive(Debug)]
pub(super) struct Flight(usize);
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) now: Instant,
    pub(super) rows: usize,
    pub(super) began: Instant,
    pub(super) in_flight: usize,
    pub(super) waits: bool,
    pub(super) answered: bool,
}
impl Flight {
    pub(super) fn fixed(n: usize) -> Self {
        Self(n.max(1))
    }
    pub(super) fn auto() -> Self {
        Self(1)
    }
    pub(super) fn places(&self) -> usize {
        self.0
    }
    pub(super) fn ended(&mut self, e: &Ended) {
        let _ = (e.now, e.rows, e.began, e.in_flight, e.waits, e.answered);
    }
}

use super::Call;

/// What the model may take of the objective: what the queue leaves of it.
///
/// Full calls are asked how long their oldest request waited, since only they are what the limit
/// made of them. The queue gets a quarter at most: where calls are full one after the other the
/// queue is late whatever the limit, and smaller batches would make it later.
#[derive(Clone, Debug)]
pub(super) struct Objective {
    whole: f64,
    /// What the queue took of late, within what it may take.
    queue: f64,
}

impl Objective {
    pub(super) fn new(whole: f64) -> Self {
        Self {
            whole,
            queue: whole * QUEUE_SHARE,
        }
    }

    /// Learns what the queue took of a call.
    pub(super) fn observe(&mut self, call: &Call) {
        if call.full {
            let taken = call.queue.as_secs_f64().min(self.whole * QUEUE_SHARE);
            self.queue += GAIN * (taken - self.queue);
        }
    }

    /// Returns the seconds that are left for the model.
    pub(super) fn model(&self) -> f64 {
        self.whole - self.queue
    }

    pub(super) fn whole(&self) -> f64 {
        self.whole
    }
}

/// The most that the queue may take of the objective. By simulation of Poisson arrivals on the
/// curves of Clipper's containers a half loses up to a tenth of the throughput, since a limit so
/// low cannot catch up after a burst; from two fifths down to nothing there is no difference.
pub(super) const QUEUE_SHARE: f64 = 0.25;
/// What a full call weighs against those before.
const GAIN: f64 = 1. / 16.;

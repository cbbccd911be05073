//! Processor time that is really used.

use std::hint::black_box;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Computes until this thread has had so much of a processor, however long that takes where others
/// want it too, or until there is no more use in it.
pub(crate) fn spend(time: Duration, stopped: impl Fn() -> bool) {
    if time.is_zero() {
        return;
    }
    let until = used() + time;
    while used() < until && !stopped() {
        // Asking for the time is a call of the system, which should not be all that is done.
        (0..STEPS).fold(1.0_f64, |sum, step| black_box(sum + f64::from(step).sqrt()));
    }
}

/// What this thread has used of a processor so far.
fn used() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // Neither is ever negative.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanoseconds)
}

/// Some twenty microseconds.
const STEPS: u32 = 4000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_spent_and_an_end_is_noticed() {
        let before = used();
        spend(Duration::from_millis(5), || false);
        assert!(used() - before >= Duration::from_millis(5));
        spend(Duration::from_secs(1000), || true);
    }
}

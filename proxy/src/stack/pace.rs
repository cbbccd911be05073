use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

/// How long calls to an endpoint take of late, read and written without a lock: of two calls that
/// end at once, one may be forgotten.
#[derive(Debug)]
pub(super) struct Pace {
    base: Instant,
    /// Seconds, as `f64`; 0 before the first answer.
    time: AtomicU64,
    /// Seconds of a call for each of those that were under way together with it: what it takes
    /// alone at a server that takes one after the other, and less at others.
    each: AtomicU64,
    /// When the last call ended, or the first of those under way began; in nanoseconds since the
    /// base.
    heard: AtomicU64,
    under_way: AtomicUsize,
    /// The share of calls of late that were refused, as `f64`.
    refused: AtomicU64,
}

/// How things stood when a call began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    at: Instant,
    /// For how many seconds there was no call before.
    idle: f64,
    /// How many others were under way.
    beside: usize,
}

impl Begun {
    pub(super) fn at(&self) -> Instant {
        self.at
    }
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            base: now,
            time: AtomicU64::new(0),
            each: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            under_way: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Takes note of a call that begins beside so many others.
    pub(super) fn begin(&self, beside: usize, now: Instant) -> Begun {
        let idle = match self.under_way.fetch_add(1, Relaxed) {
            0 => {
                let idle = self.silence(now);
                self.heard.store(self.nanos(now), Relaxed);
                idle
            }
            _ => 0.,
        };
        Begun {
            at: now,
            idle,
            beside,
        }
    }

    /// Takes note of a call that has ended, and of what it took where it was answered: errors come
    /// fast. The longer there was no call before it, the more it counts.
    pub(super) fn ended(&self, begun: Begun, answered: bool, now: Instant) {
        if answered {
            let took = now.saturating_duration_since(begun.at).as_secs_f64();
            let gain = GAIN.max(1. - belief(begun.idle));
            learn(&self.time, took, gain);
            learn(&self.each, took / (begun.beside as f64 + 1.), gain);
            self.refused_by(0.);
        }
        self.heard.store(self.nanos(now), Relaxed);
        self.left();
    }

    /// Takes note of a call that has ended without an answer for which nobody is blamed: the server
    /// has too much to do, or does not know the model.
    pub(super) fn refused(&self) {
        self.refused_by(1.);
    }

    fn refused_by(&self, share: f64) {
        let before = f64::from_bits(self.refused.load(Relaxed));
        if before != share {
            let learned = before + (share - before) * REFUSED_GAIN;
            self.refused.store(learned.to_bits(), Relaxed);
        }
    }

    /// Returns how many times as long as otherwise a call counts: about as often as it has to be sent
    /// until it is answered. Who refuses at once has always little to do, and would draw all calls. It
    /// counts the less the longer no call has ended: it is tried again.
    pub(super) fn penalty(&self, now: Instant) -> f64 {
        let refused = f64::from_bits(self.refused.load(Relaxed));
        if refused == 0. {
            return 1.;
        }
        let more = 1. / (1. - refused).max(1. / MOST_PENALTY) - 1.;
        1. + more * (-self.silence(now) / FORGOTTEN).exp2()
    }

    /// Takes note of a call that was given up.
    pub(super) fn left(&self) {
        self.under_way.fetch_sub(1, Relaxed);
    }

    /// Returns the seconds of a call, once one was answered.
    pub(super) fn time(&self) -> Option<f64> {
        known(&self.time)
    }

    /// Returns the seconds of a call, or for how long nothing was heard of those under way, if
    /// that is longer.
    pub(super) fn time_or_silence(&self, now: Instant) -> Option<f64> {
        let time = self.time()?;
        Some(match self.under_way.load(Relaxed) {
            0 => time,
            _ => time.max(self.silence(now)),
        })
    }

    /// Returns how long one more call would take beside so many others, as far as that can be
    /// known: what was slow long ago is tried again.
    pub(super) fn completion(&self, calls: usize, now: Instant) -> Option<Duration> {
        let each = known(&self.each)?;
        let seconds = match calls {
            0 => each * belief(self.silence(now)),
            calls => each * (calls as f64 + 1.),
        };
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }

    fn silence(&self, now: Instant) -> f64 {
        let nanos = self.nanos(now).saturating_sub(self.heard.load(Relaxed));
        nanos as f64 * 1e-9
    }

    fn nanos(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.base);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}

fn known(mean: &AtomicU64) -> Option<f64> {
    let bits = mean.load(Relaxed);
    (bits != 0).then(|| f64::from_bits(bits))
}

fn learn(mean: &AtomicU64, seconds: f64, gain: f64) {
    let learned = known(mean).map_or(seconds, |mean| mean + (seconds - mean) * gain);
    mean.store(learned.max(SHORTEST).to_bits(), Relaxed);
}

/// The share of an estimate that is believed after so many seconds without a call.
fn belief(idle: f64) -> f64 {
    1. / (1. + idle / HALF)
}

/// What an answer counts for in the mean, at least.
const GAIN: f64 = 0.1;
/// Seconds without a call after which half of an estimate is believed.
const HALF: f64 = 5.;
/// What a call counts for in the share of those that were refused.
const REFUSED_GAIN: f64 = 0.25;
/// How many times as long a call counts where all are refused.
const MOST_PENALTY: f64 = 100.;
/// Seconds without a call after which that counts half: a trial now and then, where others are as
/// loaded as that.
const FORGOTTEN: f64 = 2.;
/// Seconds below which calls do not differ.
const SHORTEST: f64 = 1e-6;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_takes_what_others_took_for_each_of_those_under_way() {
        let base = Instant::now();
        let at = |millis| base + Duration::from_millis(millis);
        let pace = Pace::new(base);
        assert_eq!(pace.completion(7, base), None);
        let begun = pace.begin(0, base);
        pace.ended(begun, true, at(10));
        assert_eq!(pace.completion(0, at(10)), Some(Duration::from_millis(10)));
        assert_eq!(pace.completion(2, at(10)), Some(Duration::from_millis(30)));
        // Behind two others, a call takes three times as long as alone.
        let begun = [0, 1, 2].map(|beside| pace.begin(beside, at(10)));
        for (begun, end) in begun.into_iter().zip([20, 30, 40]) {
            pace.ended(begun, true, at(end));
        }
        assert_eq!(pace.completion(0, at(40)), Some(Duration::from_millis(10)));
        // Errors come fast.
        let begun = pace.begin(0, at(40));
        pace.ended(begun, false, at(41));
        assert_eq!(pace.completion(0, at(41)), Some(Duration::from_millis(10)));
    }

    #[tokio::test]
    async fn who_refuses_counts_as_slow_until_it_answers_or_was_left_alone_for_a_while() {
        let base = Instant::now();
        let at = |seconds| base + Duration::from_secs(seconds);
        let pace = Pace::new(base);
        let ends = |answered| {
            let begun = pace.begin(0, base);
            pace.ended(begun, answered, base);
            if !answered {
                pace.refused();
            }
        };
        ends(true);
        assert_eq!(pace.penalty(base), 1.);
        (0..3).for_each(|_| ends(false));
        let some = pace.penalty(base);
        assert!((2. ..3.).contains(&some), "{some}");
        (0..50).for_each(|_| ends(false));
        assert_eq!(pace.penalty(base), MOST_PENALTY);
        assert!(pace.penalty(at(14)) < 2.);
        (0..10).for_each(|_| ends(true));
        let healthy = pace.penalty(base);
        assert!(healthy < 1.1, "{healthy}");
    }

    #[tokio::test]
    async fn what_was_slow_long_ago_is_believed_less_and_what_is_silent_now_is_slow() {
        let base = Instant::now();
        let at = |seconds| base + Duration::from_secs(seconds);
        let pace = Pace::new(base);
        let begun = pace.begin(0, base);
        pace.ended(begun, true, at(1));
        assert_eq!(pace.completion(0, at(6)), Some(Duration::from_millis(500)));
        assert_eq!(pace.time_or_silence(at(6)), Some(1.));
        let begun = pace.begin(0, at(6));
        assert_eq!(pace.time_or_silence(at(9)), Some(3.));
        pace.ended(begun, false, at(9));
        assert_eq!(pace.time_or_silence(at(9)), Some(1.));
        // Half of what is known now is new.
        let begun = pace.begin(0, at(14));
        pace.ended(begun, true, at(14) + Duration::from_millis(100));
        let time = pace.time().unwrap();
        assert!((0.549..0.551).contains(&time), "{time}");
    }
}

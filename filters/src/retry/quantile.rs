use std::time::Duration;

use crate::batch::Share;

/// The time within which a share of calls is answered, of the last some hundreds of calls.
///
/// Of some calls it is only known that they took longer than a time: a copy was answered before, or
/// their callers left. To leave them out would make the model look faster than it is, the more the
/// more copies are sent; to count that time as theirs would do so too. They count among the calls that
/// have lasted so long, and then no more (Kaplan and Meier, "Nonparametric estimation from incomplete
/// observations", 1958):
///
/// ```text
/// still under way
///   1 |--.                        each answer takes one of those that are left
///     |  '--.
///     |     '--o-.                o: cut off; those that are left weigh more
///     |          '----.
/// 0.05|- - - - - - - -'--- - -
///     '---------------+--------- time
///                     the 0.95-quantile
/// ```
#[derive(Clone, Debug)]
pub(super) struct Quantile {
    share: f64,
    /// How many calls a window has, and how many answers make a judgement.
    window: u32,
    enough: u32,
    recent: Window,
    before: Window,
}

/// Calls by what they took, in buckets of which sixteen make a doubling.
#[derive(Clone, Debug)]
struct Window {
    answered: Box<[u16; BUCKETS]>,
    cut: Box<[u16; BUCKETS]>,
    answers: u32,
    calls: u32,
}

impl Quantile {
    pub(super) fn new(share: Share) -> Self {
        let share = share.get();
        let beyond = (1. - share).max(f64::MIN_POSITIVE);
        Self {
            share,
            window: ((BEYOND / beyond).round() as u32).clamp(LEAST_WINDOW, MOST_WINDOW),
            enough: ((FIRST_BEYOND / beyond).round() as u32).clamp(LEAST, LEAST_WINDOW),
            recent: Window::new(),
            before: Window::new(),
        }
    }

    /// Takes note of a call that was answered.
    pub(super) fn answered(&mut self, took: Duration) {
        self.turn();
        self.recent.answered[bucket(took)] += 1;
        self.recent.answers += 1;
        self.recent.calls += 1;
    }

    /// Takes note of a call that was not answered within a time.
    pub(super) fn cut(&mut self, after: Duration) {
        self.turn();
        self.recent.cut[bucket(after)] += 1;
        self.recent.calls += 1;
    }

    /// Returns the time, once enough is known; where more calls than the rest were cut off, the
    /// longest that was seen.
    pub(super) fn time(&self) -> Option<Duration> {
        self.within(self.share)
    }

    /// Returns the time within which half of the calls are answered.
    pub(super) fn half(&self) -> Option<Duration> {
        self.within(0.5)
    }

    fn within(&self, share: f64) -> Option<Duration> {
        if self.recent.answers + self.before.answers < self.enough {
            return None;
        }
        let beyond = 1. - share + ROUNDING;
        let mut lasting = f64::from(self.recent.calls + self.before.calls);
        let (mut under_way, mut longest) = (1., 0);
        for bucket in 0..BUCKETS {
            let both = |of: fn(&Window) -> &[u16; BUCKETS]| {
                f64::from(of(&self.recent)[bucket]) + f64::from(of(&self.before)[bucket])
            };
            let (answered, cut) = (both(|window| &window.answered), both(|window| &window.cut));
            if answered + cut == 0. {
                continue;
            }
            longest = bucket;
            under_way *= 1. - answered / lasting;
            if under_way <= beyond {
                break;
            }
            lasting -= answered + cut;
        }
        Some(upper(longest))
    }

    /// Forgets the older half of what is known.
    fn turn(&mut self) {
        if self.recent.calls >= self.window {
            std::mem::swap(&mut self.recent, &mut self.before);
            self.recent.clear();
        }
    }
}

impl Window {
    fn new() -> Self {
        Self {
            answered: Box::new([0; BUCKETS]),
            cut: Box::new([0; BUCKETS]),
            answers: 0,
            calls: 0,
        }
    }

    fn clear(&mut self) {
        self.answered.fill(0);
        self.cut.fill(0);
        (self.answers, self.calls) = (0, 0);
    }
}

/// The lowest bits of a duration in microseconds that tell the buckets of a doubling apart: times are
/// right within a sixteenth.
const STEP: u32 = 4;
/// Up to 2^30 microseconds, a quarter of an hour.
const BUCKETS: usize = (31 - STEP as usize) << STEP;
/// How many calls of a window are beyond the quantile: with 25 of them its error is a fifth of
/// what is beyond.
const BEYOND: f64 = 25.;
/// How many are to be expected beyond before anything is said.
const FIRST_BEYOND: f64 = 5.;
/// Answers without which nothing is said, whatever the quantile.
const LEAST: u32 = 20;
/// A window's calls: not so few that a pause fills it, nor so many that a bucket overflows, or that
/// yesterday counts.
const LEAST_WINDOW: u32 = 256;
const MOST_WINDOW: u32 = 8192;
/// Shares of hundreds of calls are further apart than that.
const ROUNDING: f64 = 1e-9;

fn bucket(duration: Duration) -> usize {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let shift = (micros >> STEP).checked_ilog2().map_or(0, |log| log + 1);
    if shift == 0 {
        return micros as usize;
    }
    // The leading one of the mantissa counts as a doubling of its own.
    let mantissa = (micros >> (shift - 1)) as usize;
    (((shift as usize - 1) << STEP) + mantissa).min(BUCKETS - 1)
}

/// Returns the least duration that is longer than all of a bucket.
fn upper(bucket: usize) -> Duration {
    let next = bucket + 1;
    let shift = (next >> STEP).saturating_sub(1);
    let mantissa = next - (shift << STEP);
    Duration::from_micros((mantissa as u64) << shift)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::Random;

    fn quantile(share: f64) -> Quantile {
        Quantile::new(Share::new(share).unwrap())
    }

    fn millis(count: f64) -> Duration {
        Duration::from_secs_f64(count / 1e3)
    }

    /// Returns the share of times that are no longer than what was learned of them.
    fn within(learned: Option<Duration>, times: &[Duration]) -> f64 {
        let learned = learned.expect("enough is known");
        times.iter().filter(|time| **time <= learned).count() as f64 / times.len() as f64
    }

    proptest! {
        #[test]
        fn every_duration_is_in_the_bucket_of_its_bounds(micros in 0_u64..1 << 30) {
            let duration = Duration::from_micros(micros);
            let bucket = bucket(duration);
            prop_assert!(duration < upper(bucket), "{bucket}");
            prop_assert!(bucket == 0 || upper(bucket - 1) <= duration);
            prop_assert!(upper(bucket) <= duration + duration / 16 + Duration::from_micros(1));
        }

        #[test]
        fn of_a_window_the_exact_quantile_is_told_within_a_bucket(
            share in 0.5..0.99_f64,
            times in prop::collection::vec(1_u64..10_000_000, 256..1000),
        ) {
            let mut quantile = quantile(share);
            let mut times: Vec<_> = times.into_iter().map(Duration::from_micros).collect();
            let kept = quantile.window as usize;
            times.truncate(kept);
            times.iter().for_each(|time| quantile.answered(*time));
            if (times.len() as u32) < quantile.enough {
                prop_assert_eq!(quantile.time(), None);
                return Ok(());
            }
            times.sort_unstable();
            let rank = (Share::new(share).unwrap().get() * times.len() as f64 - 1e-6).ceil() as usize;
            let exact = times[rank.max(1) - 1];
            let told = quantile.time().unwrap();
            prop_assert!(told > exact && told <= exact + exact / 16 + Duration::from_micros(1),
                "{told:?} for {exact:?}");
        }

        #[test]
        fn nothing_breaks_whatever_is_seen(
            share in 0.0..=1.0_f64,
            calls in prop::collection::vec((any::<bool>(), any::<u64>()), 0..600),
        ) {
            let mut quantile = quantile(share);
            for (answered, nanos) in calls {
                match answered {
                    true => quantile.answered(Duration::from_nanos(nanos)),
                    false => quantile.cut(Duration::from_nanos(nanos)),
                }
                let time = quantile.time();
                prop_assert!(time.is_none_or(|time| time > Duration::ZERO));
                prop_assert!(share < 0.5 || time >= quantile.half());
            }
        }
    }

    #[test]
    fn nothing_is_said_of_too_few_and_windows_are_as_long_as_the_quantile_needs() {
        for (share, enough, window) in [(0.5, 20, 256), (0.95, 100, 500), (0.999, 256, 8192)] {
            let mut quantile = quantile(share);
            for _ in 0..enough - 1 {
                quantile.answered(millis(1.));
            }
            assert_eq!(quantile.time(), None);
            quantile.cut(millis(1.));
            assert_eq!(quantile.time(), None, "what was cut off says too little");
            quantile.answered(millis(1.));
            assert!(quantile.time().is_some());
            assert!(quantile.window.abs_diff(window) <= 1, "{quantile:?}");
        }
    }

    #[test]
    fn what_is_cut_off_where_it_is_late_changes_nothing() {
        // Calls of which one in ten is fifty times as slow, cut off three milliseconds after what was
        // learned as long as the budget lasts, as copies do it.
        for budget in [0., 0.05, 0.1] {
            let mut random = Random::new(7);
            let mut quantile = quantile(0.95);
            let (mut times, mut cut, mut calls) = (Vec::new(), 0., 0.);
            for _ in 0..20_000 {
                let slow = if random.uniform() < 0.03 { 50. } else { 1. };
                let time = millis(slow * (1. + random.exponential()));
                let patience = quantile.time().map(|time| time + millis(3.));
                calls += 1.;
                match patience.filter(|patience| time > *patience && cut < budget * calls) {
                    Some(patience) => {
                        cut += 1.;
                        quantile.cut(patience);
                    }
                    None => quantile.answered(time),
                }
                times.push(time);
            }
            let share = within(quantile.time(), &times);
            assert!((0.93..0.97).contains(&share), "{budget}: {share}");
        }
    }

    #[test]
    fn callers_who_leave_early_change_nothing() {
        let mut random = Random::new(9);
        let mut quantile = quantile(0.9);
        let mut times = Vec::new();
        for _ in 0..5000 {
            let time = millis(10. * random.exponential());
            // One in three, long before the quantile.
            let patience = millis(45. * random.uniform());
            match time > patience {
                true => quantile.cut(patience),
                false => quantile.answered(time),
            }
            times.push(time);
        }
        let share = within(quantile.time(), &times);
        assert!((0.86..0.94).contains(&share), "{share}");
    }

    #[test]
    fn it_follows_a_model_that_becomes_slower_or_faster() {
        let mut random = Random::new(8);
        let mut quantile = quantile(0.95);
        for (slow, calls) in [(1., 1000), (20., 60), (20., 1000), (1., 1001)] {
            let mut times = Vec::new();
            for _ in 0..calls {
                times.push(millis(slow * (1. + random.exponential())));
                quantile.answered(times[times.len() - 1]);
            }
            let time = quantile.time().unwrap();
            // After sixty slow calls of a thousand the quantile is among them.
            let most = if calls == 60 { 1. } else { 0.97 };
            let least = if calls == 60 { 0.01 } else { 0.93 };
            let share = within(Some(time), &times);
            assert!((least..=most).contains(&share), "{slow}: {share}");
        }
    }
}

use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

/// Which of the endpoints of a model are left out, because they fail or take far longer than the
/// others.
///
/// ```text
///      fails in a row, or far more often than the best other one,
///      or takes far longer than the others for a while
///  in ------------------------------------------------------------> out <--.
///  ^                                                                 |     | fails: for twice
///  |                                                the time is over |     | as long
///  |  answers                                                        v     |
///  '------------------------------------------------ tried, by one request at a time
/// ```
///
/// * All that counts is whether it is better elsewhere: requests that fail everywhere, and servers
///   that are all overloaded, leave nobody out.
/// * The last one is never left out. When it fails in a row too, all the others are let in again:
///   it is no better there, and it need not bear everything alone.
/// * What fails a call that began before an endpoint was left out, or came back, says nothing new.
#[derive(Clone, Debug)]
pub(super) struct Outliers {
    endpoints: SmallVec<[Health; 8]>,
}

/// What changed, for who tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The endpoint is left out for so long.
    Out(usize, Why, Duration),
    /// The endpoint answers again.
    Back(usize),
    /// All endpoints are let in again: the last one fails too.
    AllBack,
}

/// Why an endpoint is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Its calls failed.
    Fails,
    /// It takes far longer than the others.
    Slow,
}

#[derive(Clone, Copy, Debug, Default)]
struct Health {
    state: State,
    /// Calls that failed since the last answer.
    in_a_row: u32,
    /// The share of calls of late that failed.
    failures: f64,
    /// How often it was left out without a long time in between.
    times: u32,
    /// When it came back.
    back: Option<Instant>,
    /// Since when it takes far longer than the others.
    slow: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    In,
    Out {
        until: Instant,
        /// Whether a request is trying it.
        tried: bool,
    },
}

impl Outliers {
    pub(super) fn new(endpoints: usize) -> Self {
        Self {
            endpoints: SmallVec::from_elem(Health::default(), endpoints),
        }
    }

    /// Tells whether an endpoint is in use.
    pub(super) fn is_in(&self, endpoint: usize) -> bool {
        self.endpoints.get(endpoint).is_some_and(Health::is_in)
    }

    /// Returns how many endpoints are left out.
    pub(super) fn out(&self) -> usize {
        self.endpoints
            .iter()
            .filter(|health| !health.is_in())
            .count()
    }

    /// Begins to try an endpoint, if it is time and nobody else does; the end of the request is the
    /// end of the trial.
    pub(super) fn begin_trial(&mut self, endpoint: usize, now: Instant) -> bool {
        match self
            .endpoints
            .get_mut(endpoint)
            .map(|health| &mut health.state)
        {
            Some(State::Out { until, tried }) if !*tried && *until <= now => {
                *tried = true;
                true
            }
            _ => false,
        }
    }

    /// Ends a trial, whatever came of it: the next request may try.
    pub(super) fn end_trial(&mut self, endpoint: usize) {
        if let Some(State::Out { tried, .. }) = self.state(endpoint) {
            *tried = false;
        }
    }

    /// Takes note of an answered call.
    pub(super) fn answered(
        &mut self,
        endpoint: usize,
        began: Instant,
        now: Instant,
    ) -> Option<Change> {
        let health = self.endpoints.get_mut(endpoint)?;
        match health.state {
            State::In => {
                health.in_a_row = 0;
                health.failures -= GAIN * health.failures;
                None
            }
            State::Out { until, .. } if began >= until => {
                health.come_back(now);
                Some(Change::Back(endpoint))
            }
            State::Out { .. } => None,
        }
    }

    /// Takes note of a call that failed. `jitter` in 0..1 spreads the trials of many proxies;
    /// `reached` tells which endpoints there is a way to.
    pub(super) fn failed(
        &mut self,
        endpoint: usize,
        began: Instant,
        now: Instant,
        jitter: f64,
        reached: impl Fn(usize) -> bool,
    ) -> Option<Change> {
        let health = self.endpoints.get_mut(endpoint)?;
        if let State::Out { until, .. } = health.state {
            // It has just been tried.
            return (began >= until)
                .then(|| self.leave_out(endpoint, Why::Fails, now, jitter))
                .flatten();
        }
        if health.back.is_some_and(|back| began < back) {
            return None;
        }
        health.in_a_row = health.in_a_row.saturating_add(1);
        health.failures += GAIN * (1. - health.failures);
        let (in_a_row, failures) = (health.in_a_row, health.failures);
        let others = self.endpoints.iter().enumerate();
        let best = others
            .filter(|(other, health)| *other != endpoint && health.is_in() && reached(*other))
            .map(|(_, health)| health.failures)
            .min_by(f64::total_cmp);
        let Some(best) = best else {
            let all_fail = in_a_row >= IN_A_ROW && self.out() > 0;
            return all_fail.then(|| self.let_all_in());
        };
        let worse = failures >= WORSE * best;
        let often = failures >= OFTEN && self.may_do_without_one();
        (worse && (in_a_row >= IN_A_ROW || often))
            .then(|| self.leave_out(endpoint, Why::Fails, now, jitter))
            .flatten()
    }

    /// Compares what calls take in seconds, where that is known; to be done every second or so.
    pub(super) fn compare(
        &mut self,
        times: &[Option<f64>],
        now: Instant,
        jitter: f64,
    ) -> Option<Change> {
        let mut slowest = None;
        for endpoint in 0..self.endpoints.len() {
            let time = times.get(endpoint).copied().flatten();
            let slow = self.is_in(endpoint)
                && time.is_some_and(|time| {
                    self.median_of_others(times, endpoint)
                        .is_some_and(|usual| time >= SLOW * usual && time >= usual + NOTICED)
                });
            let health = &mut self.endpoints[endpoint];
            if !slow {
                health.slow = None;
                continue;
            }
            let since = *health.slow.get_or_insert(now);
            if now.saturating_duration_since(since) >= SLOW_FOR {
                slowest = Some(endpoint);
            }
        }
        let slowest = slowest.filter(|_| self.may_do_without_one())?;
        self.leave_out(slowest, Why::Slow, now, jitter)
    }

    fn median_of_others(&self, times: &[Option<f64>], endpoint: usize) -> Option<f64> {
        let others = self.endpoints.iter().zip(times).enumerate();
        let mut others: SmallVec<[f64; 8]> = others
            .filter(|(other, (health, _))| *other != endpoint && health.is_in())
            .filter_map(|(_, (_, time))| *time)
            .collect();
        others.sort_unstable_by(f64::total_cmp);
        others.get(others.len() / 2).copied()
    }

    /// What is only slow or unreliable still carries a load: at least half of the endpoints stay.
    fn may_do_without_one(&self) -> bool {
        (self.out() + 1) * 2 <= self.endpoints.len()
    }

    fn leave_out(
        &mut self,
        endpoint: usize,
        why: Why,
        now: Instant,
        jitter: f64,
    ) -> Option<Change> {
        let health = self.endpoints.get_mut(endpoint)?;
        let lasted = health.back.is_some_and(|back| now >= back + LONGEST);
        if health.is_in() && lasted {
            health.times = 0;
        }
        let doubled = FIRST.saturating_mul(1 << health.times.min(10));
        let time = doubled
            .min(LONGEST)
            .mul_f64(0.75 + jitter.clamp(0., 1.) / 4.);
        health.times = health.times.saturating_add(1);
        health.slow = None;
        health.state = State::Out {
            until: now + time,
            tried: false,
        };
        Some(Change::Out(endpoint, why, time))
    }

    fn let_all_in(&mut self) -> Change {
        for health in &mut self.endpoints {
            // How often they failed stays: whichever turns out to be better is known by it.
            health.state = State::In;
        }
        Change::AllBack
    }

    fn state(&mut self, endpoint: usize) -> Option<&mut State> {
        Some(&mut self.endpoints.get_mut(endpoint)?.state)
    }
}

impl Health {
    fn is_in(&self) -> bool {
        matches!(self.state, State::In)
    }

    fn come_back(&mut self, now: Instant) {
        *self = Self {
            times: self.times,
            back: Some(now),
            ..Self::default()
        };
    }
}

/// How many calls in a row fail before an endpoint is left out: of a server that fails one call in
/// ten by nature, one in 100 000 does so.
const IN_A_ROW: u32 = 5;
/// What a call counts for in the share of those that failed.
const GAIN: f64 = 1. / 32.;
/// The share of failed calls from which on an endpoint is left out, if another one is better.
const OFTEN: f64 = 0.2;
/// How many times as often an endpoint fails as the best other one, to be left out.
const WORSE: f64 = 4.;
/// How many times as long as the others an endpoint takes, at least, to be left out. Less than that
/// is for the balance alone: what is four times as slow still adds to what all can do.
const SLOW: f64 = 5.;
/// Seconds that make no difference to anybody.
const NOTICED: f64 = 0.005;
/// How long it does so: a pause to collect garbage is over by then.
const SLOW_FOR: Duration = Duration::from_secs(3);
/// How long an endpoint is left out at first, and at most.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(outliers: &mut Outliers, endpoint: usize, times: u32, now: Instant) -> Option<Change> {
        (0..times)
            .map(|_| outliers.failed(endpoint, now, now, 1., |_| true))
            .last()
            .flatten()
    }

    fn out(endpoint: usize, seconds: u64) -> Option<Change> {
        Some(Change::Out(
            endpoint,
            Why::Fails,
            Duration::from_secs(seconds),
        ))
    }

    #[tokio::test]
    async fn failures_in_a_row_leave_an_endpoint_out_for_longer_each_time_until_it_answers() {
        let mut now = Instant::now();
        let mut outliers = Outliers::new(2);
        assert_eq!(fail(&mut outliers, 0, 2, now), None);
        outliers.answered(0, now, now);
        assert_eq!(fail(&mut outliers, 0, IN_A_ROW - 1, now), None);
        assert_eq!(fail(&mut outliers, 0, 1, now), out(0, 1));
        for seconds in [2, 4, 8, 16, 30, 30] {
            assert!(!outliers.begin_trial(0, now));
            now += LONGEST;
            assert!(outliers.begin_trial(0, now));
            assert!(!outliers.begin_trial(0, now), "one at a time");
            assert_eq!(fail(&mut outliers, 0, 1, now), out(0, seconds));
            outliers.end_trial(0);
        }
        now += LONGEST;
        assert!(outliers.begin_trial(0, now));
        outliers.end_trial(0);
        assert!(outliers.begin_trial(0, now), "a trial without an outcome");
        assert_eq!(outliers.answered(0, now, now), Some(Change::Back(0)));
        assert!(outliers.is_in(0));
        // Soon after, it is left out for as long again; and for a second after a long time.
        assert_eq!(fail(&mut outliers, 0, IN_A_ROW, now), out(0, 30));
        now += LONGEST;
        outliers.answered(0, now, now);
        now += LONGEST;
        assert_eq!(fail(&mut outliers, 0, IN_A_ROW, now), out(0, 1));
    }

    #[tokio::test]
    async fn calls_from_before_say_nothing_of_an_endpoint_that_is_tried_or_back() {
        let began = Instant::now();
        let mut outliers = Outliers::new(2);
        fail(&mut outliers, 0, IN_A_ROW, began);
        let now = began + Duration::from_millis(500);
        assert_eq!(outliers.failed(0, began, now, 1., |_| true), None);
        assert_eq!(outliers.answered(0, began, now), None);
        assert!(!outliers.is_in(0));
        let now = began + FIRST;
        assert!(outliers.begin_trial(0, now));
        assert_eq!(outliers.failed(0, began, now, 1., |_| true), None);
        assert_eq!(outliers.answered(0, now, now), Some(Change::Back(0)));
        for _ in 0..IN_A_ROW {
            assert_eq!(outliers.failed(0, began, now, 1., |_| true), None);
        }
        assert!(outliers.is_in(0));
    }

    #[tokio::test]
    async fn the_last_endpoint_stays_and_lets_all_in_when_it_fails_too() {
        let now = Instant::now();
        let mut outliers = Outliers::new(3);
        assert_eq!(fail(&mut outliers, 0, IN_A_ROW, now), out(0, 1));
        assert_eq!(fail(&mut outliers, 1, IN_A_ROW, now), out(1, 1));
        assert_eq!(fail(&mut outliers, 2, IN_A_ROW - 1, now), None);
        assert_eq!(fail(&mut outliers, 2, 1, now), Some(Change::AllBack));
        assert_eq!(outliers.out(), 0);
        // All fail: nobody is better, nobody is left out.
        for _ in 0..100 {
            for endpoint in 0..3 {
                assert_eq!(fail(&mut outliers, endpoint, 1, now), None);
            }
        }
        // One recovers: the others are left out.
        for _ in 0..100 {
            outliers.answered(1, now, now);
        }
        assert!(fail(&mut outliers, 0, 1, now).is_some());
        assert!(fail(&mut outliers, 2, 1, now).is_some());
        let mut only = Outliers::new(1);
        assert_eq!(fail(&mut only, 0, 100, now), None);
        assert!(only.is_in(0));
    }

    #[tokio::test]
    async fn an_endpoint_beside_which_none_can_be_reached_is_not_left_out() {
        let now = Instant::now();
        let mut outliers = Outliers::new(2);
        for _ in 0..100 {
            assert_eq!(outliers.failed(0, now, now, 1., |other| other == 0), None);
        }
        assert!(outliers.is_in(0));
    }

    #[tokio::test]
    async fn who_fails_now_and_then_is_left_out_only_where_others_do_not() {
        let now = Instant::now();
        for (base, leaves) in [(0, true), (30, false)] {
            let mut outliers = Outliers::new(4);
            let mut left = 0;
            // Of 100 calls of the first one 30 fail, of the others `base`; never many in a row.
            for call in 0..1000 {
                for endpoint in 0..4 {
                    let percent = if endpoint == 0 { 30 } else { base };
                    let fails = (call * 7 + endpoint * 13) % 10 * 10 < percent;
                    let change = match fails {
                        true => outliers.failed(endpoint, now, now, 1., |_| true),
                        false => outliers.answered(endpoint, now, now),
                    };
                    left += usize::from(change.is_some());
                }
            }
            assert_eq!(left > 0, leaves, "{base}%");
            assert_eq!(outliers.is_in(0), !leaves, "{base}%");
        }
    }

    #[tokio::test]
    async fn what_takes_far_longer_for_a_while_is_left_out_but_never_more_than_half() {
        let begin = Instant::now();
        let second = |seconds| begin + Duration::from_secs(seconds);
        let mut outliers = Outliers::new(4);
        let times = [Some(0.1), Some(0.01), None, Some(0.012)];
        assert_eq!(outliers.compare(&times, second(0), 1.), None);
        assert_eq!(outliers.compare(&times, second(2), 1.), None);
        // It was faster in between.
        assert_eq!(outliers.compare(&[Some(0.01); 4], second(3), 1.), None);
        assert_eq!(outliers.compare(&times, second(4), 1.), None);
        let change = outliers.compare(&times, second(7), 1.);
        assert_eq!(change, Some(Change::Out(0, Why::Slow, FIRST)));
        let times = [None, Some(0.1), Some(0.01), Some(0.01)];
        outliers.compare(&times, second(8), 1.);
        assert!(outliers.compare(&times, second(11), 1.).is_some());
        let times = [None, None, Some(0.1), Some(0.01)];
        outliers.compare(&times, second(12), 1.);
        assert_eq!(outliers.compare(&times, second(20), 1.), None);
        // Less than anybody notices.
        let mut outliers = Outliers::new(2);
        let times = [Some(0.001), Some(0.0001)];
        outliers.compare(&times, second(0), 1.);
        assert_eq!(outliers.compare(&times, second(10), 1.), None);
    }
}

/// What hold-outs may cost: the same share of requests and of the model's time, whichever is less.
///
/// Time alone would hold out every other request of a model whose rows cost all; requests alone
/// would, with batches of 600, spend three calls on hold-outs for each batch.
#[derive(Clone, Debug)]
pub(super) struct Allowance {
    share: f64,
    requests: f64,
    seconds: f64,
    /// What a hold-out takes: before there was one, what a call takes.
    expected: f64,
    /// Whether there was one.
    tried: bool,
}

impl Allowance {
    /// Starts with nothing, so that a few calls never see a hold-out.
    pub(super) fn new(share: f64) -> Self {
        Self {
            share: match share > 0. {
                true => share.min(MOST),
                false => 0.,
            },
            requests: 0.,
            seconds: 0.,
            expected: 0.,
            tried: false,
        }
    }

    /// Puts aside the share of a call, or another one that is larger.
    pub(super) fn earn(&mut self, requests: usize, seconds: f64, share: f64) {
        let share = match self.share > 0. {
            true => self.share.max(share),
            false => 0.,
        };
        if !self.tried {
            self.expect(seconds);
        }
        self.requests += share * requests as f64;
        self.seconds += share * seconds;
    }

    /// Takes what so many hold-outs need, if it is there.
    #[inline]
    pub(super) fn take(&mut self, hold_outs: usize) -> bool {
        let hold_outs = hold_outs as f64;
        let seconds = hold_outs * self.expected;
        if self.requests < hold_outs || self.seconds < seconds {
            return false;
        }
        // What was not used is not saved up: hold-outs come one by one, not all after a night.
        self.requests = (self.requests - hold_outs).min(SAVED * hold_outs);
        self.seconds = (self.seconds - seconds).min(SAVED * seconds);
        true
    }

    /// Takes what one more needs, there or not.
    pub(super) fn lend(&mut self) {
        self.requests -= 1.;
        self.seconds -= self.expected;
    }

    /// Takes back what a hold-out needs that was never sent.
    pub(super) fn give_back(&mut self) {
        self.requests += 1.;
        self.seconds += self.expected;
    }

    /// Settles what a hold-out took.
    pub(super) fn spend(&mut self, seconds: f64) {
        // One that hung would not have been faster in a batch.
        let charged = seconds.min(OUTLIER * self.expected);
        self.seconds += self.expected - charged;
        match self.tried {
            true => self.expect(charged),
            false => (self.tried, self.expected) = (true, charged),
        }
    }

    fn expect(&mut self, seconds: f64) {
        self.expected = match self.expected > 0. {
            true => self.expected + GAIN * (seconds - self.expected),
            false => seconds,
        };
    }
}

/// The largest share.
const MOST: f64 = 0.5;
/// How many times what was taken may be left.
const SAVED: f64 = 1.;
/// What a hold-out counts for in what is expected of the next.
const GAIN: f64 = 0.1;
/// How many times the expected time a hold-out is charged at most.
const OUTLIER: f64 = 8.;

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls, and hold-outs as soon as they are allowed; returns the shares of requests and time.
    fn shares(requests: usize, seconds: f64, alone: f64, share: f64) -> (f64, f64) {
        let mut allowance = Allowance::new(share);
        let (mut calls, mut hold_outs) = (0., 0.);
        for _ in 0..20_000 {
            if allowance.take(1) {
                hold_outs += 1.;
                allowance.spend(alone);
            }
            calls += 1.;
            allowance.earn(requests, seconds, 0.);
        }
        (
            hold_outs / (calls * requests as f64),
            hold_outs * alone / (calls * seconds),
        )
    }

    #[test]
    fn neither_requests_nor_time_go_over_the_share() {
        for (requests, seconds, alone) in [
            (600, 0.011, 0.003_7),
            (4, 0.02, 0.005),
            (1, 0.01, 0.01),
            (200, 0.02, 0.000_1),
            (2, 0.01, 0.011),
        ] {
            let (count, time) = shares(requests, seconds, alone, 0.005);
            assert!(count <= 0.005 && time <= 0.005 + alone / (20_000. * seconds));
            assert!(count > 0.0045 || time > 0.0045, "{count} {time}");
        }
    }

    #[test]
    fn a_hold_out_that_is_taken_back_costs_nothing_and_says_nothing() {
        let mut allowance = Allowance::new(0.25);
        (0..5).for_each(|_| allowance.earn(1, 0.04, 0.));
        assert!(allowance.take(1) && !allowance.take(1));
        for _ in 0..100 {
            allowance.give_back();
            assert!(allowance.take(1) && !allowance.take(1));
        }
        assert_eq!(allowance.expected, 0.04);
    }

    #[test]
    fn without_a_share_nothing_is_held_out() {
        for share in [0., -1., f64::NAN] {
            assert_eq!(shares(600, 0.01, 0.001, share).0, 0.);
        }
    }
}

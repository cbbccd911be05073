use std::time::Duration;

use tokio::time::Instant;

use crate::batch::Share;

/// What may still be spent on second tries: a share of the requests of the last seconds, and a small
/// reserve.
///
/// ```text
/// requests --- share ---> [ earned, forgotten within seconds ] ---.
///                                                                 +---> a try: 1
/// time -----------------> [ reserve: a few ] ---------------------'
/// ```
///
/// Of so many requests in so many seconds never more are spent than
/// `share * requests + reserve * (1 + seconds / LASTING)`.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    share: f64,
    earned: f64,
    reserve: f64,
    most_reserve: f64,
    /// When it last changed.
    at: Instant,
}

impl Budget {
    /// Makes one of a share of requests; with a share of nothing, nothing is ever spent.
    pub(super) fn new(share: Share, reserve: u32, now: Instant) -> Self {
        let reserve = match share {
            Share::NONE => 0.,
            _ => f64::from(reserve),
        };
        Self {
            share: share.get(),
            earned: 0.,
            reserve,
            most_reserve: reserve,
            at: now,
        }
    }

    /// Takes note of requests that came.
    pub(super) fn earn(&mut self, requests: u32, now: Instant) {
        self.pass(now);
        self.earned += self.share * f64::from(requests);
    }

    /// Takes what one try costs, if there is so much.
    pub(super) fn spend(&mut self, now: Instant) -> bool {
        self.pass(now);
        if self.earned + self.reserve < 1. {
            return false;
        }
        let earned = self.earned.min(1.);
        self.earned -= earned;
        self.reserve = (self.reserve - (1. - earned)).max(0.);
        true
    }

    /// Gives back what a try would have cost that was not made.
    pub(super) fn give_back(&mut self) {
        let kept = (self.reserve + 1.).min(self.most_reserve);
        self.earned += 1. - (kept - self.reserve);
        self.reserve = kept;
    }

    fn pass(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        let passed = passed.as_secs_f64() / LASTING.as_secs_f64();
        self.earned *= (-passed).exp();
        self.reserve = (self.reserve + passed * self.most_reserve).min(self.most_reserve);
    }
}

/// For how long a request speaks for second tries. A tenth of what comes in ten seconds is as much
/// as is under way at a moment where calls take a second: so many are lost with a server.
const LASTING: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn share(share: f64) -> Share {
        Share::new(share).unwrap()
    }

    #[derive(Clone, Debug)]
    enum Step {
        Earn(u32),
        Spend(u32),
        SpendAndGiveBack,
        Pass(Duration),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1..200_u32).prop_map(Step::Earn),
            (1..100_u32).prop_map(Step::Spend),
            Just(Step::SpendAndGiveBack),
            (0..20_000_u64).prop_map(|millis| Step::Pass(Duration::from_millis(millis))),
        ]
    }

    proptest! {
        #[test]
        fn never_more_is_spent_than_was_earned_and_the_reserve(
            of in 0.0..=1.0_f64,
            reserve in 0..20_u32,
            steps in prop::collection::vec(step(), 0..200),
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut budget = Budget::new(share(of), reserve, now);
            let (mut requests, mut spent) = (0., 0.);
            for step in steps {
                match step {
                    Step::Earn(more) => {
                        budget.earn(more, now);
                        requests += f64::from(more);
                    }
                    Step::Spend(tries) => {
                        spent += (0..tries).filter(|_| budget.spend(now)).count() as f64;
                    }
                    Step::SpendAndGiveBack => {
                        if budget.spend(now) {
                            budget.give_back();
                        }
                    }
                    Step::Pass(time) => now += time,
                }
                let seconds = (now - start).as_secs_f64() / LASTING.as_secs_f64();
                let most = share(of).get() * requests + f64::from(reserve) * (1. + seconds);
                prop_assert!(spent <= most + 1e-6, "{spent} of {most}");
            }
        }
    }

    #[tokio::test]
    async fn a_low_rate_may_try_again_and_a_share_of_nothing_never() {
        let mut now = Instant::now();
        let mut budget = Budget::new(share(0.1), 2, now);
        assert!(budget.spend(now) && budget.spend(now));
        assert!(!budget.spend(now));
        now += LASTING / 2;
        assert!(budget.spend(now));
        assert!(!budget.spend(now));
        let mut none = Budget::new(Share::NONE, 2, now);
        none.earn(1000, now);
        assert!(!none.spend(now + LASTING));
    }

    #[tokio::test]
    async fn what_was_earned_is_there_at_once_and_forgotten_within_seconds() {
        let mut now = Instant::now();
        let mut budget = Budget::new(share(0.1), 0, now);
        budget.earn(1000, now);
        let mut after = budget.clone();
        assert_eq!((0..1000).filter(|_| budget.spend(now)).count(), 100);
        now += LASTING * 3;
        assert_eq!((0..1000).filter(|_| after.spend(now)).count(), 4);
    }
}

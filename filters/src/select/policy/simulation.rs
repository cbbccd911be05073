//! Five digit models of mixed quality, the best of which answers at random for a while: what each
//! policy loses by it, and how soon it is back.

use super::*;
use crate::random::Random;

/// How often each of five real models is wrong: two trees, naive Bayes, logistic regression and a
/// support vector machine (`containers/native`).
const ERRORS: [f64; 5] = [0.28, 0.203, 0.085, 0.424, 0.013];

/// The best arm, and when it is lost.
const BEST: usize = 4;
const SECOND: usize = 2;
const LOST: std::ops::Range<usize> = 5_000..10_000;
const QUERIES: usize = 20_000;

/// How many labels there are.
const LABELS: u64 = 10;

/// What is told after an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Told {
    /// What the arm lost that answered.
    Chosen,
    /// What all arms lost.
    Known,
}

/// How the errors of two models go together.
#[derive(Clone, Copy, Debug)]
enum Errors {
    /// Not at all.
    Independent,
    /// Some images are difficult for all, and look like the same wrong digit to many.
    Common,
}

#[derive(Clone, Copy, Debug)]
struct Experiment {
    policy: Policy,
    told: Told,
    errors: Errors,
    /// Whether arms vote, or one answers.
    vote: bool,
    replicas: usize,
    /// After how many answers of all replicas they tell each other what they learned.
    exchange: usize,
    /// Whether a loss counts for less where others learn from many at the same time.
    heeds: bool,
    seeds: u64,
}

/// The share of wrong answers.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    /// Of the first 10000.
    half: f64,
    /// Of the first 500 without the best arm.
    lost: f64,
    /// Of the first 1000 after it is back.
    back: f64,
    /// Of the last 5000.
    end: f64,
    /// Of all.
    all: f64,
}

impl Experiment {
    /// One answer at a time, by a single arm, of which the loss is told.
    fn single(policy: Policy) -> Self {
        Self {
            policy,
            told: Told::Chosen,
            errors: Errors::Common,
            vote: false,
            replicas: 1,
            exchange: 1,
            heeds: true,
            seeds: SEEDS,
        }
    }

    /// The vote of all arms.
    fn ensemble(policy: Policy) -> Self {
        Self {
            told: Told::Known,
            vote: true,
            ..Self::single(policy)
        }
    }

    /// Returns the mean over all seeds.
    fn run(self) -> Outcome {
        let mut mean = Outcome::default();
        for seed in 0..self.seeds {
            let wrong = self.wrong(seed);
            let share = |range: std::ops::Range<usize>| {
                let wrong = wrong[range.clone()].iter().filter(|wrong| **wrong);
                wrong.count() as f64 / range.len() as f64 / self.seeds as f64
            };
            mean.half += share(0..10_000);
            mean.lost += share(5_000..5_500);
            mean.back += share(10_000..11_000);
            mean.end += share(15_000..20_000);
            mean.all += share(0..20_000);
        }
        mean
    }

    /// Returns whether each answer is wrong.
    fn wrong(self, seed: u64) -> Vec<bool> {
        let mut random = Random::new(seed);
        let arms: Vec<_> = (0..ERRORS.len())
            .map(|arm| Arm::new(arm.to_string()))
            .collect();
        let config = Config {
            policy: self.policy,
            ..Config::default()
        };
        let selector = Selector::new(&config, &arms);
        let all = Available::first(arms.len());
        let mut shared = selector.prior();
        let mut states = vec![selector.prior(); self.replicas];
        let mut lessons = Vec::new();
        let mut others = 0.;
        let mut wrong = Vec::with_capacity(QUERIES);
        for query in 0..QUERIES {
            let state = &mut states[query % self.replicas];
            let shares = selector.probabilities(state, all);
            // 0 is the truth.
            let labels = self.labels(&mut random, LOST.contains(&query));
            let arm = Selector::choose(&shares, random.uniform()).unwrap();
            wrong.push(match self.vote {
                true => vote(&labels, &shares) != 0,
                false => labels[arm] != 0,
            });
            let losses = labels.map(|label| Some(f64::from(label != 0)));
            let lesson = selector.learn_beside(
                state,
                match self.told {
                    Told::Known => Evidence::Known(&losses),
                    Told::Chosen => Evidence::Chosen {
                        arm,
                        probability: shares[arm],
                        loss: losses[arm].unwrap(),
                    },
                },
                others,
            );
            assert_in_bounds(state, selector.rule());
            if self.replicas > 1 {
                lessons.push(lesson);
                if lessons.len() >= self.exchange {
                    for lesson in lessons.drain(..) {
                        shared += &lesson;
                        assert!(!selector.repair(&mut shared));
                    }
                    assert_in_bounds(&shared, selector.rule());
                    states.fill(shared.clone());
                    if self.heeds {
                        others = (self.exchange - self.exchange / self.replicas) as f64;
                    }
                }
            }
        }
        wrong
    }

    fn labels(self, random: &mut Random, lost: bool) -> [u64; ERRORS.len()] {
        let difficulty = match self.errors {
            Errors::Independent => 1.,
            // A third of all images is four times as difficult as the others.
            Errors::Common if random.uniform() < 1. / 3. => 2.,
            Errors::Common => 0.5,
        };
        let likely = 1 + random.next() % (LABELS - 1);
        let mut labels = ERRORS.map(|error| {
            let wrong = random.uniform() < error * difficulty;
            let alike = matches!(self.errors, Errors::Common) && random.uniform() < 0.4;
            match (wrong, alike) {
                (false, _) => 0,
                (true, true) => likely,
                (true, false) => 1 + random.next() % (LABELS - 1),
            }
        });
        if lost {
            labels[BEST] = random.next() % LABELS;
        }
        labels
    }
}

/// Returns the label of the most weight.
fn vote(labels: &[u64], weights: &[f64]) -> u64 {
    let mut votes = [0.; LABELS as usize];
    for (label, weight) in labels.iter().zip(weights) {
        votes[*label as usize] += weight;
    }
    let best = (0..votes.len()).max_by(|a, b| votes[*a].total_cmp(&votes[*b]));
    best.unwrap() as u64
}

fn assert_in_bounds(state: &State, rule: Rule) {
    let trials: f64 = state.arms.iter().map(|arm| arm.trials).sum();
    assert!(trials <= rule.memory * 1.001);
    for arm in &state.arms {
        assert!(arm.past_trials <= rule.past_memory * 1.001);
        if let Some(span) = rule.span {
            assert!((-span..=0.).contains(&arm.score));
        } else {
            assert!((0.0..=arm.trials).contains(&arm.score));
        }
    }
}

/// Returns the policy of a name with its usual settings.
fn usual(name: &str) -> Policy {
    *Policy::USUAL
        .iter()
        .find(|policy| policy.as_str() == name)
        .unwrap()
}

/// What a policy is allowed to lose even where it loses as little as the best arm, or less.
const LEAST_REGRET: f64 = 0.005;

/// Unoptimised, so few that the tests take seconds.
const SEEDS: u64 = if cfg!(debug_assertions) { 2 } else { 20 };

/// Demands what a policy that asks a single arm has to keep to, with some room for so few seeds.
///
/// Over 60 seeds, the first 10000, the first 500 without the best arm, the first 1000 with it and
/// the last 5000 have: exp3 .065, .154, .044, .017; epsilon-greedy .065, .135, .035, .023; Thompson
/// .065, .170, .039, .015. An oracle that always asks the best arm has .049, .085, .013 and .013.
fn check_single(policy: Policy, seeds: u64, half: f64, lost: f64, back: f64, end: f64) {
    for errors in [Errors::Independent, Errors::Common] {
        let outcome = Experiment {
            errors,
            seeds,
            ..Experiment::single(policy)
        }
        .run();
        assert!(outcome.half < half, "{outcome:?}");
        assert!(outcome.lost < lost, "{outcome:?}");
        assert!(outcome.back < back, "{outcome:?}");
        assert!(outcome.end < end, "{outcome:?}");
    }
}

#[test]
fn exp3_leaves_an_arm_that_is_lost_and_finds_it_again() {
    check_single(usual("exp3"), 10, 0.066, 0.17, 0.050, 0.018);
}

#[test]
fn epsilon_greedy_leaves_an_arm_that_is_lost_and_finds_it_again() {
    check_single(usual("epsilon-greedy"), 10, 0.067, 0.16, 0.042, 0.025);
}

#[test]
fn thompson_leaves_an_arm_that_is_lost_and_finds_it_again() {
    check_single(usual("thompson"), SEEDS, 0.071, 0.22, 0.055, 0.018);
}

#[test]
fn the_vote_of_exp4_is_better_than_any_single_arm_would_have_been() {
    for errors in [Errors::Independent, Errors::Common] {
        let outcome = Experiment {
            errors,
            seeds: 10,
            ..Experiment::ensemble(usual("exp4"))
        }
        .run();
        // An oracle that always asks the best arm has 0.049, 0.085, 0.013 and 0.013.
        assert!(outcome.half < 0.0505, "{outcome:?}");
        assert!(outcome.lost < 0.11, "{outcome:?}");
        assert!(outcome.back < 0.025, "{outcome:?}");
        assert!(outcome.end < 0.014, "{outcome:?}");
    }
}

#[test]
fn every_policy_learns_more_where_all_losses_are_known() {
    for name in ["epsilon-greedy", "exp3", "exp4"] {
        let single = Experiment::single(usual(name));
        let chosen = single.run().all;
        let known = Experiment {
            told: Told::Known,
            ..single
        }
        .run()
        .all;
        assert!(known < chosen, "{name}: {known} {chosen}");
    }
}

#[test]
fn nothing_is_learned_where_weights_are_fixed() {
    let outcome = Experiment::single(Policy::Fixed).run();
    let mean = ERRORS.iter().sum::<f64>() / ERRORS.len() as f64;
    assert!((outcome.end - mean).abs() < 0.01, "{outcome:?}");
}

/// Demands that replicas lose little more than one that knows everything at once, where what is
/// lost is what one does not lose that always asks the best arm. `most` is how many times as much
/// two and ten may lose that tell each other after every 50 answers of all, and after every 50
/// answers of each.
fn check_replicas(experiment: Experiment, most: [[f64; 2]; 2]) {
    let best = (15. * ERRORS[BEST] + 5. * ERRORS[SECOND]) / 20.;
    let alone = (experiment.run().all - best).max(LEAST_REGRET);
    for (replicas, most) in [2, 10].into_iter().zip(most) {
        for (exchange, most) in [50, 50 * replicas].into_iter().zip(most) {
            let together = Experiment {
                replicas,
                exchange,
                ..experiment
            };
            let times = (together.run().all - best) / alone;
            assert!(times < most, "{together:?}: {times}");
        }
    }
}

#[test]
fn replicas_of_exp3_learn_together() {
    check_replicas(
        Experiment {
            seeds: 6,
            ..Experiment::single(usual("exp3"))
        },
        [[1.5, 1.5], [1.5, 4.5]],
    );
}

#[test]
fn replicas_of_exp4_learn_together() {
    check_replicas(
        Experiment {
            seeds: 6,
            ..Experiment::ensemble(usual("exp4"))
        },
        [[1.5, 1.5], [1.5, 1.5]],
    );
}

#[test]
fn replicas_of_epsilon_greedy_learn_together() {
    // Ten try an arm of which nothing is remembered at the same moment, where one would do.
    check_replicas(
        Experiment {
            seeds: 6,
            ..Experiment::single(usual("epsilon-greedy"))
        },
        [[1.5, 1.5], [2.5, 3.5]],
    );
}

#[test]
fn replicas_of_thompson_learn_together() {
    check_replicas(
        Experiment {
            seeds: SEEDS,
            ..Experiment::single(usual("thompson"))
        },
        [[1.5, 1.5], [1.5, 5.]],
    );
}

#[test]
fn many_replicas_lose_less_where_each_heeds_how_much_the_others_learn() {
    for name in ["epsilon-greedy", "exp3"] {
        let heeding = Experiment {
            replicas: 50,
            exchange: 250,
            seeds: 3,
            ..Experiment::single(usual(name))
        };
        let heedless = Experiment {
            heeds: false,
            ..heeding
        };
        let (heeding, heedless) = (heeding.run().all, heedless.run().all);
        assert!(heeding + 0.01 < heedless, "{name}: {heeding} {heedless}");
    }
}

#[test]
fn a_thousand_replicas_that_all_see_the_best_arm_fail_find_it_again() {
    for policy in &Policy::USUAL[1..] {
        let arms: Vec<_> = (0..ERRORS.len())
            .map(|arm| Arm::new(arm.to_string()))
            .collect();
        let config = Config {
            policy: *policy,
            ..Config::default()
        };
        let selector = Selector::new(&config, &arms);
        let all = Available::first(arms.len());
        let mut state = selector.prior();
        let good = [Some(0.3), Some(0.2), Some(0.1), Some(0.4), Some(0.)];
        let bad = [Some(0.3), Some(0.2), Some(0.1), Some(0.4), Some(1.)];
        for _ in 0..1_000 {
            selector.learn(&mut state, Evidence::Known(&good));
        }
        assert!(selector.probabilities(&state, all)[BEST] > 0.8);
        // Each learns on its own copy, and all that is added up at once.
        let mut copy = state.clone();
        for _ in 0..50 {
            let lesson = selector.learn(&mut copy, Evidence::Known(&bad));
            for _ in 0..1_000 {
                state += &lesson;
            }
        }
        assert!(!selector.repair(&mut state));
        assert_in_bounds(&state, selector.rule());
        assert!(
            selector.probabilities(&state, all)[BEST] < 0.2,
            "{policy:?}"
        );
        // One replica is enough to tell that it is back.
        let mut steps = 0;
        while selector.probabilities(&state, all)[BEST] < 0.5 {
            selector.learn(&mut state, Evidence::Known(&good));
            steps += 1;
            assert!(steps < 1_000, "{policy:?}: {state:?}");
        }
    }
}

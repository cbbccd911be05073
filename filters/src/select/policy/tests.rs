use proptest::prelude::*;

use super::*;
use crate::{random::Random, select::Learned};

/// Arms with nothing said of them.
pub(super) fn arms(count: usize) -> Vec<Arm> {
    (0..count).map(|arm| Arm::new(arm.to_string())).collect()
}

pub(super) fn selector(policy: Policy, arms: &[Arm]) -> Selector {
    let config = Config {
        policy,
        ..Config::default()
    };
    Selector::new(&config, arms)
}

/// Any policy, with any settings that make sense.
fn policies() -> impl Strategy<Value = Policy> {
    let rate = 0.001..2_f64;
    let share = 0_f64..=1.;
    prop_oneof![
        Just(Policy::Fixed),
        (share.clone(), share.clone())
            .prop_map(|(epsilon, discount)| Policy::EpsilonGreedy { epsilon, discount }),
        (rate.clone(), share.clone(), share.clone()).prop_map(
            |(learning_rate, exploration, share)| Policy::Exp3 {
                learning_rate,
                exploration,
                share
            }
        ),
        (rate, share.clone()).prop_map(|(learning_rate, share)| Policy::Exp4 {
            learning_rate,
            share
        }),
        share.prop_map(|discount| Policy::Thompson { discount }),
        prop::sample::select(Policy::USUAL.to_vec()),
    ]
}

/// Up to 8 arms, with floors that are not more than 1 together.
fn some_arms() -> impl Strategy<Value = Vec<Arm>> {
    prop::collection::vec((0_f64..10., 0_f64..0.125, 0_f64..1., any::<bool>()), 1..=8).prop_map(
        |limits| {
            let arms = limits.into_iter().enumerate();
            arms.map(|(arm, (weight, floor, ceiling, bounded))| Arm {
                weight,
                min_probability: if bounded { floor } else { 0. },
                max_probability: if bounded { ceiling.max(floor) } else { 1. },
                ..Arm::new(arm.to_string())
            })
            .collect()
        },
    )
}

/// Numbers that make no sense among some that do.
fn garbage() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>(),
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(f64::NEG_INFINITY),
        -1e3..1e3,
    ]
}

/// Evidence of any kind, some of which makes no sense.
#[derive(Clone, Debug)]
enum Any {
    Chosen(usize, f64, f64),
    Known(Vec<Option<f64>>),
}

impl Any {
    fn evidence(&self) -> Evidence<'_> {
        match self {
            Self::Chosen(arm, probability, loss) => Evidence::Chosen {
                arm: *arm,
                probability: *probability,
                loss: *loss,
            },
            Self::Known(losses) => Evidence::Known(losses),
        }
    }
}

fn evidence() -> impl Strategy<Value = Any> {
    let loss = prop_oneof![4 => 0_f64..=1., 1 => garbage()];
    let chosen = (0_usize..9, loss.clone(), loss.clone())
        .prop_map(|(arm, probability, loss)| Any::Chosen(arm, probability, loss));
    let known = prop::collection::vec(prop::option::of(loss), 0..9).prop_map(Any::Known);
    prop_oneof![chosen, known]
}

fn some_of(arms: usize, bits: u64) -> Available {
    (0..arms)
        .filter(|arm| bits >> arm & 1 == 1)
        .fold(Available::first(0), Available::with)
}

/// Demands what always holds of probabilities.
fn check(shares: &[f64], arms: &[Arm], available: Available) {
    let total: f64 = shares.iter().sum();
    let expected = if available.is_empty() { 0. } else { 1. };
    assert!((total - expected).abs() < 1e-9, "{shares:?}");
    let highest: f64 = available.iter().map(|arm| arms[arm].max_probability).sum();
    for (arm, share) in shares.iter().enumerate() {
        if !available.has(arm) {
            assert_eq!(*share, 0.);
            continue;
        }
        assert!(
            *share >= arms[arm].min_probability - 1e-9,
            "{arm}: {shares:?}"
        );
        if highest >= 1. {
            assert!(
                *share <= arms[arm].max_probability + 1e-9,
                "{arm}: {shares:?}"
            );
        }
    }
}

proptest! {
    #[test]
    fn probabilities_sum_to_one_within_bounds_whatever_was_told(
        policy in policies(),
        arms in some_arms(),
        told in prop::collection::vec(evidence(), 0..60),
        up in any::<u64>(),
    ) {
        let selector = selector(policy, &arms);
        let mut state = selector.prior();
        for told in &told {
            let before = state.clone();
            let lesson = selector.learn(&mut state, told.evidence());
            prop_assert!(lesson.arms.iter().all(Learned::is_sane));
            // Whoever adds the lesson and applies the rule learns the same.
            let mut other = before;
            other += &lesson;
            prop_assert!(!selector.repair(&mut other));
            for (other, learned) in other.arms.iter().zip(&state.arms) {
                for (other, number) in other.numbers().iter().zip(learned.numbers()) {
                    prop_assert!((other - number).abs() < 1e-9, "{} {}", other, number);
                }
            }
            let available = some_of(arms.len(), up);
            check(&selector.probabilities(&state, available), &arms, available);
        }
        let all = Available::first(arms.len());
        check(&selector.probabilities(&state, all), &arms, all);
    }

    #[test]
    fn a_state_of_garbage_is_repaired_and_brings_no_garbage_out(
        policy in policies(),
        arms in some_arms(),
        numbers in prop::collection::vec([garbage(), garbage(), garbage(), garbage(), garbage(), garbage()], 0..10),
        up in any::<u64>(),
    ) {
        let selector = selector(policy, &arms);
        let mut state = State { arms: numbers.into_iter().map(Learned::from).collect() };
        let available = some_of(arms.len(), up);
        check(&selector.probabilities(&state, available), &arms, available);
        selector.repair(&mut state);
        prop_assert_eq!(state.arms.len(), arms.len());
        prop_assert!(state.arms.iter().all(Learned::is_sane));
        check(&selector.probabilities(&state, available), &arms, available);
        prop_assert!(!selector.repair(&mut state), "{:?}", state);
    }
}

#[test]
fn chosen_arms_are_as_frequent_as_they_are_probable() {
    let mut random = Random::new(5);
    for policy in Policy::USUAL {
        let arms = arms(5);
        let selector = selector(policy, &arms);
        let mut state = selector.prior();
        for step in 0..40 {
            let losses: Vec<_> = (0..5)
                .map(|arm| Some(((step * 7 + arm * 3) % 10) as f64 / 10.))
                .collect();
            selector.learn(&mut state, Evidence::Known(&losses));
        }
        let shares = selector.probabilities(&state, Available::first(5));
        const CHOICES: usize = 200_000;
        let mut counts = [0_usize; 5];
        for _ in 0..CHOICES {
            counts[Selector::choose(&shares, random.uniform()).unwrap()] += 1;
        }
        let squares = shares.iter().zip(counts).map(|(share, count)| {
            let expected = share * CHOICES as f64;
            (count as f64 - expected).powi(2) / expected.max(1e-9)
        });
        // One in ten thousand is above this, for 4 degrees of freedom.
        assert!(
            squares.sum::<f64>() < 23.5,
            "{policy:?}: {shares:?} {counts:?}"
        );
    }
}

#[test]
fn states_stay_sane_however_extreme_the_losses_are() {
    for policy in Policy::USUAL {
        let arms = arms(4);
        let selector = selector(policy, &arms);
        let mut state = selector.prior();
        for step in 0..20_000_usize {
            // The same arm loses all for long, then another one.
            let arm = step / 5_000;
            selector.learn(
                &mut state,
                Evidence::Chosen {
                    arm,
                    probability: f64::MIN_POSITIVE,
                    loss: 1.,
                },
            );
            let mut losses = [Some(0.); 4];
            losses[arm] = Some(1.);
            selector.learn(&mut state, Evidence::Known(&losses));
        }
        let all = Available::first(4);
        let shares = selector.probabilities(&state, all);
        check(&shares, &arms, all);
        assert!(!selector.repair(&mut state));
        if policy != Policy::Fixed {
            assert!(
                shares[3] < 0.05 && shares[0] > 0.2,
                "{policy:?}: {shares:?}"
            );
        }
    }
}

#[test]
fn arms_of_which_a_loss_is_not_known_keep_their_part_of_the_weight() {
    for name in ["exp3", "exp4"] {
        let policy = Policy::USUAL
            .into_iter()
            .find(|policy| policy.as_str() == name);
        // Without an even part, which would hide the weights.
        let policy = match policy.unwrap() {
            Policy::Exp3 {
                learning_rate,
                share,
                ..
            } => Policy::Exp3 {
                learning_rate,
                exploration: 0.,
                share,
            },
            other => other,
        };
        let selector = selector(policy, &arms(3));
        let mut state = selector.prior();
        selector.learn(&mut state, Evidence::Known(&[Some(1.), Some(0.), None]));
        let shares = selector.probabilities(&state, Available::first(3));
        assert!((shares[2] - 1. / 3.).abs() < 1e-9, "{shares:?}");
        assert!(shares[0] < 0.3 && shares[1] > 0.36, "{shares:?}");
    }
}

#[test]
fn weights_are_the_shares_where_they_are_fixed_and_the_prior_elsewhere() {
    let weighty = |weights: [f64; 3]| -> Vec<_> {
        let arms = weights.into_iter().enumerate();
        arms.map(|(arm, weight)| Arm {
            weight,
            ..Arm::new(arm.to_string())
        })
        .collect()
    };
    for policy in Policy::USUAL {
        let selector = selector(policy, &weighty([9., 1., 0.]));
        let shares = selector.probabilities(&selector.prior(), Available::first(3));
        assert!(
            shares[0] > 0.85 && shares[1] < 0.11,
            "{policy:?}: {shares:?}"
        );
        if policy == Policy::Fixed {
            assert_eq!(shares[..], [0.9, 0.1, 0.]);
            // Those that are left share what they have.
            let rest = Available::first(3).without(0);
            assert_eq!(
                selector.probabilities(&selector.prior(), rest)[..],
                [0., 1., 0.]
            );
        }
    }
    // With no weight at all, all are alike.
    let selector = selector(Policy::Fixed, &weighty([0., 0., 0.]));
    let shares = selector.probabilities(&selector.prior(), Available::first(3));
    assert!(shares.iter().all(|share| (share - 1. / 3.).abs() < 1e-12));
}

#[test]
fn what_an_arm_may_not_have_goes_to_the_others_in_proportion() {
    let bounded = |limits: [(f64, f64, f64); 3]| {
        let arms = limits.into_iter().enumerate();
        let arms: Vec<_> = arms
            .map(|(arm, (weight, min_probability, max_probability))| Arm {
                weight,
                min_probability,
                max_probability,
                ..Arm::new(arm.to_string())
            })
            .collect();
        selector(Policy::Fixed, &arms)
    };
    let shares = |selector: &Selector, available| {
        let shares = selector.probabilities(&selector.prior(), available);
        let rounded = shares.iter().map(|share| (share * 1e9).round() / 1e9);
        rounded.collect::<Shares>()
    };
    let all = Available::first(3);
    let selector = bounded([(8., 0., 0.5), (1., 0., 1.), (1., 0., 1.)]);
    assert_eq!(shares(&selector, all)[..], [0.5, 0.25, 0.25]);
    let selector = bounded([(6., 0., 1.), (4., 0., 1.), (0., 0.2, 1.)]);
    assert_eq!(shares(&selector, all)[..], [0.48, 0.32, 0.2]);
    // What is lifted takes from those that are not at their ceiling.
    let selector = bounded([(8., 0., 0.4), (2., 0., 1.), (0., 0.1, 1.)]);
    assert_eq!(shares(&selector, all)[..], [0.4, 0.5, 0.1]);
    // One that nobody gave a share takes what is over when the others are at their ceilings.
    let selector = bounded([(1., 0., 0.3), (1., 0., 0.3), (0., 0., 1.)]);
    assert_eq!(shares(&selector, all)[..], [0.3, 0.3, 0.4]);
    // When that one is down, ceilings give way in proportion, and floors hold.
    let selector = bounded([(9., 0., 0.3), (1., 0.1, 0.1), (0., 0., 1.)]);
    assert_eq!(shares(&selector, all.without(2))[..], [0.75, 0.25, 0.]);
    // One alone has all.
    assert_eq!(
        shares(&selector, Available::first(2).without(0))[..],
        [0., 1., 0.]
    );
}

#[test]
fn an_arm_that_was_good_is_tried_again_sooner_than_one_that_never_was() {
    let policy = Policy::USUAL[4];
    let selector = selector(policy, &arms(3));
    let mut state = selector.prior();
    let mut tell = |losses: [f64; 3], times| {
        for _ in 0..times {
            selector.learn(&mut state, Evidence::Known(&losses.map(Some)));
        }
    };
    tell([0., 0.5, 0.1], 400);
    tell([0.9, 0.5, 0.1], 100);
    // Nothing is heard but of the one that is asked.
    for step in 0..1_000 {
        let chosen = Evidence::Chosen {
            arm: 2,
            probability: 1.,
            loss: f64::from(step % 10 == 0),
        };
        selector.learn(&mut state, chosen);
    }
    let shares = selector.probabilities(&state, Available::first(3));
    assert!(shares[0] > 2. * shares[1] && shares[2] > 0.5, "{shares:?}");
}

#[test]
fn nothing_is_chosen_where_nothing_has_a_share() {
    assert_eq!(Selector::choose(&[], 0.5), None);
    assert_eq!(Selector::choose(&[0., 0.], 0.5), None);
    assert_eq!(Selector::choose(&[0., 1., 0.], 1.), Some(1));
}

#[test]
fn a_context_begins_with_what_is_best_for_all_and_soon_goes_its_own_way() {
    for policy in Policy::USUAL {
        let (ensemble, rates) = match policy {
            Policy::Fixed => continue,
            Policy::Exp4 { share, .. } => (
                true,
                Policy::Exp4 {
                    learning_rate: 2.,
                    share,
                },
            ),
            other => (false, other),
        };
        let selector = selector(rates, &arms(5));
        let mut overall = selector.prior();
        let mut random = Random::new(11);
        for _ in 0..2000 {
            // The first is right for most, each of the others for some.
            let mut lost = [0.3, 0.7, 0.7, 0.7, 0.7]
                .map(|mean| Some(f64::from(u8::from(random.uniform() < mean))));
            if !ensemble {
                let shares = selector.probabilities(&overall, Available::first(5));
                let arm = Selector::choose(&shares, random.uniform()).expect("there are arms");
                let evidence = Evidence::Chosen {
                    arm,
                    probability: shares[arm],
                    loss: lost[arm].take().unwrap_or_default(),
                };
                selector.learn(&mut overall, evidence);
                continue;
            }
            selector.learn(&mut overall, Evidence::Known(&lost));
        }
        let mut context = selector.inherit(&overall);
        let share = |context: &State| selector.probabilities(context, Available::first(5));
        let begin = share(&context);
        assert!(
            begin[1..].iter().all(|other| begin[0] > *other),
            "{policy:?}: {begin:?}"
        );
        assert!(context.arms.iter().all(|arm| arm.observations == 0.));
        for _ in 0..4 {
            let lost = [1., 0., 1., 1., 1.].map(Some);
            selector.learn(&mut context, Evidence::Known(&lost));
        }
        let end = share(&context);
        let best = end.iter().copied().fold(0., f64::max);
        assert_eq!(end[1], best, "{policy:?}: {end:?}");
    }
}

proptest! {
    #[test]
    fn whatever_all_have_learned_a_context_begins_with_shares(
        policy in policies(),
        arms in some_arms(),
        numbers in prop::collection::vec(prop::array::uniform6(garbage()), 0..9),
    ) {
        let selector = selector(policy, &arms);
        let overall = State {
            arms: numbers.into_iter().map(Learned::from).collect(),
        };
        let begin = selector.inherit(&overall);
        prop_assert_eq!(begin.arms.len(), arms.len());
        let shares = selector.probabilities(&begin, Available::first(arms.len()));
        prop_assert!((shares.iter().sum::<f64>() - 1.).abs() < 1e-9, "{:?}", shares);
    }
}

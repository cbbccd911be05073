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
fn nothing_is_chosen_where_nothing_has_a_share() {
    assert_eq!(Selector::choose(&[], 0.5), None);
    assert_eq!(Selector::choose(&[0., 0.], 0.5), None);
    assert_eq!(Selector::choose(&[0., 1., 0.], 1.), Some(1));
}

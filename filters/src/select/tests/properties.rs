use proptest::prelude::*;

use super::{answer, floats, integers, numbers_of, packed, unpacked};
use crate::{
    inference::Response,
    select::{
        Combined, Loss, Prediction, Surprise, Truth,
        ensemble::{Answer, combine},
        label, loss,
    },
};

/// Arms whose weights are so many eighths, and what they answer to two rows.
fn arms<T: std::fmt::Debug>(
    said: impl Strategy<Value = T> + Clone,
) -> impl Strategy<Value = Vec<(f64, Vec<T>)>> {
    let said = prop::collection::vec(said, 2);
    let weight = (1_u8..9).prop_map(|weight| f64::from(weight) / 8.);
    prop::collection::vec((weight, said), 1..6)
}

fn labels(arms: &[(f64, Vec<i64>)]) -> Vec<(usize, f64, Response)> {
    let said = |said: &[i64]| answer(vec![integers("label", &[2], said)]);
    let arms = arms.iter().enumerate();
    arms.map(|(arm, (weight, of))| (arm, *weight, said(of)))
        .collect()
}

fn numbers(arms: &[(f64, Vec<f32>)], shape: &[i64]) -> Vec<(usize, f64, Response)> {
    let said = |said: &[f32]| answer(vec![floats("y", shape, said)]);
    let arms = arms.iter().enumerate();
    arms.map(|(arm, (weight, of))| (arm, *weight, said(of)))
        .collect()
}

fn combined(answers: &[(usize, f64, Response)], scale: f64) -> Combined {
    let asked = answers.iter().map(|(_, weight, _)| weight * scale).sum();
    let answers = answers.iter().map(|(arm, weight, response)| Answer {
        arm: *arm,
        weight: weight * scale,
        response,
    });
    let answers: Vec<_> = answers.collect();
    combine(&answers, &[], asked, None, Loss::Absolute { scale: 1. }).unwrap()
}

fn is_same(one: &Combined, other: &Combined) -> bool {
    let near = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-9;
    one.arm == other.arm
        && one.agree == other.agree
        && one.confidence.iter().zip(&other.confidence).all(near)
        && one.response.outputs == other.response.outputs
}

fn any_prediction() -> impl Strategy<Value = Prediction> {
    let score = prop_oneof![
        4 => -3_f64..3.,
        1 => Just(f64::NAN),
        1 => Just(f64::INFINITY),
        1 => Just(f64::NEG_INFINITY),
        1 => any::<f64>(),
    ];
    let scores = prop_oneof![
        prop::collection::vec(score.clone(), 2..8),
        prop::collection::vec(0_f64..1., 60..80),
        prop::collection::vec(0_f64..1., 2..70).prop_map(|scores| {
            let sum: f64 = scores.iter().sum();
            scores.iter().map(|score| score / sum).collect()
        }),
    ];
    let log = Loss::Log { scale: 3. };
    prop_oneof![
        Just(Prediction::Nothing),
        any::<i64>().prop_map(|class| Prediction::Class(class.into())),
        any::<u64>().prop_map(|class| Prediction::Class(class.into())),
        ".{0,9}".prop_map(|text| Prediction::Bytes(label::digest(text.as_bytes()))),
        score.prop_map(Prediction::number),
        any::<f32>().prop_map(|number| Prediction::number(number.into())),
        (scores, any::<bool>()).prop_map(move |(scores, with)| {
            Prediction::scores(&scores, if with { log } else { Loss::ZeroOne })
        }),
    ]
}

fn any_truth() -> impl Strategy<Value = Truth> {
    prop_oneof![
        any::<bool>().prop_map(Truth::from),
        (-3_i64..90).prop_map(Truth::from),
        any::<i64>().prop_map(Truth::from),
        any::<f64>().prop_map(Truth::from),
        ".{0,9}".prop_map(|text| Truth::from(&*text)),
    ]
}

fn any_loss() -> impl Strategy<Value = Loss> {
    let scale = prop_oneof![0.1_f64..9., any::<f64>()];
    (0..4, scale).prop_map(|(kind, scale)| match kind {
        0 => Loss::ZeroOne,
        1 => Loss::Absolute { scale },
        2 => Loss::Squared { scale },
        _ => Loss::Log { scale },
    })
}

proptest! {
    #[test]
    fn the_order_of_answers_and_the_unit_of_weights_do_not_matter(
        arms in arms(0_i64..4),
        floats in arms(-2_f32..2.),
        turn in 0_usize..6,
        scale in 0.001_f64..1000.,
    ) {
        for answers in [labels(&arms), numbers(&floats, &[2, 1]), numbers(&floats, &[1, 2])] {
            let expected = combined(&answers, 1.);
            let mut turned = answers.clone();
            let len = turned.len();
            turned.rotate_left(turn % len);
            prop_assert!(is_same(&expected, &combined(&turned, 1.)));
            turned.reverse();
            prop_assert!(is_same(&expected, &combined(&turned, 1.)));
            // A factor that is a power of two rounds nothing.
            prop_assert!(is_same(&expected, &combined(&answers, 0.25)));
            if numbers_of(&expected.response, 0).iter().all(|number| number.fract() == 0.) {
                prop_assert!(is_same(&expected, &combined(&answers, scale)));
            }
        }
    }

    #[test]
    fn one_arm_gives_its_own_answer_and_is_sure_of_it(
        arms in arms(-9_i64..9),
        floats in arms(-2_f32..2.),
    ) {
        for answers in [labels(&arms), numbers(&floats, &[2, 1]), numbers(&floats, &[1, 2])] {
            let combined = combined(&answers[..1], 1.);
            prop_assert!(combined.response.wire().is_some());
            prop_assert_eq!(&combined.response.outputs, &answers[0].2.outputs);
            prop_assert!(combined.confidence.iter().all(|confidence| *confidence == 1.));
            prop_assert!(combined.agree.iter().all(|agree| *agree == 1));
        }
    }

    #[test]
    fn each_row_has_the_label_of_the_most_weight(arms in arms(0_i64..4)) {
        let combined = combined(&labels(&arms), 1.);
        let total: f64 = arms.iter().map(|(weight, _)| weight).sum();
        for (row, found) in numbers_of(&combined.response, 0).iter().enumerate() {
            let votes = |class: i64| -> f64 {
                let votes = arms.iter().filter(|(_, said)| said[row] == class);
                votes.map(|(weight, _)| weight).sum()
            };
            let won = votes(*found as i64);
            prop_assert!((0..4).all(|class| votes(class) <= won));
            prop_assert!((combined.confidence[row] - won / total).abs() < 1e-9);
        }
        let heaviest = arms[combined.arm].1[0];
        prop_assert_eq!(heaviest as f64, numbers_of(&combined.response, 0)[0]);
    }

    #[test]
    fn a_mean_lies_between_what_was_said(
        arms in arms(prop_oneof![5 => -2_f32..2., 1 => Just(f32::NAN), 1 => any::<f32>()]),
        wide in any::<bool>(),
    ) {
        let shape: &[i64] = if wide { &[1, 2] } else { &[2, 1] };
        let combined = combined(&numbers(&arms, shape), 1.);
        for (element, mean) in numbers_of(&combined.response, 0).iter().enumerate() {
            let said = arms.iter().map(|(_, said)| f64::from(said[element]));
            let said: Vec<_> = said.filter(|number| !number.is_nan()).collect();
            let least = said.iter().copied().fold(f64::INFINITY, f64::min);
            let most = said.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let opposite = least.is_infinite() && most.is_infinite();
            prop_assert!(opposite || least <= *mean && *mean <= most, "{} {} {}", least, mean, most);
        }
        prop_assert!(combined.confidence.iter().all(|share| (0. ..=1.).contains(share)));
    }

    #[test]
    fn what_is_packed_is_unpacked_as_it_was(
        predictions in prop::collection::vec(any_prediction(), 0..5),
        truth in any_truth(),
        loss in any_loss(),
    ) {
        let unpacked = unpacked(&packed(&predictions)).unwrap();
        prop_assert_eq!(&predictions[..], &unpacked[..]);
        for (before, after) in predictions.iter().zip(&unpacked) {
            let lost = loss::of(loss, before, &truth);
            prop_assert!(lost.as_ref().is_ok_and(|lost| (0. ..=1.).contains(lost)) || lost.is_err());
            if let (Ok(lost), Ok(again)) = (lost, loss::of(loss, after, &truth)) {
                prop_assert_eq!(lost.to_bits(), again.to_bits());
            }
        }
    }

    #[test]
    fn any_bytes_are_unpacked_without_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..200),
        kind in 0_u8..9,
        truth in any_truth(),
    ) {
        for first in [bytes.first().copied().unwrap_or(0), kind] {
            if let Some(byte) = bytes.first_mut() {
                *byte = first;
            }
            for prediction in unpacked(&bytes).unwrap_or_default() {
                for loss in [Loss::ZeroOne, Loss::Log { scale: 2. }, Loss::Absolute { scale: 2. }] {
                    if let Ok(lost) = loss::of(loss, &prediction, &truth) {
                        prop_assert!((0. ..=1.).contains(&lost));
                    }
                }
            }
        }
    }

    #[test]
    fn probabilities_are_kept_to_a_fiftieth(weights in prop::collection::vec(0.001_f64..1., 2..65)) {
        let sum: f64 = weights.iter().sum();
        let scores: Vec<f64> = weights.iter().map(|weight| weight / sum).collect();
        let surprise = Surprise::of(&scores).unwrap();
        for (class, probability) in scores.iter().enumerate() {
            let nats = -probability.ln();
            let apart = (surprise.nats(class as u32) - nats).abs();
            prop_assert!(apart <= 0.02 * (nats + 1.), "{} {}", nats, apart);
        }
    }
}

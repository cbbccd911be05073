use super::{answer, floats, integers, numbers_of, raw, strings, text};
use crate::{
    inference::{Datatype, Form, Response},
    select::{
        Combined, Loss,
        ensemble::{Answer, Expected, combine},
        label,
    },
};

/// Combines the answers of the first arms, all of which were asked.
fn combined(answers: &[(f64, Response)]) -> Combined {
    let asked = answers.iter().map(|(weight, _)| weight).sum();
    of(answers, asked, None)
}

fn of(answers: &[(f64, Response)], asked: f64, output: Option<&str>) -> Combined {
    let answers: Vec<_> = answers
        .iter()
        .enumerate()
        .map(|(arm, (weight, response))| Answer {
            arm,
            weight: *weight,
            response,
        })
        .collect();
    combine(&answers, &[], asked, output, Loss::ZeroOne).unwrap()
}

fn classes(classes: &[i64]) -> Response {
    answer(vec![integers("label", &[classes.len() as i64], classes)])
}

fn close(found: &[f64], expected: &[f64]) -> bool {
    let pairs = found.iter().zip(expected);
    found.len() == expected.len() && pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-6)
}

#[test]
fn the_label_of_the_most_weight_wins_and_its_heaviest_arm_answers_as_it_did() {
    let answers = [
        (0.4, classes(&[7])),
        (0.25, classes(&[1])),
        (0.35, classes(&[1])),
    ];
    let combined = combined(&answers);
    assert_eq!(combined.arm, 2);
    assert_eq!(numbers_of(&combined.response, 0), [1.]);
    assert!(combined.response.wire().is_some());
    assert!(close(&combined.confidence, &[0.6]));
    assert_eq!(combined.agree[..], [2]);
}

#[test]
fn labels_of_equal_weight_are_decided_by_the_heaviest_arm_and_then_the_first() {
    let answers = [
        (0.25, classes(&[1])),
        (0.25, classes(&[1])),
        (0.5, classes(&[2])),
    ];
    assert_eq!(combined(&answers).arm, 2);
    let answers = [(0.1, classes(&[3])), (0.1, classes(&[2]))];
    assert_eq!(combined(&answers).arm, 0);
    // 0.1 + 0.2 is not 0.3 but for rounding.
    let answers = [
        (0.1, classes(&[1])),
        (0.2, classes(&[1])),
        (0.3, classes(&[2])),
    ];
    assert_eq!(combined(&answers).arm, 2);
}

#[test]
fn an_arm_that_agrees_in_all_rows_answers_whole_though_others_are_heavier() {
    let answers = [
        (0.4, classes(&[1, 9])),
        (0.35, classes(&[1, 2])),
        (0.25, classes(&[8, 2])),
    ];
    let combined = combined(&answers);
    assert_eq!(combined.arm, 1);
    assert!(combined.response.wire().is_some());
    assert!(close(&combined.confidence, &[0.75, 0.6]));
}

#[test]
fn rows_that_different_arms_win_are_put_together_with_all_outputs() {
    let outputs = |labels: &[&str], sure: &[f32]| {
        answer(vec![
            strings("label", &[3], labels),
            floats("sure", &[3, 1], sure),
        ])
    };
    let answers = [
        (0.4, outputs(&["a", "b", "x"], &[0.1, 0.2, 0.3])),
        (0.3, outputs(&["a", "long", "c"], &[0.4, 0.5, 0.6])),
        (0.3, outputs(&["y", "long", "c"], &[0.7, 0.8, 0.9])),
    ];
    // The second agrees in all rows, and is not asked.
    let one = combined(&answers);
    assert_eq!(one.arm, 1);
    let answers = [
        (0.4, outputs(&["a", "b", "x"], &[0.1, 0.2, 0.3])),
        (0.3, outputs(&["a", "long", "z"], &[0.4, 0.5, 0.6])),
        (0.25, outputs(&["y", "long", "z"], &[0.7, 0.8, 0.9])),
        (0.3, outputs(&["y", "q", "x"], &[0.7, 0.8, 0.9])),
    ];
    let combined = combined(&answers);
    assert_eq!(combined.arm, 0);
    assert!(combined.response.wire().is_none());
    assert_eq!(
        combined.response.outputs[0].data,
        strings("", &[3], &["a", "long", "x"]).data
    );
    assert!(close(&numbers_of(&combined.response, 1), &[0.1, 0.5, 0.3]));
    assert_eq!(combined.agree[..], [2, 2, 2]);
}

#[test]
fn arms_whose_outputs_are_not_alike_are_not_mixed() {
    let other = |classes: &[i64], name: &str| {
        answer(vec![
            integers("label", &[2], classes),
            floats(name, &[2], &[0., 1.]),
        ])
    };
    let answers = [
        (0.3, other(&[1, 4], "x")),
        (0.3, other(&[1, 5], "y")),
        (0.25, other(&[2, 6], "z")),
        (0.2, other(&[3, 6], "z")),
    ];
    let combined = combined(&answers);
    // The one with whom the most weight agrees over both rows.
    assert_eq!(combined.arm, 0);
    assert!(combined.response.wire().is_some());
    assert!(close(&combined.confidence, &[0.6 / 1.05, 0.3 / 1.05]));
}

#[test]
fn labels_agree_in_whatever_form_they_came() {
    let answers = [
        (0.3, classes(&[3, 4])),
        (
            0.25,
            answer(vec![raw("label", Datatype::Uint8, &[2, 1], [3, 4])]),
        ),
        (
            0.2,
            answer(vec![text(
                "label",
                Datatype::Int32,
                &[2],
                Form::Flat,
                "3, 4",
            )]),
        ),
        (
            0.15,
            answer(vec![text(
                "label",
                Datatype::Int8,
                &[2, 1],
                Form::Rows,
                "[3],[4]",
            )]),
        ),
        (
            0.1,
            answer(vec![floats(
                "label",
                &[2, 5],
                &[0., 0., 0., 1., 0., 0., 0., 0., 0., 1.],
            )]),
        ),
    ];
    let numbers = combined(&answers);
    assert!(close(&numbers.confidence, &[1., 1.]));
    assert_eq!(numbers.agree[..], [5, 5]);
    let answers = [
        (0.5, answer(vec![strings("label", &[1], &["é\"b"])])),
        (
            0.3,
            answer(vec![text(
                "l",
                Datatype::Bytes,
                &[1],
                Form::Flat,
                r#""\u00e9\"b""#,
            )]),
        ),
        (
            0.2,
            answer(vec![text(
                "l",
                Datatype::Bytes,
                &[1],
                Form::Rows,
                r#"{"b64":"w6kiYg=="}"#,
            )]),
        ),
    ];
    assert_eq!(combined(&answers).agree[..], [3]);
}

#[test]
fn numbers_and_scores_are_answered_by_their_weighted_mean() {
    let answers = [
        (
            0.75,
            answer(vec![
                floats("y", &[2, 1], &[1., 2.]),
                integers("n", &[2], &[1, 2]),
            ]),
        ),
        (
            0.25,
            answer(vec![
                floats("y", &[2, 1], &[3., f32::NAN]),
                integers("n", &[2], &[3, 4]),
            ]),
        ),
    ];
    let numbers = combined(&answers);
    assert_eq!(numbers_of(&numbers.response, 0), [1.5, 2.]);
    assert_eq!(numbers_of(&numbers.response, 1), [1., 2.]);
    assert!(numbers.response.wire().is_none());
    // 1 agrees with 1.5 by two thirds, and 3 by half.
    assert!(close(&numbers.confidence, &[0.5 + 0.125, 0.75]));
    let scores = |scores: &[f32]| {
        answer(vec![
            floats("s", &[1, 3], scores),
            integers(
                "n",
                &[1],
                &[
                    label::top(&scores.iter().map(|s| f64::from(*s)).collect::<Vec<_>>()).unwrap()
                        as i64,
                ],
            ),
        ])
    };
    let answers = [
        (0.4, scores(&[0.6, 0.4, 0.])),
        (0.35, scores(&[0.2, 0.8, 0.])),
        (0.25, scores(&[0.1, 0.9, 0.])),
    ];
    let mean = combined(&answers);
    assert!(close(&numbers_of(&mean.response, 0), &[0.335, 0.665, 0.]));
    // What else is answered is of an arm that agrees.
    assert_eq!(numbers_of(&mean.response, 1), [1.]);
    assert_eq!(mean.arm, 1);
    assert!(close(&mean.confidence, &[0.6]));
}

#[test]
fn scores_of_different_classes_vote() {
    let answers = [
        (0.4, answer(vec![floats("s", &[1, 3], &[0.9, 0.1, 0.])])),
        (0.35, answer(vec![floats("s", &[1, 2], &[0.2, 0.8])])),
        (0.25, answer(vec![floats("s", &[1, 3], &[0.1, 0.9, 0.])])),
    ];
    let combined = combined(&answers);
    assert_eq!(combined.arm, 1);
    assert!(combined.response.wire().is_some());
    assert!(close(&combined.confidence, &[0.6]));
}

#[test]
fn who_does_not_answer_or_not_in_kind_lowers_the_confidence() {
    let answers = [
        (0.2, classes(&[1])),
        (0.2, classes(&[1, 1])),
        (0.2, answer(vec![])),
        (0.2, classes(&[1])),
    ];
    let combined = of(&answers, 1., None);
    assert!(close(&combined.confidence, &[0.4]));
    let said: Vec<_> = combined.predictions.iter().map(Option::is_some).collect();
    assert_eq!(said, [true, false, false, true]);
}

#[test]
fn arms_without_weight_weigh_the_same() {
    let answers = [
        (0., classes(&[2])),
        (f64::NAN, classes(&[1])),
        (-1., classes(&[1])),
    ];
    let combined = of(&answers, 0., None);
    assert_eq!(combined.arm, 1);
    assert!(close(&combined.confidence, &[2. / 3.]));
}

#[test]
fn answers_without_labels_are_refused_with_the_reason() {
    let response = classes(&[1]);
    let answers = [Answer {
        arm: 0,
        weight: 1.,
        response: &response,
    }];
    let refused = combine(&answers, &[], 1., Some("nope"), Loss::ZeroOne).unwrap_err();
    let reason = std::error::Error::source(&refused).unwrap().to_string();
    assert_eq!(reason, r#"the answer has no output "nope""#);
    assert!(combine(&[], &[], 1., None, Loss::ZeroOne).is_err());
}

fn with_missing(answers: &[(f64, Response)], missing: &[(f64, f64)]) -> Combined {
    let answers: Vec<_> = (answers.iter().enumerate())
        .map(|(arm, (weight, response))| Answer {
            arm,
            weight: *weight,
            response,
        })
        .collect();
    let expected = |(weight, mean): &(f64, f64)| Expected {
        weight: *weight,
        mean: *mean,
    };
    let missing: Vec<_> = missing.iter().map(expected).collect();
    combine(&answers, &missing, 1., None, Loss::Absolute { scale: 10. }).unwrap()
}

#[test]
fn what_is_expected_of_arms_that_did_not_answer_counts_in_the_mean_of_numbers() {
    let numbers = |values: &[f32]| answer(vec![floats("y", &[values.len() as i64, 1], values)]);
    let said = with_missing(&[(0.5, numbers(&[2., 4.]))], &[(0.25, 6.), (0.25, 8.)]);
    assert!(close(&numbers_of(&said.response, 0), &[4.5, 5.5]));
    // Those who did not answer agree with nothing, and the one who did is two away from the mean.
    assert!(said.confidence.iter().all(|sure| *sure < 0.5));
    let two = [(0.5, numbers(&[2.])), (0.25, numbers(&[4.]))];
    let said = with_missing(&two, &[(0.25, 6.)]);
    assert!(close(&numbers_of(&said.response, 0), &[3.5]));
    // Nobody speaks for a row of which nothing is said.
    let said = with_missing(&[(0.5, numbers(&[f32::NAN]))], &[(0.5, 6.)]);
    assert!(numbers_of(&said.response, 0)[0].is_nan());
}

#[test]
fn labels_and_scores_are_never_replaced_by_a_mean() {
    let labels = [(0.5, classes(&[1]))];
    let said = with_missing(&labels, &[(0.5, 6.)]);
    assert_eq!(numbers_of(&said.response, 0), [1.]);
    assert!(close(&said.confidence, &[0.5]));
    let scores = [(0.5, answer(vec![floats("y", &[1, 2], &[0.25, 0.75])]))];
    let said = with_missing(&scores, &[(0.5, 6.)]);
    assert!(close(&numbers_of(&said.response, 0), &[0.25, 0.75]));
}

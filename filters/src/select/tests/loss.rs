use super::{answer, floats, strings};
use crate::select::{
    Loss, Prediction, Truth,
    label::{self, digest},
    loss,
};

const LOG: Loss = Loss::Log { scale: 4. };
const ABSOLUTE: Loss = Loss::Absolute { scale: 2. };

fn lost(loss: Loss, prediction: &Prediction, truth: impl Into<Truth>) -> Option<f64> {
    loss::of(loss, prediction, &truth.into()).ok()
}

fn scores(scores: &[f64], loss: Loss) -> Prediction {
    Prediction::scores(scores, loss)
}

#[test]
fn the_right_label_loses_nothing_and_another_one_all() {
    let class = Prediction::Class(3);
    assert_eq!(lost(Loss::ZeroOne, &class, 3_i64), Some(0.));
    assert_eq!(lost(Loss::ZeroOne, &class, 3.), Some(0.));
    assert_eq!(lost(Loss::ZeroOne, &class, 4_i64), Some(1.));
    assert_eq!(lost(Loss::ZeroOne, &class, true), Some(1.));
    assert_eq!(lost(Loss::ZeroOne, &Prediction::Class(1), true), Some(0.));
    let label = Prediction::Bytes(digest(b"cat"));
    assert_eq!(lost(Loss::ZeroOne, &label, "cat"), Some(0.));
    assert_eq!(lost(Loss::ZeroOne, &label, "dog"), Some(1.));
    let of = |truth: i64| lost(Loss::ZeroOne, &scores(&[0.1, 0.9], Loss::ZeroOne), truth);
    assert_eq!((of(1), of(0), of(7)), (Some(0.), Some(1.), Some(1.)));
    let number = label::of(
        &answer(vec![floats("x", &[1, 1], &[0.1])]),
        None,
        Loss::ZeroOne,
    );
    assert_eq!(lost(Loss::ZeroOne, &number.unwrap()[0], 0.1), Some(0.));
}

#[test]
fn what_is_of_another_kind_is_refused_in_words() {
    let refused = |loss, prediction: &Prediction, truth: Truth| {
        loss::of(loss, prediction, &truth).unwrap_err().to_string()
    };
    assert_eq!(
        refused(Loss::ZeroOne, &Prediction::Class(3), "3".into()),
        r#"the answer was an integer, to which the string "3" has no zero-one loss"#
    );
    assert_eq!(
        refused(Loss::ZeroOne, &Prediction::Class(3), 3.5.into()),
        "the answer was an integer, to which the number 3.5 has no zero-one loss"
    );
    assert_eq!(
        refused(Loss::ZeroOne, &Prediction::Bytes(1), 3_i64.into()),
        "the answer was a text, to which the number 3 has no zero-one loss"
    );
    assert_eq!(
        refused(LOG, &scores(&[1., 0.], Loss::ZeroOne), 3_i64.into()),
        "the answer was a class by its score, to which the number 3 has no log loss"
    );
    assert_eq!(
        refused(Loss::ZeroOne, &scores(&[1., 0.], LOG), (-1_i64).into()),
        "the answer was probabilities of classes, to which the number -1 has no zero-one loss"
    );
    let said = refused(
        ABSOLUTE,
        &Prediction::Number(1.),
        "x".repeat(1 << 20).as_str().into(),
    );
    assert!(said.len() < 200, "{said}");
    let nan = Truth::Number(f64::NAN);
    assert!(loss::of(ABSOLUTE, &Prediction::Number(1.), &nan).is_err());
}

#[test]
fn distances_are_measured_by_the_scale() {
    let of = |loss, truth: f64| lost(loss, &Prediction::Number(1.), truth).unwrap();
    assert_eq!(of(ABSOLUTE, 1.), 0.);
    assert_eq!(of(ABSOLUTE, 0.5), 0.25);
    assert_eq!(of(ABSOLUTE, -9.), 1.);
    assert_eq!(of(Loss::Squared { scale: 2. }, 0.), 0.25);
    // Stars, of which four are nearer to five than one is.
    assert_eq!(lost(ABSOLUTE, &Prediction::Class(4), 5_i64), Some(0.5));
    assert_eq!(
        lost(ABSOLUTE, &scores(&[0., 1.], ABSOLUTE), 0_i64),
        Some(0.5)
    );
    for scale in [0., -1., f64::NAN, f64::INFINITY] {
        let loss = Loss::Absolute { scale };
        assert_eq!(of(loss, 1.), 0.);
        assert!((0. ..=1.).contains(&of(loss, 2.)), "{scale}");
    }
    let infinite = Prediction::Number(f64::INFINITY);
    assert_eq!(lost(ABSOLUTE, &infinite, 1.), Some(1.));
}

#[test]
fn improbable_truths_lose_more() {
    let of =
        |scores: &[f64], truth: i64| lost(LOG, &Prediction::scores(scores, LOG), truth).unwrap();
    let near = |found: f64, nats: f64| (found - nats / 4.).abs() < 0.01;
    assert!(near(of(&[0.25, 0.75], 1), -(0.75_f64.ln())));
    assert!(near(of(&[0.25, 0.75], 0), -(0.25_f64.ln())));
    assert_eq!(of(&[0., 1.], 1), 0.);
    assert_eq!(of(&[0., 1.], 0), 1.);
    assert_eq!(of(&[0., 1.], 2), 1.);
    // What does not sum up to 1 are logarithms.
    let (a, b) = (2_f64, -1_f64);
    let total = a.exp() + b.exp();
    assert!(near(of(&[a, b], 0), -(a.exp() / total).ln()));
    assert!(near(of(&[a, b], 1), -(b.exp() / total).ln()));
    assert!(near(of(&[1000., 0.], 0), 0.));
    assert!(near(of(&[f64::INFINITY, 0.], 0), 0.));
    assert_eq!(of(&[f64::NAN, 0.], 0), 1.);
    // A thousand classes, of which the most probable ones are kept.
    let mut many = [0.5 / 999.; 1000];
    many[700] = 0.5;
    assert!(near(of(&many, 700), 0.5_f64.ln().abs()));
    let wide = Loss::Log { scale: 20. };
    let far = lost(wide, &Prediction::scores(&many, wide), 999_i64).unwrap();
    assert!((far - -(0.5_f64 / 999.).ln() / 20.).abs() < 0.01, "{far}");
    // The probability of the second of two classes.
    let one = Prediction::Number(0.75);
    assert!(near(lost(LOG, &one, true).unwrap(), -(0.75_f64.ln())));
    assert!(near(lost(LOG, &one, 0_i64).unwrap(), -(0.25_f64.ln())));
    assert_eq!(lost(LOG, &one, 2_i64), None);
    assert_eq!(lost(LOG, &Prediction::Number(-1.), 1_i64), None);
}

#[test]
fn who_says_nothing_loses_all() {
    for loss in [Loss::ZeroOne, ABSOLUTE, LOG] {
        assert_eq!(lost(loss, &Prediction::Nothing, 1_i64), Some(1.));
    }
    let label = answer(vec![strings("x", &[1], &[""])]);
    let label = label::of(&label, None, Loss::ZeroOne).unwrap();
    assert_eq!(lost(Loss::ZeroOne, &label[0], ""), Some(0.));
}

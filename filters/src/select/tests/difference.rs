use super::{answer, floats, integers, strings, text};
use crate::{
    inference::{Datatype, Form},
    select::{Difference, difference},
};

#[test]
fn the_greatest_difference_and_the_rows_that_agree_are_told() {
    let one = answer(vec![
        floats("s", &[2, 2], &[0.5, 0.25, 0.25, 0.75]),
        integers("n", &[2], &[1, 2]),
    ]);
    let other = answer(vec![
        integers("n", &[2], &[1, 4]),
        text(
            "s",
            Datatype::Fp64,
            &[2, 2],
            Form::Rows,
            "[0.25,0.5],[0.25,0.5]",
        ),
    ]);
    let expected = Difference {
        max_abs: Some(2.),
        agree: 1,
        rows: 2,
        unlike: 0,
    };
    assert_eq!(difference::of(&one, &other, Some("s")), expected);
    let same = difference::of(&one, &one, None);
    assert_eq!((same.max_abs, same.agree, same.rows), (Some(0.), 2, 2));
}

#[test]
fn what_cannot_be_compared_is_counted_and_does_not_agree() {
    let one = answer(vec![
        floats("y", &[2, 1], &[1., f32::NAN]),
        floats("z", &[2], &[1., 2.]),
        strings("name", &[2], &["a", "b"]),
    ]);
    let other = answer(vec![floats("y", &[2, 1], &[1.0001, 3.])]);
    let found = difference::of(&one, &other, None);
    let expected = Difference {
        max_abs: Some(f64::INFINITY),
        agree: 1,
        rows: 2,
        unlike: 1,
    };
    assert_eq!(found, expected);
    let shorter = answer(vec![floats("y", &[1, 1], &[1.])]);
    let found = difference::of(&one, &shorter, None);
    assert_eq!(
        (found.max_abs, found.agree, found.rows, found.unlike),
        (None, 0, 2, 2)
    );
    let other = answer(vec![strings("name", &[2], &["a", "c"])]);
    let found = difference::of(&one, &other, Some("name"));
    assert_eq!(
        (found.max_abs, found.agree, found.rows, found.unlike),
        (None, 1, 2, 2)
    );
}

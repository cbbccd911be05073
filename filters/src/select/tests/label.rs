use super::{answer, floats, integers, packed, raw, strings, text};
use crate::{
    inference::{Datatype, Form, Response},
    select::{
        Loss, Prediction,
        label::{self, NoLabel},
    },
};

fn predictions(response: &Response) -> Vec<Prediction> {
    label::of(response, None, Loss::ZeroOne).unwrap().to_vec()
}

fn scores(top: u32) -> Prediction {
    Prediction::Scores {
        top,
        surprise: None,
    }
}

#[test]
fn each_type_has_its_kind_of_label() {
    let of = |tensor| predictions(&answer(vec![tensor]));
    assert_eq!(
        of(integers("x", &[2], &[-7, i64::MAX])),
        [Prediction::Class(-7), Prediction::Class(i64::MAX.into())]
    );
    assert_eq!(
        of(raw("x", Datatype::Uint64, &[1, 1], u64::MAX.to_le_bytes())),
        [Prediction::Class(u64::MAX.into())]
    );
    assert_eq!(
        of(raw("x", Datatype::Bool, &[2, 1], [0, 1])),
        [Prediction::Class(0), Prediction::Class(1)]
    );
    assert_eq!(
        of(floats("x", &[2, 1], &[0.5, f32::NAN])),
        [Prediction::Number(0.5), Prediction::Nothing]
    );
    assert_eq!(
        of(floats(
            "x",
            &[3, 2],
            &[0.5, 0.5, f32::NAN, -1., f32::NAN, f32::NAN]
        )),
        [scores(0), scores(1), Prediction::Nothing]
    );
    let halves = [0x3c00_u16, 0x4000, 0x3800, 0x3400]
        .map(u16::to_le_bytes)
        .concat();
    assert_eq!(
        of(raw("x", Datatype::Fp16, &[2, 2], halves)),
        [scores(1), scores(0)]
    );
    assert_eq!(
        of(strings("x", &[2], &["cat", "dog"])),
        of(text(
            "x",
            Datatype::Bytes,
            &[2, 1],
            Form::Rows,
            r#"["cat"],["dog"]"#
        ))
    );
}

#[test]
fn the_output_is_found_by_its_name_or_is_the_first() {
    let two = answer(vec![integers("a", &[1], &[1]), integers("b", &[1], &[2])]);
    assert_eq!(predictions(&two), [Prediction::Class(1)]);
    let of = |response, name| label::of(response, Some(name), Loss::ZeroOne);
    assert_eq!(of(&two, "b").unwrap()[..], [Prediction::Class(2)]);
    assert_eq!(of(&two, "c"), Err(NoLabel::Missing("c".into())));
    // Some protocols leave out the name of an output that is alone.
    let sole = answer(vec![integers("", &[1], &[3])]);
    assert_eq!(of(&sole, "b").unwrap()[..], [Prediction::Class(3)]);
}

#[test]
fn what_has_no_label_says_why() {
    let reason = |tensor| label::of(&answer(vec![tensor]), None, Loss::ZeroOne).unwrap_err();
    assert_eq!(
        reason(integers("x", &[1, 2], &[1, 2])).to_string(),
        "a row of output \"x\" is 2 elements of INT64, neither one label nor scores"
    );
    assert_eq!(
        reason(integers("x", &[], &[1])),
        NoLabel::NoRows("x".into())
    );
    assert_eq!(
        reason(floats("x", &[2, 0], &[])),
        NoLabel::NoRows("x".into())
    );
    assert_eq!(
        reason(floats("x", &[1 << 62, 9], &[])),
        NoLabel::Contents("x".into())
    );
    assert_eq!(
        reason(floats("x", &[1 << 40], &[1.])),
        NoLabel::Contents("x".into())
    );
    let mut absent = integers("x", &[1], &[1]);
    absent.form = Form::Absent;
    assert_eq!(reason(absent), NoLabel::Absent("x".into()));
    let opaque = Response::opaque(std::sync::Arc::new(()));
    assert_eq!(
        label::of(&opaque, None, Loss::ZeroOne),
        Err(NoLabel::NoOutputs)
    );
}

#[test]
fn predictions_take_few_bytes() {
    let len = |prediction: Prediction| packed(&[prediction]).len();
    assert_eq!(len(Prediction::Class(9)), 2);
    assert_eq!(len(Prediction::Class(-9)), 2);
    assert_eq!(len(scores(99)), 2);
    assert_eq!(len(Prediction::Number(0.25)), 5);
    assert_eq!(len(Prediction::Number(0.1)), 9);
    assert_eq!(len(Prediction::Bytes(1)), 7);
    let log = Loss::Log { scale: 5. };
    assert_eq!(len(Prediction::scores(&[0.1; 10], log)), 13);
    assert!(len(Prediction::scores(&[0.001; 1000], log)) < 64 * 3);
}

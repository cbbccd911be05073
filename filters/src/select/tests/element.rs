use proptest::prelude::*;

use super::{raw, strings, text};
use crate::{
    inference::{Datatype, Form, Payload, Tensor},
    select::{Value, element},
};

/// The contents of a tensor of one value.
fn written(datatype: Datatype, value: Value) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    element::put(datatype, &value, &mut out).map(|()| out)
}

fn read(datatype: Datatype, bytes: &[u8]) -> f64 {
    element::numbers(&raw("x", datatype, &[1], bytes)).unwrap()[0]
}

#[test]
fn every_half_is_read_and_written_as_it_is() {
    for datatype in [Datatype::Fp16, Datatype::Bf16] {
        for bits in 0..=u16::MAX {
            let number = read(datatype, &bits.to_le_bytes());
            let mut out = Vec::new();
            element::put_float(datatype, number, &mut out);
            match number.is_nan() {
                true => assert!(read(datatype, &out).is_nan()),
                false => assert_eq!(out, bits.to_le_bytes(), "{datatype} {bits:#06x} {number}"),
            }
        }
    }
    for (bits, number) in [
        (0x3c00_u16, 1.),
        (0xc000, -2.),
        (0x7bff, 65504.),
        (0x0001, 2_f64.powi(-24)),
        (0x7c00, f64::INFINITY),
    ] {
        assert_eq!(read(Datatype::Fp16, &bits.to_le_bytes()), number);
    }
    assert_eq!(read(Datatype::Bf16, &0x3fc0_u16.to_le_bytes()), 1.5);
}

#[test]
fn what_lies_between_two_halves_is_rounded_to_the_nearer_and_then_the_even_one() {
    let rounded = |number| element::rounded(Datatype::Fp16, number);
    assert_eq!(rounded(2049.), 2048.);
    assert_eq!(rounded(2051.), 2052.);
    assert_eq!(rounded(65519.9), 65504.);
    assert_eq!(rounded(65520.), f64::INFINITY);
    assert_eq!(rounded(2_f64.powi(-25)), 0.);
    assert_eq!(rounded(1.5 * 2_f64.powi(-24)), 2_f64.powi(-23));
    assert_eq!(rounded(-1e-300), 0.);
    assert_eq!(rounded(1e300), f64::INFINITY);
    assert_eq!(element::rounded(Datatype::Bf16, 3.4e38), f64::INFINITY);
}

#[test]
fn a_value_is_only_an_element_of_a_type_that_has_it() {
    let is = |datatype, value| written(datatype, value).is_some();
    assert!(is(Datatype::Uint8, Value::Integer(255)));
    assert!(!is(Datatype::Uint8, Value::Integer(256)));
    assert!(!is(Datatype::Uint8, Value::Integer(-1)));
    assert!(is(Datatype::Int8, Value::Integer(-128)));
    assert!(!is(Datatype::Int8, Value::Integer(128)));
    assert!(is(Datatype::Uint64, u64::MAX.into()));
    assert!(!is(Datatype::Int64, u64::MAX.into()));
    assert!(is(Datatype::Int32, Value::Number(3.)));
    assert!(!is(Datatype::Int32, Value::Number(3.5)));
    assert!(!is(Datatype::Int32, "3".into()));
    assert!(is(Datatype::Fp16, Value::Integer(1)));
    assert!(!is(Datatype::Fp16, Value::Number(1e6)));
    assert!(!is(Datatype::Fp32, Value::Number(f64::NAN)));
    assert!(is(Datatype::Bool, true.into()));
    assert!(!is(Datatype::Bool, Value::Integer(1)));
    assert!(!is(Datatype::Bytes, Value::Integer(1)));
    assert_eq!(
        written(Datatype::Int16, Value::Integer(-2)).unwrap(),
        [0xfe, 0xff]
    );
    assert_eq!(
        written(Datatype::Bytes, "a".into()).unwrap(),
        [1, 0, 0, 0, b'a']
    );
}

#[test]
fn text_is_read_as_its_type_says() {
    let numbers = |datatype, shape: &[i64], form, data| {
        element::numbers(&text("x", datatype, shape, form, data)).map(|numbers| numbers.to_vec())
    };
    assert_eq!(
        numbers(Datatype::Fp64, &[4], Form::Flat, "1.5, -2e3 ,-Infinity,7"),
        Some(vec![1.5, -2000., f64::NEG_INFINITY, 7.])
    );
    assert_eq!(
        numbers(Datatype::Fp32, &[2, 1, 2], Form::Rows, "[[0.1,2]], [[3,4]]"),
        Some(vec![f64::from(0.1_f32), 2., 3., 4.])
    );
    assert!(numbers(Datatype::Fp32, &[1], Form::Flat, "NaN").unwrap()[0].is_nan());
    for wrong in [
        "1", "1,2,3", "1,\"2\"", "1,null", "1,", "1,{}", "1 2 3", "1,x",
    ] {
        assert_eq!(
            numbers(Datatype::Fp32, &[2], Form::Flat, wrong),
            None,
            "{wrong}"
        );
    }
    let bools = text("x", Datatype::Bool, &[2], Form::Flat, "true,false");
    assert_eq!(element::integers(&bools).unwrap()[..], [1, 0]);
    let large = text(
        "x",
        Datatype::Uint64,
        &[1],
        Form::Flat,
        "18446744073709551615",
    );
    assert_eq!(element::integers(&large).unwrap()[..], [u64::MAX.into()]);
    let said = r#"["a\n\u00e9\ud83d\ude00"],[{ "b64" : "_-8=" }],[""],["\ud800x"]"#;
    let said = text("x", Datatype::Bytes, &[4, 1], Form::Rows, said);
    let mut found = Vec::new();
    element::strings(&said, |string| found.push(string.to_vec())).unwrap();
    let expected = [
        "a\né😀".as_bytes(),
        &[0xff, 0xef],
        b"",
        "\u{fffd}x".as_bytes(),
    ];
    assert_eq!(found, expected);
}

#[test]
fn text_becomes_the_bytes_that_it_says() {
    let said = text("x", Datatype::Bytes, &[2], Form::Flat, r#""ab","c""#);
    assert_eq!(
        element::raw(&said).unwrap(),
        strings("x", &[2], &["ab", "c"]).data
    );
    let said = text("x", Datatype::Int16, &[2, 1], Form::Rows, "[-1],[300]");
    assert!(element::raw(&said).unwrap().is(&[255, 255, 44, 1]));
    let too_large = text("x", Datatype::Int8, &[1], Form::Flat, "300");
    assert_eq!(element::raw(&too_large), None);
}

#[test]
fn elements_are_read_across_the_pieces_of_a_rope() {
    let whole = strings("x", &[2], &["abc", "d"]);
    let bytes = whole.data.to_bytes();
    let data: Payload = bytes
        .chunks(3)
        .map(|piece| bytes.slice_ref(piece))
        .collect();
    let mut found = Vec::new();
    element::strings(&Tensor { data, ..whole }, |string| {
        found.push(string.to_vec())
    })
    .unwrap();
    assert_eq!(found, [&b"abc"[..], b"d"]);
}

fn any_tensor() -> impl Strategy<Value = Tensor> {
    let contents = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        "[\\[\\]{},:\"\\\\ub64truefalsN0-9.e -]{0,40}".prop_map(String::into_bytes),
    ];
    let form = prop::sample::select(vec![
        Form::Raw,
        Form::Typed,
        Form::Absent,
        Form::Flat,
        Form::Rows,
    ]);
    let datatype = prop::sample::select(Datatype::ALL.to_vec());
    let dimension = prop_oneof![3 => -1_i64..5, 1 => any::<i64>()];
    let shape = prop::collection::vec(dimension, 0..4);
    (contents, form, datatype, shape).prop_map(|(data, form, datatype, shape)| Tensor {
        form,
        ..raw("x", datatype, &shape, data)
    })
}

proptest! {
    #[test]
    fn any_contents_are_read_without_panic_and_to_as_many_elements_as_the_shape_says(
        tensor in any_tensor(),
    ) {
        let elements = tensor.shape.elements();
        if let Some(numbers) = element::numbers(&tensor) {
            prop_assert_eq!(Some(numbers.len()), elements);
        }
        if let Some(integers) = element::integers(&tensor) {
            prop_assert_eq!(Some(integers.len()), elements);
        }
        let mut count = 0;
        if element::strings(&tensor, |_| count += 1).is_some() {
            prop_assert_eq!(Some(count), elements);
        }
        element::raw(&tensor);
    }

    #[test]
    fn a_float_is_rounded_to_the_nearest_half(number in -70000_f64..70000., small in -1_f64..1.) {
        for number in [number, small, small * 1e-5] {
            let rounded = element::rounded(Datatype::Fp16, number);
            let mut bits = Vec::new();
            element::put_float(Datatype::Fp16, number, &mut bits);
            let bits = u16::from_le_bytes([bits[0], bits[1]]);
            let neighbours = [bits.wrapping_sub(1), bits.wrapping_add(1)];
            if rounded.is_finite() {
                for other in neighbours {
                    let other = read(Datatype::Fp16, &other.to_le_bytes());
                    let is_near = (number - rounded).abs() <= (number - other).abs();
                    prop_assert!(is_near || !other.is_finite(), "{} {} {}", number, rounded, other);
                }
            }
        }
    }
}

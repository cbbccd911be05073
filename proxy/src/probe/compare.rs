//! How far two answers lie apart, element by element.

use std::collections::HashMap;

use bytes::{Buf as _, Bytes};
use bytestring::ByteString;
use outrigger_filters::inference::{Datatype, Tensor};

/// What the comparison of two answers to the same row says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Compared {
    /// They are the same, bit by bit.
    Equal,
    /// They are not; this is where they lie farthest apart.
    Apart(Gap),
    /// They have other outputs, or outputs of other shapes or datatypes.
    Unlike(String),
}

/// Two elements at the same place of two answers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Gap {
    pub(super) output: ByteString,
    /// The place within the row, where the row has more than one element.
    pub(super) element: Option<usize>,
    pub(super) before: Value,
    pub(super) after: Value,
    /// The difference: of floating numbers as a share of what their column holds, of whole ones as
    /// it is, and infinite where there is no such number.
    pub(super) size: f64,
    /// Whether they may lie so far apart.
    pub(super) within: bool,
}

/// An element of an output.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Number(f64),
    Whole(i128),
    Bytes(Bytes),
}

/// How large the numbers of each output are, column by column: the largest finite magnitude that
/// the rows have there.
///
/// A number near zero beside large ones of its column was the difference of large ones, and has
/// their rounding errors: relative to itself they would look enormous. Columns are kept apart
/// because pixels and probabilities may be neighbours in an output.
#[derive(Clone, Debug, Default)]
pub(super) struct Scales(HashMap<ByteString, Vec<f64>>);

impl Scales {
    /// Measures the answers to all rows.
    pub(super) fn of<'a>(answers: impl IntoIterator<Item = &'a [Tensor]>) -> Self {
        let mut scales = HashMap::<_, Vec<f64>>::new();
        for output in answers.into_iter().flatten() {
            let columns = scales.entry(output.name.clone()).or_default();
            for (column, value) in values(output).into_iter().enumerate() {
                if columns.len() <= column {
                    columns.push(0.);
                }
                if let Value::Number(number) = value
                    && number.is_finite()
                    && let Some(scale) = columns.get_mut(column)
                {
                    *scale = scale.max(number.abs());
                }
            }
        }
        Self(scales)
    }

    fn at(&self, output: &str, column: usize) -> f64 {
        let columns = self.0.get(output);
        let scale = columns.and_then(|columns| columns.get(column));
        scale.copied().unwrap_or_default().max(LEAST_SCALE)
    }
}

/// Compares two answers to the same row, whose contents are canonical.
pub(super) fn compare(
    before: &[Tensor],
    after: &[Tensor],
    scales: &Scales,
    tolerance: f64,
) -> Compared {
    if before.len() != after.len() {
        return Compared::Unlike(format!("{} outputs against {}", before.len(), after.len()));
    }
    let mut worst: Option<Gap> = None;
    for output in before {
        let name = &output.name;
        let Some(other) = after.iter().find(|other| other.name == *name) else {
            return Compared::Unlike(format!("output `{name}` against none"));
        };
        if output.datatype != other.datatype || output.shape != other.shape {
            let shown =
                |tensor: &Tensor| format!("{} {:?}", tensor.datatype, tensor.shape.dimensions());
            let (one, two) = (shown(output), shown(other));
            return Compared::Unlike(format!("output `{name}` is {one} against {two}"));
        }
        if output.data.to_bytes() == other.data.to_bytes() {
            continue;
        }
        let (one, two) = (values(output), values(other));
        if one.len() != two.len() {
            return Compared::Unlike(format!(
                "output `{name}` has {} elements against {}",
                one.len(),
                two.len()
            ));
        }
        let several = one.len() > 1;
        let allowed = allowed(output.datatype, tolerance);
        for (element, (before, after)) in one.into_iter().zip(two).enumerate() {
            let size = apart(&before, &after, scales.at(name, element));
            let within = match before {
                Value::Number(_) => size <= allowed,
                Value::Whole(_) | Value::Bytes(_) => size == 0.,
            };
            let gap = Gap {
                output: name.clone(),
                element: several.then_some(element),
                before,
                after,
                size,
                within,
            };
            if worst.as_ref().is_none_or(|worst| gap.is_worse(worst)) {
                worst = Some(gap);
            }
        }
    }
    worst.map_or(Compared::Equal, Compared::Apart)
}

impl Gap {
    /// Tells whether another one matters less.
    pub(super) fn is_worse(&self, other: &Self) -> bool {
        (!self.within, self.size) > (!other.within, other.size)
    }

    /// Writes both values with as many digits as it takes to tell them apart.
    pub(super) fn shown(&self) -> (String, String) {
        if let (Value::Number(before), Value::Number(after)) = (&self.before, &self.after) {
            for digits in FEWEST_DIGITS..=MOST_DIGITS {
                let shown = (rounded(*before, digits), rounded(*after, digits));
                if shown.0 != shown.1 {
                    return shown;
                }
            }
        }
        (self.before.to_string(), self.after.to_string())
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number:?}"),
            Self::Whole(number) => write!(f, "{number}"),
            Self::Bytes(bytes) => {
                let shown = bytes.get(..SHOWN).unwrap_or(bytes);
                let more = if shown.len() < bytes.len() { "…" } else { "" };
                write!(f, "{:?}{more}", String::from_utf8_lossy(shown))
            }
        }
    }
}

fn rounded(number: f64, digits: usize) -> String {
    let text = format!("{number:.*e}", digits.saturating_sub(1));
    // Short ones look as people write them.
    text.parse().map_or(text, |read: f64| format!("{read:?}"))
}

/// Returns how far two elements lie apart.
fn apart(before: &Value, after: &Value, scale: f64) -> f64 {
    match (before, after) {
        (Value::Number(one), Value::Number(two)) => {
            // Infinities among them; what is no number is like nothing else that is none.
            if one == two || one.is_nan() && two.is_nan() {
                return 0.;
            }
            let size = (one - two).abs() / scale;
            if size.is_nan() { f64::INFINITY } else { size }
        }
        (Value::Whole(one), Value::Whole(two)) => one.abs_diff(*two) as f64,
        _ if before == after => 0.,
        _ => f64::INFINITY,
    }
}

/// Returns the difference that a datatype is allowed: numbers of 16 bits cannot be closer than
/// their own steps.
fn allowed(datatype: Datatype, tolerance: f64) -> f64 {
    let steps = match datatype {
        _ if tolerance == 0. => 0.,
        Datatype::Fp16 => 2. * HALF_STEP,
        Datatype::Bf16 => 2. * BRAIN_STEP,
        _ => 0.,
    };
    tolerance.max(steps)
}

/// Reads canonical contents, as far as there are whole elements.
fn values(tensor: &Tensor) -> Vec<Value> {
    let data = tensor.data.to_bytes();
    macro_rules! read {
        ($type:ty, $value:expr) => {{
            let (elements, _) = data.as_chunks::<{ size_of::<$type>() }>();
            let read =
                |element: &[u8; size_of::<$type>()]| $value(<$type>::from_le_bytes(*element));
            elements.iter().map(read).collect()
        }};
    }
    macro_rules! whole {
        ($type:ty) => {
            read!($type, |whole| Value::Whole(i128::from(whole)))
        };
    }
    match tensor.datatype {
        Datatype::Bool | Datatype::Uint8 => whole!(u8),
        Datatype::Uint16 => whole!(u16),
        Datatype::Uint32 => whole!(u32),
        Datatype::Uint64 => whole!(u64),
        Datatype::Int8 => whole!(i8),
        Datatype::Int16 => whole!(i16),
        Datatype::Int32 => whole!(i32),
        Datatype::Int64 => whole!(i64),
        Datatype::Fp16 => read!(u16, |bits| Value::Number(half(bits))),
        Datatype::Bf16 => read!(u16, |bits| {
            Value::Number(f32::from_bits(u32::from(bits) << 16).into())
        }),
        Datatype::Fp32 => read!(f32, |number| Value::Number(f64::from(number))),
        Datatype::Fp64 => read!(f64, Value::Number),
        Datatype::Bytes => texts(data),
    }
}

fn texts(mut data: Bytes) -> Vec<Value> {
    let mut texts = Vec::new();
    while let Ok(len) = data.try_get_u32_le() {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > data.len() {
            break;
        }
        texts.push(Value::Bytes(data.split_to(len)));
    }
    texts
}

/// Reads a number of IEEE half precision.
fn half(bits: u16) -> f64 {
    let exponent = i32::from(bits >> 10 & 0x1f);
    let fraction = f64::from(bits & 0x3ff) / 1024.;
    let magnitude = match exponent {
        0 => fraction * 2_f64.powi(-14),
        0x1f if fraction == 0. => f64::INFINITY,
        0x1f => f64::NAN,
        _ => (1. + fraction) * 2_f64.powi(exponent - 15),
    };
    if bits >> 15 == 1 {
        -magnitude
    } else {
        magnitude
    }
}

/// Columns that hold less are measured against this: with the usual tolerance of 1e-5, numbers
/// that differ by less than 1e-7 are the same.
const LEAST_SCALE: f64 = 1e-2;
/// Between one and the next number of half precision: ten bits stand behind the point.
const HALF_STEP: f64 = 1. / 1024.;
/// The same of a brain float, which has seven.
const BRAIN_STEP: f64 = 1. / 128.;
/// So many digits tell most numbers apart,
const FEWEST_DIGITS: usize = 3;
/// and so many all.
const MOST_DIGITS: usize = 17;
/// As many bytes of a text are shown.
const SHOWN: usize = 32;

#[cfg(test)]
mod tests {
    use outrigger_filters::inference::{Form, Parameters, Payload, Shape};

    use super::*;
    use crate::codec::json::{Strings, parse};

    /// An output of one row, from JSON.
    fn output(datatype: Datatype, json: &str) -> Tensor {
        let parsed = parse(json.as_bytes(), datatype, Strings::Plain).unwrap();
        Tensor {
            name: "y".into(),
            datatype,
            shape: Shape::new([1, i64::try_from(parsed.elements).unwrap()]),
            parameters: Parameters::default(),
            data: Bytes::from(parsed.data).into(),
            form: Form::Raw,
            unknown: Payload::new(),
        }
    }

    fn of(datatype: Datatype, before: &str, after: &str) -> Compared {
        let (before, after) = ([output(datatype, before)], [output(datatype, after)]);
        compare(&before, &after, &Scales::of([&before[..]]), 1e-5)
    }

    fn gap(compared: Compared) -> Gap {
        match compared {
            Compared::Apart(gap) => gap,
            other => panic!("not apart: {other:?}"),
        }
    }

    #[test]
    fn every_datatype_is_equal_to_itself_and_apart_from_another() {
        for datatype in Datatype::ALL {
            let (one, two, element) = match datatype {
                Datatype::Bool => ("[true,false]", "[true,true]", 1),
                Datatype::Bytes => (r#"["a","bc"]"#, r#"["a","bd"]"#, 1),
                _ => ("[1,2,3]", "[1,4,3]", 1),
            };
            assert_eq!(of(datatype, one, one), Compared::Equal, "{datatype}");
            let gap = gap(of(datatype, one, two));
            assert_eq!(
                (gap.element, gap.within),
                (Some(element), false),
                "{datatype}"
            );
        }
    }

    #[test]
    fn floating_numbers_may_differ_by_a_share_of_what_their_column_holds() {
        let rows = [
            [output(Datatype::Fp32, "[100, 0.5]")],
            [output(Datatype::Fp32, "[0.0001, 0.0001]")],
        ];
        let scales = Scales::of(rows.iter().map(|row| &row[..]));
        let found = [output(Datatype::Fp32, "[0.0009, 0.0001]")];
        let near = gap(compare(&rows[1], &found, &scales, 1e-5));
        assert!(near.within && near.size < 1e-5, "{near:?}");
        let found = [output(Datatype::Fp32, "[0.0001, 0.0009]")];
        let far = gap(compare(&rows[1], &found, &scales, 1e-5));
        assert!(!far.within && far.element == Some(1), "{far:?}");
        assert!(gap(compare(&rows[1], &found, &scales, 1e-2)).within);
    }

    #[test]
    fn numbers_near_zero_have_an_absolute_floor() {
        assert!(gap(of(Datatype::Fp64, "[1e-9]", "[3e-9]")).within);
        assert!(!gap(of(Datatype::Fp64, "[1e-6]", "[3e-6]")).within);
    }

    #[test]
    fn numbers_of_16_bits_may_be_two_steps_apart() {
        assert!(gap(of(Datatype::Fp16, "[1]", "[1.001]")).within);
        assert!(!gap(of(Datatype::Fp16, "[1]", "[1.01]")).within);
        assert!(gap(of(Datatype::Bf16, "[1]", "[1.01]")).within);
        assert!(!gap(of(Datatype::Bf16, "[1]", "[1.1]")).within);
        let [one, two] = ["[1]", "[1.001]"].map(|json| [output(Datatype::Fp16, json)]);
        assert!(!gap(compare(&one, &two, &Scales::of([&one[..]]), 0.)).within);
    }

    #[test]
    fn nan_equals_nan_and_nothing_else() {
        let with = |bits: u32| {
            let mut output = output(Datatype::Fp32, "[0]");
            output.data = Bytes::copy_from_slice(&bits.to_le_bytes()).into();
            [output]
        };
        let (one, other) = (with(0x7fc0_0000), with(0x7fc0_0001));
        let none = Scales::default();
        let same = gap(compare(&one, &other, &none, 1e-5));
        assert!(same.within && same.size == 0., "{same:?}");
        for number in [1_f32, f32::INFINITY] {
            let apart = gap(compare(&one, &with(number.to_bits()), &none, 1e-5));
            assert!(!apart.within && apart.size == f64::INFINITY, "{apart:?}");
        }
        let infinite = with(f32::INFINITY.to_bits());
        assert_eq!(compare(&infinite, &infinite, &none, 1e-5), Compared::Equal);
        let opposite = with(f32::NEG_INFINITY.to_bits());
        assert!(!gap(compare(&infinite, &opposite, &none, 1e-5)).within);
    }

    #[test]
    fn half_precision_is_read_as_it_is() {
        for (bits, number) in [
            (0x3c00, 1.),
            (0xc000, -2.),
            (0x7bff, 65504.),
            (0x0001, 2_f64.powi(-24)),
            (0x7c00, f64::INFINITY),
        ] {
            assert_eq!(half(bits), number);
        }
        assert!(half(0x7e00).is_nan());
    }

    #[test]
    fn other_shapes_datatypes_or_outputs_are_told() {
        let one = output(Datatype::Fp32, "[1,2]");
        let unlike = |other: &[Tensor]| match compare(
            std::slice::from_ref(&one),
            other,
            &Scales::default(),
            1.,
        ) {
            Compared::Unlike(how) => how,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            unlike(&[output(Datatype::Fp32, "[1]")]),
            "output `y` is FP32 [1, 2] against FP32 [1, 1]"
        );
        assert_eq!(
            unlike(&[output(Datatype::Int32, "[1,2]")]),
            "output `y` is FP32 [1, 2] against INT32 [1, 2]"
        );
        let renamed = Tensor {
            name: "z".into(),
            ..one.clone()
        };
        assert_eq!(unlike(&[renamed]), "output `y` against none");
        assert_eq!(unlike(&[]), "1 outputs against 0");
    }

    #[test]
    fn values_are_shown_with_the_digits_that_tell_them_apart() {
        let shown = |before: &str, after: &str| gap(of(Datatype::Fp64, before, after)).shown();
        assert_eq!(shown("[0.41]", "[0.39]"), ("0.41".into(), "0.39".into()));
        assert_eq!(
            shown("[1.00001]", "[1.00002]"),
            ("1.00001".into(), "1.00002".into())
        );
        let texts = gap(of(Datatype::Bytes, r#"["a"]"#, r#"["b"]"#)).shown();
        assert_eq!(texts, ("\"a\"".into(), "\"b\"".into()));
    }
}

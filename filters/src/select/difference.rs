//! How far the answer of a shadow is from the one that was given.

use super::{
    Loss, element,
    label::{self, Key, Prediction, Predictions},
};
use crate::inference::{Datatype, Response, Tensor};

/// How far an answer is from another one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Difference {
    /// The greatest difference of two numbers, infinite where one of them is none; `None` where no
    /// numbers were compared.
    pub max_abs: Option<f64>,
    /// How many rows say the same: the same label, the greatest score for the same class, or numbers
    /// that differ by no more than a thousandth of the larger one.
    pub agree: usize,
    /// How many rows there are.
    pub rows: usize,
    /// How many outputs could not be compared: the other answer has none of the name, or one of
    /// another size, or the contents of one cannot be read.
    pub unlike: usize,
}

/// Compares the answer of a shadow with the one that was given; `output` names what is judged. Rows
/// of answers without labels, and of such as have other rows, do not agree.
pub fn of(answer: &Response, shadow: &Response, output: Option<&str>) -> Difference {
    let mut difference = Difference::default();
    for tensor in &answer.outputs {
        if tensor.datatype == Datatype::Bytes {
            continue;
        }
        let other = shadow
            .outputs
            .iter()
            .find(|other| other.name == tensor.name);
        match other.and_then(|other| greatest(tensor, other)) {
            Some(greatest) => {
                let known = difference.max_abs.unwrap_or(0.);
                difference.max_abs = Some(known.max(greatest));
            }
            None => difference.unlike += 1,
        }
    }
    let label = |response| label::of(response, output, Loss::ZeroOne);
    let (said, others) = (label(answer), label(shadow));
    let rows = said.as_ref().map_or(0, Predictions::len);
    difference.rows = match rows {
        0 => label::find(answer, output).map_or(0, |tensor| tensor.shape.rows().unwrap_or(0)),
        rows => rows,
    };
    if let (Ok(said), Ok(others)) = (said, others)
        && said.len() == others.len()
    {
        let pairs = said.iter().zip(&others);
        difference.agree = pairs.filter(|(one, other)| is_same(one, other)).count();
    }
    difference
}

fn greatest(one: &Tensor, other: &Tensor) -> Option<f64> {
    if other.datatype == Datatype::Bytes {
        return None;
    }
    let (one, other) = (element::numbers(one)?, element::numbers(other)?);
    let pairs = one.iter().zip(&other);
    let apart = pairs.map(|(one, other)| match (one - other).abs() {
        _ if one == other || one.is_nan() && other.is_nan() => 0.,
        apart if apart.is_nan() => f64::INFINITY,
        apart => apart,
    });
    (one.len() == other.len()).then(|| apart.fold(0., f64::max))
}

fn is_same(one: &Prediction, other: &Prediction) -> bool {
    match (one, other) {
        (Prediction::Number(one), Prediction::Number(other)) => {
            let most = one.abs().max(other.abs());
            one == other || (one - other).abs() <= NEAR * most
        }
        (one, other) => one.key().is_some_and(|key: Key| other.key() == Some(key)),
    }
}

/// Numbers that differ by less are the same: half precision keeps about as much.
const NEAR: f64 = 1e-3;

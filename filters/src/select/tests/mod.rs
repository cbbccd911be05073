//! What is looked at in answers: labels, losses, ensembles, defaults, differences.

mod defaults;
mod difference;
mod element;
mod ensemble;
mod label;
mod loss;
mod properties;
mod service;

use std::sync::Arc;

use bytes::Bytes;

use super::{Prediction, Predictions};
use crate::inference::{Datatype, Form, Response, ResponseParts, Shape, Tensor};

/// An output of raw contents.
fn raw(name: &str, datatype: Datatype, shape: &[i64], data: impl Into<Vec<u8>>) -> Tensor {
    Tensor {
        name: name.into(),
        datatype,
        shape: Shape::new(shape.iter().copied()),
        parameters: Default::default(),
        data: Bytes::from(data.into()).into(),
        form: Form::Raw,
        unknown: Default::default(),
    }
}

/// An output that is JSON text.
fn text(name: &str, datatype: Datatype, shape: &[i64], form: Form, data: &str) -> Tensor {
    Tensor {
        form,
        ..raw(name, datatype, shape, data)
    }
}

fn floats(name: &str, shape: &[i64], numbers: &[f32]) -> Tensor {
    let data: Vec<u8> = numbers
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    raw(name, Datatype::Fp32, shape, data)
}

fn integers(name: &str, shape: &[i64], numbers: &[i64]) -> Tensor {
    let data: Vec<u8> = numbers
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    raw(name, Datatype::Int64, shape, data)
}

fn strings(name: &str, shape: &[i64], strings: &[&str]) -> Tensor {
    let mut data = Vec::new();
    for string in strings {
        data.extend_from_slice(&(string.len() as u32).to_le_bytes());
        data.extend_from_slice(string.as_bytes());
    }
    raw(name, Datatype::Bytes, shape, data)
}

/// An answer as a codec has read it.
fn answer(outputs: Vec<Tensor>) -> Response {
    let parts = ResponseParts {
        model: "m".into(),
        outputs,
        ..ResponseParts::default()
    };
    Response::from_wire(parts, Arc::new(()))
}

fn numbers_of(response: &Response, output: usize) -> Vec<f64> {
    super::element::numbers(&response.outputs[output])
        .unwrap()
        .to_vec()
}

/// The predictions of all rows, as they stand in an id.
fn packed(predictions: &[Prediction]) -> Vec<u8> {
    let mut packed = Vec::new();
    (predictions.iter()).for_each(|prediction| prediction.pack(&mut packed));
    packed
}

fn unpacked(mut packed: &[u8]) -> Option<Predictions> {
    let mut predictions = Predictions::new();
    while !packed.is_empty() {
        predictions.push(Prediction::unpack(&mut packed)?);
    }
    Some(predictions)
}

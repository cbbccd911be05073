//! What may share a call.
//!
//! Nothing is built for a key: a request is compared, field by field, with the one that stands
//! first in a queue. The digest only finds the queue; what is merged has been compared in full,
//! so no input, however made, is merged with a stranger.
//!
//! The digest and the comparison agree in the one direction that matters: requests that are the
//! same have the same digest.

use std::hash::{BuildHasher, Hasher};

use crate::inference::{
    BINARY_DATA_SIZE, Parameter, Parameters, Payload, Request, RequestedOutput, Tensor,
};

/// The parameter that tells Triton how long a request may wait in its queue, in microseconds.
/// Requests that differ only in it share a call, which carries what is left of the shortest.
pub(super) const TIMEOUT: &str = "timeout";

/// Returns the digest by which the queue of a request is found.
pub fn digest(state: &impl BuildHasher, request: &Request) -> u64 {
    let mut hasher = state.build_hasher();
    text(&mut hasher, request.head.model.as_bytes());
    text(&mut hasher, request.head.version.as_bytes());
    text(&mut hasher, request.head.label.as_bytes());
    text(&mut hasher, request.head.signature.as_bytes());
    hasher.write_u8(request.head.method as u8);
    hasher.write_u64(request.head.priority);
    for (name, value) in request.head.metadata.iter() {
        text(&mut hasher, name.as_bytes());
        text(&mut hasher, value);
    }
    hasher.write_u64(set(state, &request.parameters, TIMEOUT));
    for input in &request.inputs {
        text(&mut hasher, input.name.as_bytes());
        hasher.write_u8(input.datatype as u8);
        hasher.write_u8(input.form as u8);
        let row = input.shape.dimensions().get(1..).unwrap_or_default();
        hasher.write_usize(row.len());
        for dimension in row {
            hasher.write_i64(*dimension);
        }
        if !input.parameters.is_empty() {
            hasher.write_u64(set(state, &input.parameters, BINARY_DATA_SIZE));
        }
    }
    for output in &request.outputs {
        text(&mut hasher, output.name.as_bytes());
        if !output.parameters.is_empty() {
            hasher.write_u64(set(state, &output.parameters, BINARY_DATA_SIZE));
        }
    }
    hasher.finish()
}

/// Tells whether two requests may share a call: they differ in their rows and in what is one
/// caller's own, and in nothing else.
///
/// Of the head, the id and the deadline are the caller's own. So is the context: it is for the
/// selection above, which has chosen already. The order of inputs and outputs counts, although
/// servers do not mind it: the merged message has but one.
pub fn same(a: &Request, b: &Request) -> bool {
    a.head.model == b.head.model
        && a.head.version == b.head.version
        && a.head.label == b.head.label
        && a.head.signature == b.head.signature
        && a.head.method == b.head.method
        && a.head.priority == b.head.priority
        && all(&a.inputs, &b.inputs, same_input)
        && all(&a.outputs, &b.outputs, same_output)
        && a.head.metadata == b.head.metadata
        && same_timeout(&a.parameters, &b.parameters)
        && same_set(
            &a.parameters,
            &b.parameters,
            timeout(&a.parameters).map(|_| TIMEOUT),
        )
        && known(&a.unknown, &b.unknown)
}

/// Returns the timeout among the parameters, where it is a positive number; anything else under
/// its name is compared like any other parameter.
pub(super) fn timeout(parameters: &Parameters) -> Option<u64> {
    match parameters.get(TIMEOUT)? {
        Parameter::Int64(timeout) => u64::try_from(*timeout).ok(),
        Parameter::Uint64(timeout) => Some(*timeout),
        _ => None,
    }
    .filter(|timeout| *timeout > 0)
}

/// A request with a timeout and one without do not share a call: the one would be dropped for
/// the other's sake. Nor do two whose timeouts are of different types.
fn same_timeout(a: &Parameters, b: &Parameters) -> bool {
    match (timeout(a), timeout(b)) {
        (None, None) => true,
        (Some(_), Some(_)) => matches!(
            (a.get(TIMEOUT), b.get(TIMEOUT)),
            (Some(Parameter::Int64(_)), Some(Parameter::Int64(_)))
                | (Some(Parameter::Uint64(_)), Some(Parameter::Uint64(_)))
        ),
        _ => false,
    }
}

fn same_input(a: &Tensor, b: &Tensor) -> bool {
    a.name == b.name
        && a.datatype == b.datatype
        && a.form == b.form
        && a.shape.dimensions().len() == b.shape.dimensions().len()
        && a.shape.dimensions().get(1..) == b.shape.dimensions().get(1..)
        && same_set(&a.parameters, &b.parameters, Some(BINARY_DATA_SIZE))
        && known(&a.unknown, &b.unknown)
}

fn same_output(a: &RequestedOutput, b: &RequestedOutput) -> bool {
    a.name == b.name
        && same_set(&a.parameters, &b.parameters, None)
        && known(&a.unknown, &b.unknown)
}

/// What is not understood is never the same.
fn known(a: &Payload, b: &Payload) -> bool {
    a.is_empty() && b.is_empty()
}

fn all<T>(a: &[T], b: &[T], same: impl Fn(&T, &T) -> bool) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
}

/// Compares parameters as sets: a map of the wire has no order. Names are unique, so that as many
/// on both sides, each of which is found on the other, are the same.
fn same_set(a: &Parameters, b: &Parameters, besides: Option<&str>) -> bool {
    if a.is_empty() && b.is_empty() {
        return true;
    }
    let counted = |parameters: &Parameters| {
        let left_out = besides.is_some_and(|name| parameters.get(name).is_some());
        parameters.len() - usize::from(left_out)
    };
    counted(a) == counted(b)
        && a.iter()
            .filter(|(name, _)| besides.is_none_or(|besides| **name != besides))
            .all(|(name, value)| b.get(name).is_some_and(|other| same_value(value, other)))
}

/// Compares bit by bit: two zeros of different signs are different to a model.
fn same_value(a: &Parameter, b: &Parameter) -> bool {
    match (a, b) {
        (Parameter::Double(a), Parameter::Double(b)) => a.to_bits() == b.to_bits(),
        _ => a == b,
    }
}

/// Returns a digest of parameters that does not depend on their order.
fn set(state: &impl BuildHasher, parameters: &Parameters, besides: &str) -> u64 {
    parameters
        .iter()
        .filter(|(name, _)| **name != besides)
        .fold(0, |sum, (name, value)| {
            let mut hasher = state.build_hasher();
            text(&mut hasher, name.as_bytes());
            let number = match value {
                Parameter::Bool(value) => (1, u64::from(*value)),
                Parameter::Int64(value) => (2, value.cast_unsigned()),
                Parameter::String(value) => {
                    text(&mut hasher, value.as_bytes());
                    (3, 0)
                }
                Parameter::Double(value) => (4, value.to_bits()),
                Parameter::Uint64(value) => (5, *value),
                Parameter::Unset => (6, 0),
            };
            hasher.write_u8(number.0);
            hasher.write_u64(number.1);
            sum.wrapping_add(hasher.finish())
        })
}

fn text(hasher: &mut impl Hasher, text: &[u8]) {
    hasher.write_usize(text.len());
    hasher.write(text);
}

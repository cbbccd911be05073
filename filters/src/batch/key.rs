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
    BINARY_DATA_SIZE, Parameter, Parameters, Payload, QUEUE_TIMEOUT, Request, RequestedOutput,
    Tensor, queue_timeout,
};

/// Requests that differ only in this parameter share a call, which carries what is left of the
/// shortest.
pub(super) const TIMEOUT: &str = QUEUE_TIMEOUT;

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
    hasher.write_u64(request.parameters.digest(state, &[TIMEOUT]));
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
            hasher.write_u64(input.parameters.digest(state, &[BINARY_DATA_SIZE]));
        }
    }
    for output in &request.outputs {
        text(&mut hasher, output.name.as_bytes());
        if !output.parameters.is_empty() {
            hasher.write_u64(output.parameters.digest(state, &[BINARY_DATA_SIZE]));
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
        && match queue_timeout(&a.parameters) {
            Some(_) => a.parameters.same(&b.parameters, &[TIMEOUT]),
            None => a.parameters.same(&b.parameters, &[]),
        }
        && known(&a.unknown, &b.unknown)
}

/// A request with a timeout and one without do not share a call: the one would be dropped for
/// the other's sake. Nor do two whose timeouts are of different types.
fn same_timeout(a: &Parameters, b: &Parameters) -> bool {
    match (queue_timeout(a), queue_timeout(b)) {
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
        && a.parameters.same(&b.parameters, &[BINARY_DATA_SIZE])
        && known(&a.unknown, &b.unknown)
}

fn same_output(a: &RequestedOutput, b: &RequestedOutput) -> bool {
    a.name == b.name && a.parameters.same(&b.parameters, &[]) && known(&a.unknown, &b.unknown)
}

/// What is not understood is never the same.
fn known(a: &Payload, b: &Payload) -> bool {
    a.is_empty() && b.is_empty()
}

fn all<T>(a: &[T], b: &[T], same: impl Fn(&T, &T) -> bool) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
}

fn text(hasher: &mut impl Hasher, text: &[u8]) {
    hasher.write_usize(text.len());
    hasher.write(text);
}

use std::{
    any::Any,
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};

use bytestring::ByteString;
use tokio::time::Instant;

use super::{CacheControl, Metadata, Parameter, Parameters, Payload, Tensor};

/// The parameter that tells Triton how long a request may wait in its queue, in microseconds.
pub(crate) const QUEUE_TIMEOUT: &str = "timeout";

/// The message that a codec read, kept for its own use; filters pass it on unseen.
pub type Wire = Arc<dyn Any + Send + Sync>;

/// Returns a request's timeout in Triton's queue, in microseconds, where it is a positive number: zero
/// stands for the server's own.
pub(crate) fn queue_timeout(parameters: &Parameters) -> Option<u64> {
    match parameters.get(QUEUE_TIMEOUT)? {
        Parameter::Int64(timeout) => u64::try_from(*timeout).ok(),
        Parameter::Uint64(timeout) => Some(*timeout),
        _ => None,
    }
    .filter(|timeout| *timeout > 0)
}

/// One inference: which model is asked, and with what.
///
/// Its fields are read through `Deref`. Whoever borrows them to change them makes the request
/// forget the wire form it came in, so that a stale message can never be sent in place of a
/// changed one. An unchanged request goes out as the very bytes that came in.
#[derive(Clone, Debug)]
pub struct Request {
    parts: RequestParts,
    wire: Option<Wire>,
    origin: Option<Wire>,
    message_len: usize,
}

/// The fields of a [`Request`].
#[derive(Clone, Debug, Default)]
pub struct RequestParts {
    /// Who asks which model, and until when.
    pub head: Head,
    /// The input tensors, in the order of the message.
    pub inputs: Vec<Tensor>,
    /// The outputs asked for; none means all.
    pub outputs: Vec<RequestedOutput>,
    /// Parameters of the whole request.
    pub parameters: Parameters,
    /// Fields of the message that the codec does not know, as they stood on the wire.
    pub unknown: Payload,
}

/// What is known of a request before its tensors are looked at.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// The model's name as the client sent it.
    pub model: ByteString,
    /// The version asked for; empty leaves the choice to the server.
    pub version: ByteString,
    /// The label of the version asked for, where versions have such names; empty for none.
    pub label: ByteString,
    /// Which of the model's signatures is asked; empty for the one it serves by default.
    pub signature: ByteString,
    /// What the model is asked to do with the inputs.
    pub method: Method,
    /// The caller's own name for this request, echoed in the answer.
    pub id: ByteString,
    /// When the answer is worth nothing any more to the caller.
    pub deadline: Option<Instant>,
    /// Whether the answer is still good for something to whoever asks on the caller's behalf, who
    /// tells the caller by the deadline: what was sent until then is waited for.
    pub may_be_late: bool,
    /// The class of the request in the server's queues; 0 is the server's default.
    pub priority: u64,
    /// Whose request this is, where selection learns for each user apart.
    pub context: Option<ByteString>,
    /// The caller's headers that may change the answer.
    pub metadata: Metadata,
    /// What the caller says of stored answers.
    pub cache: CacheControl,
}

/// What a model is asked to do; most protocols know but one thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Method {
    /// To turn input tensors into output tensors.
    #[default]
    Infer,
    /// To name classes with scores for each example.
    Classify,
    /// To give a number for each example.
    Regress,
}

/// An output that the caller asks for by name.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestedOutput {
    /// The name that the model gives it.
    pub name: ByteString,
    /// In what form it is wanted.
    pub parameters: Parameters,
    /// Fields of the message that the codec does not know, as they stood on the wire.
    pub unknown: Payload,
}

impl Request {
    /// Makes a request that a codec has read from `wire`, a message of `len` bytes.
    pub fn from_wire(parts: RequestParts, wire: Wire, len: usize) -> Self {
        Self {
            parts,
            wire: Some(wire),
            origin: None,
            message_len: len,
        }
    }

    /// Adds what the proxy knows of the call that brought this request, besides its message. It
    /// stays when the request is changed; a call that several requests share has none.
    pub fn with_origin(mut self, origin: Wire) -> Self {
        self.origin = Some(origin);
        self
    }

    /// Returns what the proxy knows of the call that brought this request.
    pub fn origin(&self) -> Option<&Wire> {
        self.origin.as_ref()
    }

    /// Puts the inputs into the order of their names, which says nothing to a model: two requests
    /// that differ in it alone may share a call. The request stays the one of its message.
    pub fn sort_inputs(&mut self) {
        let inputs = &mut self.parts.inputs;
        if !inputs.is_sorted_by(|a, b| a.name <= b.name) {
            inputs.sort_by(|a, b| a.name.cmp(&b.name));
        }
    }

    /// Returns the message that this request was read from, if it is still the same request.
    pub fn wire(&self) -> Option<&Wire> {
        self.wire.as_ref()
    }

    /// Forgets the message, so that the request is said anew wherever it goes, from its fields.
    pub fn without_wire(mut self) -> Self {
        self.wire = None;
        self
    }

    /// Replaces the headers that decide who may share a call; the message stays the same.
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        self.parts.head.metadata = metadata;
        self
    }

    /// Tells the server to give the request up if it has waited for so long, as the parameter
    /// `timeout` tells Triton's queues, in microseconds. A sooner one of the caller's own stays.
    #[must_use]
    pub fn with_queue_timeout(mut self, timeout: Duration) -> Self {
        let micros = i64::try_from(timeout.as_micros())
            .unwrap_or(i64::MAX)
            .max(1);
        let own = queue_timeout(&self.parts.parameters);
        if own.is_some_and(|own| own <= micros.unsigned_abs()) {
            return self;
        }
        let value = Parameter::Int64(micros);
        // To change it forgets the message.
        self.parameters.insert(QUEUE_TIMEOUT.into(), value);
        self
    }

    /// Says that the answer is waited for after the deadline; the message stays the same.
    #[must_use]
    pub fn that_may_be_late(mut self) -> Self {
        self.parts.head.may_be_late = true;
        self
    }

    /// Forbids that anything of the request or its answer is stored; the message stays the same.
    pub fn never_stored(mut self) -> Self {
        self.parts.head.cache.no_store = true;
        self
    }

    /// Takes the request apart; its wire form is lost.
    pub fn into_parts(self) -> RequestParts {
        self.parts
    }

    /// Makes a request for some of the rows of this one. Its parts hold the message together, and
    /// each counts its share of it; what the proxy knows of the call is true of all of them.
    pub(super) fn part(&self, parts: RequestParts, rows: usize, whole: usize) -> Self {
        let share = (self.message_len as u128 * rows as u128).div_ceil(whole.max(1) as u128);
        Self {
            origin: self.origin.clone(),
            message_len: usize::try_from(share).unwrap_or(self.message_len),
            ..Self::from(parts)
        }
    }

    /// Returns the bytes that the request keeps from being freed: those of the message that it was
    /// read from, or of the contents where they are more.
    ///
    /// A changed request still holds its message, for its names and contents are slices of it.
    pub fn held_len(&self) -> usize {
        self.payload_len().max(self.message_len)
    }
}

impl RequestParts {
    /// Returns the bytes of all input contents.
    pub fn payload_len(&self) -> usize {
        self.inputs.iter().map(|input| input.data.len()).sum()
    }
}

impl From<RequestParts> for Request {
    fn from(parts: RequestParts) -> Self {
        Self {
            parts,
            wire: None,
            origin: None,
            message_len: 0,
        }
    }
}

impl Deref for Request {
    type Target = RequestParts;

    fn deref(&self) -> &RequestParts {
        &self.parts
    }
}

impl DerefMut for Request {
    fn deref_mut(&mut self) -> &mut RequestParts {
        self.wire = None;
        &mut self.parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_without_its_message_holds_it_and_knows_its_call() {
        let wire: Wire = Arc::new(());
        let request = Request::from_wire(RequestParts::default(), wire.clone(), 9);
        let request = request.with_origin(wire).without_wire();
        assert!(request.wire().is_none() && request.origin().is_some());
        assert_eq!(request.held_len(), 9);
    }
}

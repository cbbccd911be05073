use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};

use bytestring::ByteString;

use super::{CacheReport, Metadata, Parameters, Payload, SelectionReport, Tensor, Wire};

/// A model's answer.
///
/// As with a [`Request`](super::Request), borrowing the fields to change them forgets the wire
/// form; [`Response::report`] stands apart, because what filters say of an answer does not change
/// the answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// What the filters did for this answer.
    pub report: Report,
    /// Headers that the server sent before the answer.
    pub headers: Metadata,
    /// Headers that the server sent after the answer.
    pub trailers: Metadata,
    parts: ResponseParts,
    wire: Option<Wire>,
    opaque: bool,
}

/// The fields of a [`Response`].
#[derive(Clone, Debug, Default)]
pub struct ResponseParts {
    /// The model that answered.
    pub model: ByteString,
    /// The version that answered.
    pub version: ByteString,
    /// The caller's name for its request.
    pub id: ByteString,
    /// Parameters of the whole answer.
    pub parameters: Parameters,
    /// The output tensors, in the order of the message.
    pub outputs: Vec<Tensor>,
    /// Fields of the message that the codec does not know, as they stood on the wire.
    pub unknown: Payload,
}

/// What filters did for one answer: it becomes headers where a filter acted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Rows of the upstream call that this answer came with.
    pub batch_rows: Option<usize>,
    /// Requests of that call.
    pub batch_members: Option<usize>,
    /// The most rows that the call might have had.
    pub batch_limit: Option<usize>,
    /// In a word, why the call had the rows that it had, or why the request went alone.
    pub batch_reason: Option<&'static str>,
    /// How long the request waited to be sent.
    pub queue: Option<Duration>,
    /// How long the upstream call took.
    pub upstream: Option<Duration>,
    /// What the cache did; left out where there is none.
    pub cache: Option<CacheReport>,
    /// Which arm answered; left out where none is selected.
    pub selection: Option<Box<SelectionReport>>,
}

impl Response {
    /// Makes an answer that a codec has read from `wire`.
    pub fn from_wire(parts: ResponseParts, wire: Wire) -> Self {
        Self {
            wire: Some(wire),
            ..Self::from(parts)
        }
    }

    /// Makes an answer that no codec understands: it can only be passed on as it came. It has no
    /// outputs, so it is never divided.
    pub fn opaque(wire: Wire) -> Self {
        Self {
            opaque: true,
            ..Self::from_wire(ResponseParts::default(), wire)
        }
    }

    /// Tells whether no codec understands the answer.
    pub fn is_opaque(&self) -> bool {
        self.opaque
    }

    /// Answers under another model's name, where the answer is understood.
    pub fn with_model(mut self, model: ByteString) -> Self {
        if !self.opaque {
            self.model = model;
        }
        self
    }

    /// Returns the message that this answer was read from, if it is still the same answer.
    pub fn wire(&self) -> Option<&Wire> {
        self.wire.as_ref()
    }

    /// Forgets the message, so that the answer is said anew to whoever gets it, from its fields; one
    /// that no codec understands has nothing else, and keeps it.
    pub fn without_wire(mut self) -> Self {
        if !self.opaque {
            self.wire = None;
        }
        self
    }

    /// Takes the answer's message apart; its wire form is lost.
    pub fn into_parts(self) -> ResponseParts {
        self.parts
    }
}

impl From<ResponseParts> for Response {
    fn from(parts: ResponseParts) -> Self {
        Self {
            report: Report::default(),
            headers: Metadata::default(),
            trailers: Metadata::default(),
            parts,
            wire: None,
            opaque: false,
        }
    }
}

impl Deref for Response {
    type Target = ResponseParts;

    fn deref(&self) -> &ResponseParts {
        &self.parts
    }
}

impl DerefMut for Response {
    fn deref_mut(&mut self) -> &mut ResponseParts {
        self.wire = None;
        &mut self.parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_that_is_understood_forgets_its_message() {
        let wire: Wire = std::sync::Arc::new(());
        let known = Response::from_wire(ResponseParts::default(), wire.clone());
        assert!(known.without_wire().wire().is_none());
        assert!(Response::opaque(wire).without_wire().wire().is_some());
    }
}

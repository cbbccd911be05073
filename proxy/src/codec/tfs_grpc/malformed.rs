use crate::codec::Wire;

/// Why a message is not interpreted, or cannot be written, and where in it the reason stands.
///
/// The server may well understand it: where it speaks the same protocol, the proxy sends the very
/// bytes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The path of a field, as `inputs[x].tensor_shape`; empty for the message itself.
    field: String,
    fault: Fault,
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The bytes are not protobuf.
    #[error("is not protobuf")]
    Wire(#[from] Wire),
    /// A known field has another wire type than it should.
    #[error("has another wire type than the protocol gives it")]
    Type,
    /// A text is not UTF-8.
    #[error("is not UTF-8")]
    Text,
    /// A field within it is not known, and there is no place where it could be kept.
    #[error("has a field that is not known")]
    Unknown,
    /// The message has more tensors, dimensions or the like than are read.
    #[error("has more parts than are read")]
    TooMany,
    /// The contents would take much more memory than a message may.
    #[error("would be longer than limits.max_message allows")]
    TooLong,
    /// The datatype is not one that is understood, or not one that can stand here.
    #[error("is not a datatype that is understood here")]
    Datatype,
    /// The contents stand in more than one field, or in one that is not the datatype's.
    #[error("has contents where its datatype has none")]
    Misplaced,
    /// What there can be but one of stands there again.
    #[error("is there more than once")]
    Repeated,
    /// The shape does not say every dimension, or gives one a name.
    #[error("is not a shape of plain dimensions")]
    Shape,
    /// The contents are not as long as the shape says.
    #[error("does not have as many elements as its shape says")]
    Length,
    /// An element is out of its datatype's range.
    #[error("has an element that is out of its datatype's range")]
    Range,
    /// A version is not a number, and this protocol knows no others.
    #[error("is not a number")]
    Number,
    /// The contents are elsewhere, or still text.
    #[error("has its contents in a form that cannot be written")]
    Form,
    /// It is not the one list of examples, or of results, that there should be.
    #[error("is not one list of serialized messages")]
    List,
}

impl Malformed {
    pub(super) fn new(field: impl Into<String>, fault: impl Into<Fault>) -> Self {
        Self {
            field: field.into(),
            fault: fault.into(),
        }
    }

    /// Makes what says where a fault is.
    pub(super) fn at<F: Into<Fault>>(field: &'static str) -> impl Fn(F) -> Self {
        move |fault| Self::new(field, fault)
    }

    /// Says in what larger thing the field stands.
    pub(super) fn within(self, outer: impl std::fmt::Display) -> Self {
        let dot = if self.field.is_empty() || self.field.starts_with('[') {
            ""
        } else {
            "."
        };
        let field = format!("{outer}{dot}{}", self.field);
        Self { field, ..self }
    }

    /// Returns the path of the field, as `inputs[x].dtype`; empty for the message itself.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// Returns what is wrong with it.
    pub fn fault(&self) -> Fault {
        self.fault
    }
}

impl From<Fault> for Malformed {
    fn from(fault: Fault) -> Self {
        Self::new("", fault)
    }
}

impl From<Wire> for Malformed {
    fn from(wire: Wire) -> Self {
        Self::new("", wire)
    }
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let field = match &*self.field {
            "" => "the message",
            field => field,
        };
        write!(f, "{field} {}", self.fault)
    }
}

impl std::error::Error for Malformed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.fault)
    }
}

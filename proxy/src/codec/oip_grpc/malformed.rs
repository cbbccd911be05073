use std::fmt;

use crate::codec::Wire;

/// Why a message is not interpreted, or cannot be written, and where.
///
/// A server that speaks this protocol may well understand it: the proxy then sends the very bytes
/// on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    place: Place,
    cause: Cause,
}

/// What is the matter with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The bytes are not protobuf.
    Wire(Wire),
    /// A known field has another wire type than it should.
    Type(u32),
    /// A text is not UTF-8.
    Text,
    /// A field is not known, and there is no place where it could be kept.
    Unknown(u32),
    /// The message has more tensors, parameters or runs of unknown fields than are read.
    TooMany,
    /// A shape has more dimensions than are read.
    Rank,
    /// A shape has a negative dimension, or more elements than can be counted.
    Shape,
    /// The typed contents would take much more memory than the message.
    TooLong,
    /// A tensor's datatype is not one of the protocol's.
    Datatype,
    /// A tensor has contents in a list that is not its datatype's, or both typed and raw ones.
    Misplaced,
    /// A tensor has more than one set of typed contents.
    Repeated,
    /// The raw contents are more or fewer than the tensors.
    RawCount,
    /// A tensor's contents are not as long as its shape says.
    Length,
    /// A typed element is out of its datatype's range.
    Range,
    /// A tensor that is to be written is still JSON text.
    Form,
}

/// The part of a message that a [`Cause`] is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Message,
    Input(usize),
    Output(usize),
}

impl Malformed {
    /// Returns what is the matter.
    pub fn cause(&self) -> Cause {
        self.cause
    }
}

impl Cause {
    #[cold]
    pub(super) fn at(self, place: Place) -> Malformed {
        Malformed { place, cause: self }
    }
}

impl From<Cause> for Malformed {
    fn from(cause: Cause) -> Self {
        cause.at(Place::Message)
    }
}

impl From<Wire> for Malformed {
    fn from(cause: Wire) -> Self {
        Cause::Wire(cause).into()
    }
}

impl From<Wire> for Cause {
    fn from(cause: Wire) -> Self {
        Self::Wire(cause)
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.place, self.cause)
    }
}

/// The words follow the place.
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wire(_) => f.write_str(" is not protobuf"),
            Self::Type(number) => {
                write!(f, " has field {number} in another type than the protocol's")
            }
            Self::Text => f.write_str(" has a text that is not UTF-8"),
            Self::Unknown(number) => {
                write!(f, " has field {number} in a part that knows no such field")
            }
            Self::TooMany => f.write_str(" has more parts than are read"),
            Self::Rank => f.write_str(".shape has more dimensions than are read"),
            Self::Shape => f.write_str(".shape is negative or has more elements than are counted"),
            Self::TooLong => f.write_str(".contents would take much more memory than the message"),
            Self::Datatype => f.write_str(".datatype is not known"),
            Self::Misplaced => f.write_str(".contents has elements where its datatype has none"),
            Self::Repeated => f.write_str(".contents is there twice"),
            Self::RawCount => f.write_str(" has more or fewer raw contents than tensors"),
            Self::Length => f.write_str(" has contents that are not as long as its shape says"),
            Self::Range => f.write_str(".contents has an element out of its datatype's range"),
            Self::Form => f.write_str(" is still text, which has no place in a message"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message => f.write_str("the message"),
            Self::Input(index) => write!(f, "inputs[{index}]"),
            Self::Output(index) => write!(f, "outputs[{index}]"),
        }
    }
}

impl std::error::Error for Malformed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Cause::Wire(cause) => Some(cause),
            _ => None,
        }
    }
}

use crate::codec::Wire;

/// Why a message is not interpreted.
///
/// The server may well understand it: the proxy then sends the very bytes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The bytes are not protobuf.
    #[error("the message is not protobuf")]
    Wire(#[from] Wire),
    /// A known field has another wire type than it should.
    #[error("field {0} has another type than the protocol gives it")]
    Type(u32),
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    Text,
    /// A field is not known, and there is no place where it could be kept.
    #[error("field {0} is not known where it stands")]
    Unknown(u32),
    /// The message has more tensors, parameters or dimensions than are read.
    #[error("the message has more parts than are read")]
    TooMany,
    /// The typed contents would take much more memory than the message.
    #[error("the typed contents would take much more memory than the message")]
    TooLong,
    /// A tensor's datatype is not one of the protocol's.
    #[error("a tensor's datatype is not known")]
    Datatype,
    /// A tensor has contents in a list that is not its datatype's, or both typed and raw ones.
    #[error("a tensor has contents where its datatype has none")]
    Misplaced,
    /// A tensor has more than one set of typed contents.
    #[error("a tensor has its contents twice")]
    Repeated,
    /// The raw contents are more or fewer than the tensors.
    #[error("the raw contents are not as many as the tensors")]
    RawCount,
    /// A tensor's contents are not as long as its shape says.
    #[error("a tensor's contents are not as long as its shape says")]
    Length,
    /// A tensor that is to be written is still JSON text.
    #[error("a tensor is still text, which has no place in a message")]
    Form,
    /// A typed element is out of its datatype's range.
    #[error("an element is out of its datatype's range")]
    Range,
}

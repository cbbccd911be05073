use bytestring::ByteString;

use super::{Datatype, Parameters, Payload, Shape};

/// An input or an output: a name, a type, a shape and row-major contents.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// The name that the model gives it.
    pub name: ByteString,
    /// The type of an element.
    pub datatype: Datatype,
    /// The dimensions, rows first.
    pub shape: Shape,
    /// What the protocol says of this tensor besides.
    pub parameters: Parameters,
    /// Row-major elements, little endian, without padding; each element of `BYTES` behind its
    /// length as four bytes, little endian. The length agrees with the shape unless the contents
    /// are elsewhere (shared memory) or still [text](Form::is_text).
    pub data: Payload,
    /// How the contents stood on the wire.
    pub form: Form,
    /// Fields of the message that the codec does not know, as they stood on the wire.
    pub unknown: Payload,
}

/// How a tensor's contents stand on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Form {
    /// As bytes beside the tensor's description.
    #[default]
    Raw,
    /// As a list of typed elements within it.
    Typed,
    /// Not in the message: the contents lie in memory that both sides share.
    Absent,
    /// As the JSON texts of the elements in row-major order, with commas between them and nothing
    /// around: `1.5,2,-3e4`. Whoever made the tensor has checked that they are as many as the shape
    /// says.
    Flat,
    /// As the JSON texts of the rows, with commas between them and nothing around, each row nested
    /// as the shape says: `[1.5,2],[-3e4,0]`. Whoever made the tensor has checked that.
    Rows,
}

impl Form {
    /// Tells whether the contents are still JSON text, which is passed on without being read.
    pub const fn is_text(self) -> bool {
        matches!(self, Self::Flat | Self::Rows)
    }
}

use bytestring::ByteString;

use super::{Datatype, Shape};

/// What a model takes and gives, as its server describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signature {
    /// The inputs.
    pub inputs: Vec<TensorSpec>,
    /// The outputs.
    pub outputs: Vec<TensorSpec>,
}

/// One tensor of a [`Signature`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// The name that the model gives it.
    pub name: ByteString,
    /// The type of an element.
    pub datatype: Datatype,
    /// The dimensions with the rows first, -1 for those that are open; `None` where not even
    /// their number is known.
    pub shape: Option<Shape>,
}

impl Signature {
    /// Returns the input of a name.
    pub fn input(&self, name: &str) -> Option<&TensorSpec> {
        self.inputs.iter().find(|spec| *spec.name == *name)
    }

    /// Returns the output of a name.
    pub fn output(&self, name: &str) -> Option<&TensorSpec> {
        self.outputs.iter().find(|spec| *spec.name == *name)
    }
}

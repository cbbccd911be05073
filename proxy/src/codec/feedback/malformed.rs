use std::fmt;

use crate::codec::{Wire, json, oip_grpc, oip_rest};

/// Why a report is refused as a whole: which field, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Which item of a list.
    index: Option<usize>,
    field: String,
    fault: Fault,
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is not JSON.
    #[error("{0}")]
    Json(json::Malformed),
    /// It is not protobuf.
    #[error("{0}")]
    Wire(Wire),
    /// It is not a list of tensors.
    #[error("{0}")]
    Tensors(oip_rest::Malformed),
    /// It is not a `ModelInferRequest`.
    #[error("{0}")]
    Request(oip_grpc::Malformed),
    /// Nothing of that name, or number, belongs there.
    #[error("it is not known")]
    Unknown,
    /// It is there twice.
    #[error("it is there twice")]
    Repeated,
    /// It is not there.
    #[error("it is missing")]
    Missing,
    /// It is something else.
    #[error("{0} is expected")]
    Expected(&'static str),
    /// It is there together with what it does not go with.
    #[error("it does not go together with {0}")]
    Beside(&'static str),
    /// It has nothing in it.
    #[error("it says nothing")]
    Empty,
    /// It is longer than is read.
    #[error("it has more than the {0} that are read")]
    TooMany(usize),
}

impl Malformed {
    pub(super) fn new(field: impl Into<String>, fault: impl Into<Fault>) -> Self {
        Self {
            index: None,
            field: field.into(),
            fault: fault.into(),
        }
    }

    /// Says which item of the list the field is of.
    pub(super) fn of_item(self, index: usize) -> Self {
        Self {
            index: Some(index),
            ..self
        }
    }

    /// Returns what is wrong with the field.
    pub fn fault(&self) -> &Fault {
        &self.fault
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            index,
            field,
            fault,
        } = self;
        match (index, field.as_str()) {
            (None, "") => write!(f, "{fault}"),
            (None, field) => write!(f, "{field}: {fault}"),
            (Some(index), "") => write!(f, "feedback[{index}]: {fault}"),
            (Some(index), field) => write!(f, "feedback[{index}].{field}: {fault}"),
        }
    }
}

impl std::error::Error for Malformed {}

impl From<json::Malformed> for Fault {
    fn from(malformed: json::Malformed) -> Self {
        Self::Json(malformed)
    }
}

impl From<Wire> for Fault {
    fn from(wire: Wire) -> Self {
        Self::Wire(wire)
    }
}

impl From<json::Malformed> for Malformed {
    fn from(malformed: json::Malformed) -> Self {
        Self::new("", malformed)
    }
}

impl From<Wire> for Malformed {
    fn from(wire: Wire) -> Self {
        Self::new("", wire)
    }
}

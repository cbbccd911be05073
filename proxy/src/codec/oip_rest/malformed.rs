use crate::codec::json;

/// Why a message is not interpreted, or cannot be written: which field, and what is wrong with it.
///
/// The server may well understand it: a proxy that speaks the same protocol to both sides then
/// sends the very bytes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{fault}", prefix(.field))]
pub struct Malformed {
    field: String,
    #[source]
    fault: Fault,
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is not what JSON says such a thing, or is none of its datatype.
    #[error("{0}")]
    Json(json::Malformed),
    /// The JSON would reach past the end of the message, or there is none.
    #[error("the message does not begin with as much JSON as its header says")]
    NoJson,
    /// It is not there.
    #[error("it is missing")]
    Missing,
    /// It is there twice; servers differ on which one counts.
    #[error("it is there twice")]
    Repeated,
    /// It is not the name of a datatype.
    #[error("it is not the name of a datatype")]
    Datatype,
    /// It is not a list of dimensions, none of them negative.
    #[error("it is not a list of dimensions that a tensor can have")]
    Shape,
    /// It is not a text, a number or a truth value, or not the one that its name asks for.
    #[error("it is not a value that such a parameter can have")]
    Parameter,
    /// The contents are given in more than one way, or in none.
    #[error("it has its contents in more than one way, or in none")]
    Contents,
    /// The contents are not as long as the shape says.
    #[error("its contents are not as long as its shape says")]
    Length,
    /// Bytes are left behind the last binary tensor.
    #[error("bytes follow the last binary tensor")]
    Trailing,
    /// There are more parts than are read.
    #[error("the message has more parts than are read")]
    TooMany,
}

impl Malformed {
    pub(super) fn new(field: impl Into<String>, fault: impl Into<Fault>) -> Self {
        Self {
            field: field.into(),
            fault: fault.into(),
        }
    }

    /// Says in which list, and where in it, the field stands.
    pub(super) fn within(mut self, list: &str, index: usize) -> Self {
        let dot = if self.field.is_empty() { "" } else { "." };
        self.field = format!("{list}[{index}]{dot}{}", self.field);
        self
    }

    /// Returns the path of the field, for instance `inputs[0].shape`; empty for the message itself.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// Returns what is wrong with the field.
    pub fn fault(&self) -> Fault {
        self.fault
    }
}

impl From<json::Malformed> for Fault {
    fn from(malformed: json::Malformed) -> Self {
        match malformed {
            json::Malformed::Count => Self::Length,
            other => Self::Json(other),
        }
    }
}

impl From<json::Malformed> for Malformed {
    fn from(malformed: json::Malformed) -> Self {
        Self::new("", malformed)
    }
}

fn prefix(field: &str) -> String {
    if field.is_empty() {
        String::new()
    } else {
        format!("{field}: ")
    }
}

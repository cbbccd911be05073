use std::fmt::Display;

use bytes::Bytes;
use outrigger_filters::inference::Datatype;

use crate::codec::{json, tfs_grpc::datatype};

/// Why a message is not interpreted, or cannot be written, in the words of TensorFlow Serving where
/// it has any.
///
/// The server may well understand it: where it speaks the same protocol, the proxy sends the very
/// bytes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Malformed {
    field: String,
    message: String,
}

impl Malformed {
    pub(super) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }

    /// Returns the path of the field that is not understood, as `instances[3]`; empty for the
    /// message itself.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// Says of a field what its reader or writer said, where the server has no words of its own.
    pub(super) fn of(field: &str, fault: json::Malformed) -> Self {
        match fault {
            json::Malformed::Syntax { .. } | json::Malformed::Text { .. } => fault.into(),
            fault => Self::new(field, format!("{field}: {fault}")),
        }
    }

    /// Says that a value is not formatted as it should be.
    pub(super) fn format(field: &str, value: &[u8], should: impl Display) -> Self {
        Self::new(field, format!("JSON Value: {} {should}", debug_text(value)))
    }
}

impl From<json::Malformed> for Malformed {
    fn from(fault: json::Malformed) -> Self {
        let (what, at) = match fault {
            json::Malformed::Syntax { at, expected } => (
                match expected {
                    "a colon" => "Missing a colon after a name of object member.",
                    "a comma or a closing brace" => "Missing a comma or } after an object member.",
                    "a comma or a closing bracket" => {
                        "Missing a comma or ] after an array element."
                    }
                    "a string" => "Missing a name for object member.",
                    "a quote" => "Missing a closing quotation mark in string.",
                    "an escape" => "Invalid escape character in string.",
                    "four hexadecimal digits" => "Incorrect hex digit after \\u escape in string.",
                    "the end" => "The document root must not be followed by other values.",
                    _ => "Invalid value.",
                },
                at,
            ),
            json::Malformed::Text { at } => ("Invalid encoding in string.", at),
            fault => return Self::new("", fault.to_string()),
        };
        Self::new("", format!("JSON Parse error: {what} at offset: {at}"))
    }
}

/// Returns the beginning of a value's text, as far as an error shows it.
pub(super) fn debug_text(value: &[u8]) -> String {
    let shown = value.trim_ascii();
    let shown = shown.get(..MAX_SHOWN).unwrap_or(shown);
    String::from_utf8_lossy(shown).into_owned()
}

/// Returns what the server calls a datatype in its errors, for instance `float`.
pub(super) fn datatype_text(datatype: Datatype) -> String {
    let name = datatype::name(datatype);
    name.trim_start_matches("DT_").to_ascii_lowercase()
}

/// Returns what the server calls the kind of a value in its errors.
pub(super) fn kind_text(value: &Bytes) -> &'static str {
    match value.trim_ascii_start().first() {
        Some(b'n') => "Null",
        Some(b'f') => "False",
        Some(b't') => "True",
        Some(b'{') => "Object",
        Some(b'[') => "Array",
        Some(b'"') => "String",
        _ => "Number",
    }
}

/// As much of a value as the server shows.
const MAX_SHOWN: usize = 256;

//! Protobuf's wire format, read in place and written by hand.
//!
//! A reader yields positions within the message, so that whoever wants a field's bytes slices
//! them out of the message and copies nothing.

mod fields;
mod put;
mod source;
mod wire;

pub use self::wire::Wire;
pub(super) use self::{
    fields::{Fields, Key, Value},
    put::{Kind, Put, key_len, nested_len, text_len, varint_len},
    source::{Source, Unknown},
};

//! JSON, read in place: values that are passed on are sliced, numbers go straight into a tensor.
//!
//! No tree is built. A [`Reader`] is pulled through a message; what stands in a tensor is either
//! only [scanned](scan) and kept as text, or [parsed](parse) into canonical bytes, in one pass.

mod block;
mod convert;
mod cursor;
mod decimal;
mod grammar;
mod malformed;
mod number;
mod parse;
mod reader;
mod scan;
mod string;
#[cfg(test)]
mod tests;
mod walk;
mod write;

pub(crate) use self::convert::translate;
pub use self::{
    convert::{convert, flat, rows, within},
    malformed::Malformed,
    parse::{Parsed, parse},
    reader::{Kind, Reader},
    scan::{Leaf, Scan, agree, scan},
    string::{Strings, put_string},
    write::{put_b64, write_flat, write_rows},
};

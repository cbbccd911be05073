use std::ops::Range;

use crate::codec::protobuf::{Fields, Value};

/// What the beginning of a message says of the model that is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peek {
    /// The name stands at this range of the message, and is UTF-8.
    Found(Range<usize>),
    /// The name has not come yet.
    Incomplete,
    /// The message has no name in it.
    Absent,
    /// The message cannot be read up to a name.
    Malformed,
}

/// Looks for the model's name in the beginning of a `ModelInferRequest` that is `len` bytes long.
///
/// The first name found counts. A later one would win over it in a whole message, which only
/// [`decode_request`](super::decode_request) sees; clients write none. Each look starts at the
/// beginning, so look again only when much more has come.
pub fn model_name(prefix: &[u8], len: usize) -> Peek {
    let prefix = prefix.get(..len).unwrap_or(prefix);
    let complete = prefix.len() == len;
    let mut fields = Fields::new(prefix, 0..prefix.len());
    loop {
        return match fields.next() {
            Ok(Some(field)) if field.number != 1 => continue,
            Ok(Some(field)) => match field.value {
                Value::Bytes(name) if is_text(prefix, &name) => Peek::Found(name),
                _ => Peek::Malformed,
            },
            Ok(None) if complete => Peek::Absent,
            Ok(None) => Peek::Incomplete,
            Err(crate::codec::Wire::Truncated) if !complete => Peek::Incomplete,
            Err(_) => Peek::Malformed,
        };
    }
}

fn is_text(prefix: &[u8], name: &Range<usize>) -> bool {
    prefix
        .get(name.clone())
        .is_some_and(|name| std::str::from_utf8(name).is_ok())
}

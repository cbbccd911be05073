use crate::codec::{
    Wire,
    oip_grpc::Peek,
    protobuf::{Fields, Value},
};

/// Looks for the model's name in the beginning of a request that is `len` bytes long: of `Predict`,
/// `Classify`, `Regress`, or of a question about a model, which all begin with a `ModelSpec`.
///
/// The first name found counts. A later one would win over it in a whole message, which only
/// [`decode_request`](super::decode_request) sees; clients write none. Each look starts at the
/// beginning, so look again only when much more has come.
pub fn model_name(prefix: &[u8], len: usize) -> Peek {
    let prefix = prefix.get(..len).unwrap_or(prefix);
    let complete = prefix.len() == len;
    let mut fields = Fields::new(prefix, 0..prefix.len());
    loop {
        let spec = match fields.next() {
            Ok(Some(field)) if field.number != SPEC => continue,
            Ok(Some(field)) => match field.value {
                Value::Bytes(spec) => spec,
                _ => return Peek::Malformed,
            },
            Ok(None) if complete => return Peek::Absent,
            Ok(None) => return Peek::Incomplete,
            Err(Wire::Truncated) if !complete => return Peek::Incomplete,
            Err(_) => return Peek::Malformed,
        };
        let mut fields = Fields::new(prefix, spec);
        loop {
            match fields.next() {
                Ok(Some(field)) if field.number != NAME => {}
                Ok(Some(field)) => {
                    return match field.value {
                        Value::Bytes(name)
                            if prefix
                                .get(name.clone())
                                .is_some_and(|name| std::str::from_utf8(name).is_ok()) =>
                        {
                            Peek::Found(name)
                        }
                        _ => Peek::Malformed,
                    };
                }
                // Without a name; a second part of the same field may have one.
                Ok(None) => break,
                Err(_) => return Peek::Malformed,
            }
        }
    }
}

/// The field of a request in which its `ModelSpec` stands.
const SPEC: u32 = 1;
/// The field of a `ModelSpec` in which the model's name stands.
const NAME: u32 = 1;

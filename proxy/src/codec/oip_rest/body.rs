use bytes::Bytes;
use outrigger_filters::inference::Payload;

use super::{Fault, Malformed};

/// A message as HTTP carries it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// The JSON, and the binary tensors behind it.
    pub payload: Payload,
    /// The bytes of the JSON where binary tensors follow: `Inference-Header-Content-Length`, with
    /// the content type `application/octet-stream`. Without it the body is `application/json`.
    pub json_len: Option<usize>,
}

/// The binary tensors of a message, in their order.
#[derive(Debug)]
pub(super) struct Binary {
    rest: Bytes,
}

impl Binary {
    /// Takes the contents of the next tensor.
    pub(super) fn take(&mut self, len: usize) -> Option<Bytes> {
        (len <= self.rest.len()).then(|| self.rest.split_to(len))
    }

    /// Checks that all have been taken.
    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Malformed::new("", Fault::Trailing))
        }
    }
}

/// Cuts a body into its JSON and what is behind it.
pub(super) fn cut(body: &Bytes, json_len: Option<usize>) -> Result<(Bytes, Binary), Malformed> {
    let len = json_len.unwrap_or(body.len());
    if len == 0 || len > body.len() {
        return Err(Malformed::new("", Fault::NoJson));
    }
    let mut rest = body.clone();
    let json = rest.split_to(len);
    Ok((json, Binary { rest }))
}

//! Calls and answers as they came: what stands behind an inference, and filters never see.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use outrigger_filters::inference::RequestParts;

use crate::{detect::Inference, upstream::Description};

/// A call: the message that a request was read from, and what is known of it besides.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// What is asked of whom, in which protocol.
    pub(crate) inference: Inference,
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// The message, decompressed; of gRPC without the five bytes before it.
    pub(crate) body: Bytes,
    /// How many of the bytes are JSON, where the rest is tensors.
    pub(crate) json_len: Option<usize>,
    /// What the server says of the model, where the message was read by it.
    pub(crate) description: Option<Arc<Description>>,
    /// The bytes of the longest message that is read as a whole.
    pub(crate) max_message: usize,
    /// What is asked, where it came in no message of its own.
    pub(crate) said: Option<Arc<RequestParts>>,
}

/// The answer that a response was read from.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// The message, decompressed; of gRPC without the five bytes before it.
    pub(crate) body: Bytes,
    /// The trailers.
    pub(crate) trailers: HeaderMap,
}

/// The header that says how many bytes of a body are JSON, where the rest is tensors.
pub(crate) const JSON_LEN: http::HeaderName =
    http::HeaderName::from_static("inference-header-content-length");

/// Reads the header that says how many bytes of a body are JSON.
///
/// # Errors
///
/// Fails where it is no number.
pub(crate) fn json_len(headers: &HeaderMap) -> Result<Option<usize>, NoLength> {
    let Some(value) = headers.get(JSON_LEN) else {
        return Ok(None);
    };
    let text = value.to_str().map_err(|_| NoLength(()))?;
    text.trim().parse().map(Some).map_err(|_| NoLength(()))
}

/// The header that should say how many bytes of a body are JSON does not say it.
#[derive(Debug)]
pub(crate) struct NoLength(());

impl std::fmt::Display for NoLength {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the header {JSON_LEN} is no number of bytes")
    }
}

impl std::error::Error for NoLength {}

use bytes::Bytes;
use http::HeaderMap;
use tokio::time::Instant;

/// A `ModelInfer` call as it came.
#[derive(Clone, Debug)]
pub struct Call {
    /// The headers.
    pub headers: HeaderMap,
    /// The message, decompressed and without the five bytes before it.
    pub message: Bytes,
    /// When the headers came: from here counts the caller's timeout.
    pub received: Instant,
}

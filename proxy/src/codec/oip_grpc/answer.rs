use bytes::Bytes;
use http::HeaderMap;

/// The answer to a `ModelInfer` call as it came, where its status is OK.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The headers.
    pub headers: HeaderMap,
    /// The message, decompressed and without the five bytes before it.
    pub message: Bytes,
    /// The trailers.
    pub trailers: HeaderMap,
}

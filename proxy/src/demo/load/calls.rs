//! What is sent, and which answers are right.

use bytes::{BufMut, Bytes, BytesMut};

/// Gives the messages of a load and judges their answers.
///
/// Both run on the generator's thread, once a request: prepare what costs time.
pub trait Calls: Send + Sync + 'static {
    /// Returns the body of call `n`: one length-prefixed message, see [`frame`].
    fn body(&self, n: u64) -> Bytes;

    /// Whether `answer`, the body with its length prefix, is a right answer to call `n`.
    ///
    /// Asked only if the status was OK.
    fn accept(&self, n: u64, answer: &Bytes) -> bool {
        let _ = (n, answer);
        true
    }
}

/// Sends the same bodies again and again, in turn, and accepts any answer.
#[derive(Clone, Debug)]
pub struct Repeat(Vec<Bytes>);

impl Repeat {
    /// Takes length-prefixed bodies; there must be at least one.
    pub fn new(bodies: impl IntoIterator<Item = Bytes>) -> Self {
        let bodies: Vec<_> = bodies.into_iter().collect();
        assert!(!bodies.is_empty(), "a load needs something to send");
        Self(bodies)
    }
}

impl Calls for Repeat {
    fn body(&self, n: u64) -> Bytes {
        self.0[(n % self.0.len() as u64) as usize].clone()
    }
}

/// Puts gRPC's prefix (not compressed, length) before a message.
pub fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("a message is shorter than 4 GiB"));
    framed.put_slice(message);
    framed.freeze()
}

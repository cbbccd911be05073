use std::{borrow::Cow, collections::VecDeque};

use bytes::{Bytes, BytesMut};
use outrigger_filters::inference::Payload;

use super::{Encoding, Undecodable};

/// Finds messages in the chunks in which they come.
///
/// ```text
/// | compressed: 1 | length: 4, big endian | message | compressed: 1 | ...
/// ```
///
/// A message that lies in one chunk is shared; one that lies in several is joined into a buffer
/// that is reserved once, when all of it has come. Until then the chunks are kept as they are:
/// nothing is reserved on the word of a length, and whoever decides after a look at the
/// [`front`](Self::front) not to read the message takes them back untouched.
#[derive(Debug)]
pub struct FrameReader {
    chunks: VecDeque<Bytes>,
    buffered: usize,
    max_message: usize,
}

/// One message, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Whether the message is compressed, in the way that the headers name.
    pub compressed: bool,
    /// The message.
    pub message: Bytes,
}

/// What is known of a message that may not have come as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Front<'a> {
    /// Whether the message is compressed.
    pub compressed: bool,
    /// The length of the whole message.
    pub len: usize,
    /// The beginning of the message, as far as it is at hand.
    pub prefix: Cow<'a, [u8]>,
}

/// Why chunks are not messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The message is longer than allowed.
    #[error("a message of {len} bytes is longer than the {max_message} that are allowed")]
    TooLarge {
        /// The length that the frame says.
        len: usize,
        /// The length that is allowed.
        max_message: usize,
    },
    /// The first byte is neither 0 nor 1.
    #[error("a frame begins with {0}, which is neither 0 nor 1")]
    Flag(u8),
}

impl FrameReader {
    /// Makes a reader that refuses messages of more than `max_message` bytes.
    pub fn new(max_message: usize) -> Self {
        Self {
            chunks: VecDeque::new(),
            buffered: 0,
            max_message,
        }
    }

    /// Adds what came next.
    pub fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.buffered += chunk.len();
            self.chunks.push_back(chunk);
        }
    }

    /// Takes the next message, or returns `None` as long as it is not complete.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((compressed, len)) = self.head()? else {
            return Ok(None);
        };
        if self.buffered - PREFIX < len {
            return Ok(None);
        }
        self.skip(PREFIX);
        let message = self.take(len);
        Ok(Some(Frame {
            compressed,
            message,
        }))
    }

    /// Looks at the beginning of the next message, or returns `None` as long as not even its
    /// length is known.
    pub fn front(&self) -> Result<Option<Front<'_>>, FrameError> {
        let Some((compressed, len)) = self.head()? else {
            return Ok(None);
        };
        let here = len.min(self.buffered - PREFIX);
        let first = match self.chunks.front() {
            Some(chunk) => chunk.get(PREFIX..).unwrap_or_default(),
            None => &[],
        };
        let prefix = match first.get(..here) {
            Some(all) => Cow::Borrowed(all),
            None if first.len() >= MAX_FRONT => Cow::Borrowed(first),
            None => self
                .chunks
                .iter()
                .flat_map(|chunk| chunk.iter().copied())
                .skip(PREFIX)
                .take(here.min(MAX_FRONT))
                .collect(),
        };
        Ok(Some(Front {
            compressed,
            len,
            prefix,
        }))
    }

    /// Returns the next message without taking it, where all of it is here.
    pub fn peek_frame(&self) -> Option<Frame> {
        let (_, len) = self.head().ok()??;
        if self.buffered - PREFIX < len {
            return None;
        }
        let mut copy = Self {
            chunks: self.chunks.clone(),
            ..*self
        };
        copy.next_frame().ok().flatten()
    }

    /// Tells whether nothing is left, as it should be when the stream ends.
    pub fn is_empty(&self) -> bool {
        self.buffered == 0
    }

    /// Returns how many bytes there are beyond the next message.
    pub fn beyond(&self) -> usize {
        match self.head() {
            Ok(Some((_, len))) => (self.buffered - PREFIX).saturating_sub(len),
            Ok(None) | Err(_) => 0,
        }
    }

    /// Gives the chunks back that were not taken as messages.
    pub fn into_chunks(self) -> impl ExactSizeIterator<Item = Bytes> {
        self.chunks.into_iter()
    }

    /// Reads flag and length without taking them.
    fn head(&self) -> Result<Option<(bool, usize)>, FrameError> {
        if self.buffered < PREFIX {
            return Ok(None);
        }
        let mut head = [0; PREFIX];
        let all = self.chunks.iter().flat_map(|chunk| chunk.iter());
        head.iter_mut().zip(all).for_each(|(to, from)| *to = *from);
        let [flag, len @ ..] = head;
        if flag > 1 {
            return Err(FrameError::Flag(flag));
        }
        let len = usize::try_from(u32::from_be_bytes(len)).unwrap_or(usize::MAX);
        if len > self.max_message {
            return Err(FrameError::TooLarge {
                len,
                max_message: self.max_message,
            });
        }
        Ok(Some((flag == 1, len)))
    }

    fn skip(&mut self, mut count: usize) {
        while count > 0 {
            count -= self.take_some(count).len();
        }
    }

    fn take(&mut self, len: usize) -> Bytes {
        if len == 0 {
            return Bytes::new();
        }
        let first = self.take_some(len);
        if first.len() == len {
            return first;
        }
        let mut whole = BytesMut::with_capacity(len);
        whole.extend_from_slice(&first);
        while whole.len() < len {
            whole.extend_from_slice(&self.take_some(len - whole.len()));
        }
        whole.freeze()
    }

    /// Takes up to `wanted` bytes, at least one, from the first chunk; the caller has seen to it
    /// that there are as many.
    fn take_some(&mut self, wanted: usize) -> Bytes {
        let front = self
            .chunks
            .front_mut()
            .expect("callers compare with `buffered` first");
        let taken = if front.len() > wanted {
            front.split_to(wanted)
        } else {
            self.chunks.pop_front().unwrap_or_default()
        };
        self.buffered -= taken.len();
        taken
    }
}

impl Frame {
    /// Returns the message as it was before compression.
    pub fn into_message(
        self,
        encoding: Encoding,
        max_message: usize,
    ) -> Result<Bytes, Undecodable> {
        if self.compressed {
            encoding.decompress(self.message, max_message)
        } else {
            Ok(self.message)
        }
    }
}

/// Returns the five bytes that stand before a message that is not compressed.
pub fn prefix(len: usize) -> [u8; PREFIX] {
    // Whoever makes a message bounds it by `max_message`, far below four gigabytes.
    let [a, b, c, d] = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    [0, a, b, c, d]
}

/// Puts the five bytes before a message, which is shared.
pub fn frame(message: Bytes) -> Payload {
    let mut framed = Payload::new();
    framed.push(Bytes::copy_from_slice(&prefix(message.len())));
    framed.push(message);
    framed
}

/// The bytes before each message: flag and length.
pub const PREFIX: usize = 5;

/// A look at a message whose beginning lies in several chunks copies at most this much of it: a
/// model's name stands at the very beginning.
const MAX_FRONT: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(message: &[u8]) -> Bytes {
        frame(Bytes::copy_from_slice(message)).to_bytes()
    }

    #[test]
    fn a_message_in_one_chunk_is_not_copied() -> Result<(), FrameError> {
        let chunk = framed(b"hello");
        let mut reader = FrameReader::new(5);
        reader.push(chunk.clone());
        let frame = reader.next_frame()?.expect("all of it is here");
        assert_eq!(frame.message, "hello");
        assert_eq!(frame.message.as_ptr(), chunk[PREFIX..].as_ptr());
        assert!(reader.is_empty());
        Ok(())
    }

    #[test]
    fn a_message_in_single_bytes_is_joined() -> Result<(), FrameError> {
        let mut reader = FrameReader::new(5);
        for byte in framed(b"hello").iter().chain(&*framed(b"")) {
            reader.push(Bytes::copy_from_slice(&[*byte]));
        }
        assert_eq!(&*reader.front()?.expect("it is known").prefix, b"hello");
        assert_eq!(reader.next_frame()?.expect("it is here").message, "hello");
        assert_eq!(reader.next_frame()?.expect("it is here").message, "");
        assert_eq!(reader.next_frame()?, None);
        Ok(())
    }

    #[test]
    fn a_length_over_the_bound_is_refused_before_its_bytes_come() {
        let mut reader = FrameReader::new(5);
        reader.push(Bytes::from_static(&[0, 0, 0, 0, 6]));
        let refused = FrameError::TooLarge {
            len: 6,
            max_message: 5,
        };
        assert_eq!(reader.next_frame(), Err(refused));
        assert_eq!(reader.front(), Err(refused));
    }

    #[test]
    fn a_flag_that_does_not_exist_is_refused() {
        let mut reader = FrameReader::new(5);
        reader.push(Bytes::from_static(&[2, 0, 0, 0, 0]));
        assert_eq!(reader.next_frame(), Err(FrameError::Flag(2)));
    }

    #[test]
    fn chunks_come_back_untouched_after_a_look() -> Result<(), FrameError> {
        let chunks = [&[0, 0, 0][..], &[0, 9, b'a'], b"bc"].map(Bytes::copy_from_slice);
        let mut reader = FrameReader::new(9);
        chunks.iter().for_each(|chunk| reader.push(chunk.clone()));
        let front = reader.front()?.expect("the length is known");
        assert_eq!((front.len, &*front.prefix), (9, &b"abc"[..]));
        assert_eq!(reader.next_frame()?, None);
        assert!(reader.into_chunks().eq(chunks));
        Ok(())
    }
}

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::{Bytes, BytesMut};
use outrigger_filters::inference::Payload;

use crate::codec::grpc::{Frame, FrameReader, Front, PREFIX};

/// The bytes of messages that are read whole, of all calls of the process at the moment.
///
/// Each message has a bound of its own, but thousands of callers may send such messages at once.
#[derive(Debug, Default)]
pub(crate) struct Gathered(AtomicUsize);

/// What one call holds of the bytes of the process; given back on drop.
#[derive(Debug)]
pub(crate) struct Held {
    gathered: Arc<Gathered>,
    max_gathered: usize,
    len: usize,
}

/// The beginning of a call, as far as it has come.
#[derive(Debug)]
pub(super) struct Gathering {
    reader: FrameReader,
    /// Small pieces behind the others, to be joined.
    small: BytesMut,
    /// All bytes that have come.
    len: usize,
    /// As many as the first frame has, once that is known.
    wanted: Option<usize>,
    held: Held,
}

/// A body without frames, as far as it has come.
#[derive(Debug)]
pub(crate) struct Whole {
    pieces: Payload,
    /// Small pieces behind the others, to be joined.
    small: BytesMut,
    held: Held,
}

/// The messages of all calls together are over the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatheredTooMuch {
    max_gathered: usize,
}

/// Bytes that count as gathered until they have been sent on.
struct Kept {
    bytes: Bytes,
    _held: Arc<Held>,
}

impl Held {
    /// Begins with nothing.
    pub(crate) fn new(gathered: Arc<Gathered>, max_gathered: usize) -> Self {
        Self {
            gathered,
            max_gathered,
            len: 0,
        }
    }

    /// Counts `more` bytes, or says that they are too many; they are counted until the drop all
    /// the same. A call by itself is within the bound of its message, and never over this one.
    fn take(&mut self, more: usize) -> Result<(), GatheredTooMuch> {
        let before = self.gathered.0.fetch_add(more, Ordering::Relaxed);
        let alone = before <= self.len;
        self.len += more;
        if alone || before.saturating_add(more) <= self.max_gathered {
            return Ok(());
        }
        Err(GatheredTooMuch {
            max_gathered: self.max_gathered,
        })
    }

    /// Counts what has become of the bytes, if it is more than they were.
    pub(super) fn grow(&mut self, len: usize) -> Result<(), GatheredTooMuch> {
        self.take(len.saturating_sub(self.len))
    }

    /// Goes on to count until the last of the bytes has been sent on.
    pub(super) fn until_sent(self, bytes: Payload) -> Payload {
        let held = Arc::new(self);
        let kept = bytes.pieces().map(|piece| {
            Bytes::from_owner(Kept {
                bytes: piece.clone(),
                _held: held.clone(),
            })
        });
        kept.collect()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gathered.0.fetch_sub(self.len, Ordering::Relaxed);
    }
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Gathering {
    /// Begins with nothing.
    pub(super) fn new(held: Held) -> Self {
        Self {
            reader: FrameReader::new(usize::MAX),
            small: BytesMut::new(),
            len: 0,
            wanted: None,
            held,
        }
    }

    /// Adds what came next.
    ///
    /// # Errors
    ///
    /// Says that all calls together hold too much.
    pub(super) fn push(&mut self, data: &Payload) -> Result<(), GatheredTooMuch> {
        let mut cost = 0;
        for piece in data.pieces() {
            cost += self.push_piece(piece);
        }
        self.held.take(cost)
    }

    /// Adds a piece and returns what it takes in memory. Until the model's name is known it must
    /// be seen at once; after that, pieces that are hardly larger than what is kept of each are
    /// joined.
    fn push_piece(&mut self, piece: &Bytes) -> usize {
        let len = piece.len();
        let is_small = len < SMALL;
        let is_looked_at = self.len < PREFIX + LOOKED_AT;
        self.len += len;
        if is_small && !is_looked_at {
            if self.small.capacity() < len {
                self.small.reserve(2 * SMALL);
            }
            self.small.extend_from_slice(piece);
            if self.small.len() >= SMALL || self.is_whole() {
                self.flush();
            }
            return len;
        }
        self.flush();
        self.reader.push(piece.clone());
        if self.wanted.is_none() {
            let front = self.reader.front().ok().flatten();
            self.wanted = front.map(|front| PREFIX.saturating_add(front.len));
        }
        len + if is_small { size_of::<Bytes>() } else { 0 }
    }

    fn flush(&mut self) {
        if !self.small.is_empty() {
            self.reader.push(self.small.split().freeze());
        }
    }

    /// Tells whether all of the first message is here.
    pub(super) fn is_whole(&self) -> bool {
        self.wanted.is_some_and(|wanted| self.len >= wanted)
    }

    /// Looks at the beginning of the first message; an error says that it is none.
    pub(super) fn front(&self) -> Result<Option<Front<'_>>, ()> {
        self.reader.front().map_err(|_| ())
    }

    /// Returns the first message without taking it, where all of it is here.
    pub(super) fn peek_frame(&self) -> Option<Frame> {
        self.is_whole().then(|| self.reader.peek_frame()).flatten()
    }

    /// Takes the first message, if all of it is here.
    pub(super) fn next_frame(&mut self) -> Option<Frame> {
        self.reader.next_frame().ok().flatten()
    }

    /// Returns what was not taken, and what counts it.
    pub(super) fn finish(mut self) -> (Payload, Held) {
        self.flush();
        (self.reader.into_chunks().collect(), self.held)
    }
}

impl Whole {
    /// Begins with nothing.
    pub(crate) fn new(held: Held) -> Self {
        Self {
            pieces: Payload::new(),
            small: BytesMut::new(),
            held,
        }
    }

    /// Adds what came next.
    ///
    /// # Errors
    ///
    /// Says that all calls together hold too much.
    pub(crate) fn push(&mut self, data: &Payload) -> Result<(), GatheredTooMuch> {
        for piece in data.pieces() {
            if piece.len() < SMALL {
                self.small.extend_from_slice(piece);
            } else {
                self.flush();
                self.pieces.push(piece.clone());
            }
        }
        self.held.take(data.len())
    }

    /// Returns the bytes that have come.
    pub(crate) fn len(&self) -> usize {
        self.pieces.len() + self.small.len()
    }

    /// Returns the body in one piece, copied only where it came in several, and what counts it.
    pub(crate) fn finish(mut self) -> (Bytes, Held) {
        self.flush();
        (self.pieces.to_bytes(), self.held)
    }

    fn flush(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push(self.small.split().freeze());
        }
    }
}

impl std::fmt::Display for GatheredTooMuch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the messages that are read whole at the moment are more than limits.max_gathered, \
             which is {} bytes",
            self.max_gathered
        )
    }
}

impl std::error::Error for GatheredTooMuch {}

/// Bytes of a message among which the model's name is looked for: as many as a look at the front
/// of a message that comes in small pieces shows.
pub(super) const LOOKED_AT: usize = 1024;

/// Pieces of fewer bytes are joined: of larger ones, what is kept beside their bytes is little.
const SMALL: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::grpc;

    fn held(gathered: &Arc<Gathered>, max_gathered: usize) -> Held {
        Held::new(gathered.clone(), max_gathered)
    }

    #[test]
    fn single_bytes_are_joined_and_read_as_what_they_were() {
        let gathered = Arc::default();
        let mut gathering = Gathering::new(held(&gathered, usize::MAX));
        let message: Bytes = (0..100_000_u32).map(|n| n as u8).collect();
        for byte in grpc::frame(message.clone()).to_bytes() {
            assert!(!gathering.is_whole());
            gathering
                .push(&Bytes::copy_from_slice(&[byte]).into())
                .unwrap();
        }
        assert!(gathering.is_whole());
        assert_eq!(
            gathering.peek_frame().expect("it is whole").message,
            message
        );
        let (pieces, held) = gathering.finish();
        assert_eq!(pieces.to_bytes(), grpc::frame(message).to_bytes());
        let pieces = pieces.pieces().len();
        assert!(pieces < PREFIX + LOOKED_AT + 100, "{pieces} pieces");
        assert!(held.len > 100_000 + LOOKED_AT * size_of::<Bytes>());
        drop(held);
        assert_eq!(gathered.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_body_in_pieces_is_the_body() {
        let gathered = Arc::default();
        let bytes: Bytes = (0..40_000_u32).map(|n| (n / 7) as u8).collect();
        let mut whole = Whole::new(held(&gathered, usize::MAX));
        let mut rest = bytes.clone();
        for len in [3000, 1, 2, 1023, 5000, 7].into_iter().cycle() {
            let piece = rest.split_to(rest.len().min(len));
            whole.push(&piece.into()).unwrap();
            if rest.is_empty() {
                break;
            }
        }
        assert_eq!(whole.len(), bytes.len());
        assert_eq!(gathered.0.load(Ordering::Relaxed), bytes.len());
        let (body, held) = whole.finish();
        assert_eq!(body, bytes);
        drop(held);
        assert_eq!(gathered.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn small_pieces_between_large_ones_keep_their_order() {
        let gathered = Arc::default();
        let mut gathering = Gathering::new(held(&gathered, usize::MAX));
        let message: Bytes = (0..40_000_u32).map(|n| (n / 7) as u8).collect();
        let mut rest = grpc::frame(message.clone()).to_bytes();
        for len in [3000, 1, 2, 1023, 5000, 7, 2000, 500, 500, 500]
            .into_iter()
            .cycle()
        {
            let piece = rest.split_to(rest.len().min(len));
            gathering.push(&piece.into()).unwrap();
            if rest.is_empty() {
                break;
            }
        }
        assert_eq!(
            gathering.next_frame().expect("it is whole").message,
            message
        );
        assert!(gathering.finish().0.is_empty());
    }

    #[test]
    fn what_was_gathered_counts_until_the_last_of_it_has_been_sent() {
        let gathered = Arc::default();
        let mut first = held(&gathered, 10);
        let mut second = held(&gathered, 10);
        first.take(7).unwrap();
        let error = second.take(4).unwrap_err();
        assert!(error.to_string().contains("limits.max_gathered"));
        drop(second);
        let mut sent = first.until_sent(["abc", "defg"].map(Bytes::from).into_iter().collect());
        assert_eq!(sent.to_bytes(), "abcdefg");
        bytes::Buf::advance(&mut sent, 3);
        assert_eq!(gathered.0.load(Ordering::Relaxed), 7);
        drop(sent);
        assert_eq!(gathered.0.load(Ordering::Relaxed), 0);
        let mut alone = held(&gathered, 10);
        alone.take(11).unwrap();
        alone.grow(12).unwrap();
        assert_eq!(gathered.0.load(Ordering::Relaxed), 12);
    }
}

use bytes::{Bytes, BytesMut};
use outrigger_filters::inference::Payload;

use crate::codec::grpc;

/// A message being written: small fields go into one buffer, large contents stand between as
/// the pieces that they already are.
///
/// ```text
/// | prefix, names, shapes, ... | contents of caller 1 | contents of caller 2 | key | ... |
///   `-- one buffer, cut where contents stand between --------------------------'
/// ```
#[derive(Debug)]
pub(in crate::codec) struct Rope {
    small: BytesMut,
    /// What is still to be written into `small`.
    left: usize,
    pieces: usize,
    shared: usize,
    payload: Payload,
}

impl Rope {
    pub(in crate::codec) fn new() -> Self {
        Self {
            small: BytesMut::new(),
            left: 0,
            pieces: 0,
            shared: 0,
            payload: Payload::new(),
        }
    }

    /// Says that these contents will be [shared](Self::share).
    pub(in crate::codec) fn expect(&mut self, contents: &Payload) {
        contents.pieces().for_each(|piece| self.expect_piece(piece));
    }

    /// Says that this piece will be [shared](Self::share_piece).
    pub(super) fn expect_piece(&mut self, piece: &Bytes) {
        if is_shared(piece) {
            self.pieces += 1;
            self.shared += piece.len();
        }
    }

    /// Begins a message of `len` bytes, all that is shared included, with gRPC's prefix.
    pub(in crate::codec) fn begin(&mut self, len: usize) {
        self.left = grpc::PREFIX + len - self.shared;
        self.small.reserve(self.left);
        // At most as many small pieces as shared ones, and one before them.
        self.payload = Payload::with_capacity(1 + 2 * self.pieces);
        self.small.extend_from_slice(&grpc::prefix(len));
    }

    /// Returns where small fields go.
    pub(in crate::codec) fn small(&mut self) -> &mut BytesMut {
        &mut self.small
    }

    /// Adds contents; of their pieces, those that are too small to be worth sharing are copied.
    pub(in crate::codec) fn share(&mut self, contents: &Payload) {
        contents.pieces().for_each(|piece| self.share_piece(piece));
    }

    /// Adds one piece, as [`Self::share`] does.
    pub(super) fn share_piece(&mut self, piece: &Bytes) {
        if is_shared(piece) {
            self.cut();
            self.payload.push(piece.clone());
        } else {
            self.small.extend_from_slice(piece);
        }
    }

    /// Returns the message.
    pub(in crate::codec) fn finish(mut self) -> Payload {
        self.cut();
        debug_assert_eq!(self.left, 0, "a message is as long as was said");
        self.payload
    }

    fn cut(&mut self) {
        if self.small.is_empty() {
            return;
        }
        self.left = self.left.saturating_sub(self.small.len());
        let piece = if self.left == 0 {
            std::mem::take(&mut self.small)
        } else {
            self.small.split()
        };
        self.payload.push(piece.freeze());
    }
}

fn is_shared(piece: &Bytes) -> bool {
    piece.len() > COPY_UP_TO
}

/// Pieces up to this length are copied: to share one costs two atomic operations and a place in
/// the list of what is written to the socket, which is more than the copy (64 rows of 256 bytes:
/// 350 ns copied, 730 ns shared).
pub(in crate::codec) const COPY_UP_TO: usize = 256;

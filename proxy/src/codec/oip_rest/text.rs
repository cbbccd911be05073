use bytes::{Bytes, BytesMut};
use outrigger_filters::inference::Payload;

/// A message that is being written: JSON, of which long texts are shared.
#[derive(Debug, Default)]
pub(super) struct Text {
    payload: Payload,
    small: Vec<u8>,
}

impl Text {
    pub(super) fn with_capacity(len: usize) -> Self {
        Self {
            payload: Payload::new(),
            small: Vec::with_capacity(len),
        }
    }

    /// Returns the end, to append what is small.
    pub(super) fn small(&mut self) -> &mut Vec<u8> {
        &mut self.small
    }

    /// Appends what is there already: shares what is long, copies what is short.
    pub(super) fn share(&mut self, text: &Payload) {
        for piece in text.pieces() {
            if piece.len() <= MAX_COPIED {
                self.small.extend_from_slice(piece);
            } else {
                let small = std::mem::take(&mut self.small);
                self.payload.push(small.into());
                self.payload.push(piece.clone());
            }
        }
    }

    /// Takes off the comma at the end, if there is one, and appends what closes the value.
    pub(super) fn close(&mut self, close: &[u8]) {
        if self.small.last() == Some(&b',') {
            self.small.pop();
        }
        self.small.extend_from_slice(close);
    }

    /// Returns the message.
    pub(super) fn finish(mut self) -> Payload {
        self.payload.push(self.small.into());
        self.payload
    }
}

/// Members of an object that are not known, kept as the text that they are.
#[derive(Debug, Default)]
pub(super) struct Unknown {
    members: Payload,
}

impl Unknown {
    /// Keeps a member: its name, a colon and its value.
    pub(super) fn keep(&mut self, member: Bytes) {
        if !self.members.is_empty() {
            self.members.push(Bytes::from_static(b","));
        }
        self.members.push(member);
    }

    /// Returns the members with commas between them.
    pub(super) fn finish(self) -> Payload {
        if self.members.pieces().len() > 1 {
            // In one piece: it is compared with others'.
            let mut whole = BytesMut::with_capacity(self.members.len());
            self.members
                .pieces()
                .for_each(|piece| whole.extend_from_slice(piece));
            return Payload::from(whole.freeze());
        }
        self.members
    }
}

/// Longer pieces are shared: a copy of so much costs what a piece more does.
const MAX_COPIED: usize = 512;

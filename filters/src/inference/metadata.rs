use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;

/// The caller's headers that may change the answer or say who asks, sorted by name.
///
/// What only traces or times a call is left out by the codec. Two requests whose metadata
/// differ are never merged, and a merged call carries its members' common metadata upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Metadata(Option<Arc<[(ByteString, Bytes)]>>);

impl Metadata {
    /// Sorts the pairs by name; pairs of one name keep their order.
    pub fn new(mut pairs: Vec<(ByteString, Bytes)>) -> Self {
        if pairs.is_empty() {
            return Self::default();
        }
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        Self(Some(pairs.into()))
    }

    /// Goes through the pairs in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &(ByteString, Bytes)> {
        self.0.iter().flat_map(|pairs| pairs.iter())
    }

    /// Tells whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

use bytestring::ByteString;

/// How the caller of one request wants to be answered; the request itself says nothing of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The caller's name for its request.
    pub(super) id: ByteString,
    /// Whether outputs are wanted binary that the caller does not name (`binary_data_output`).
    pub(super) binary: bool,
    /// The outputs that the caller names, and whether each of them is wanted binary
    /// (`binary_data`), sorted by name.
    pub(super) outputs: Vec<(ByteString, bool)>,
}

impl Reply {
    /// Answers all outputs in JSON, as a caller that says nothing is answered.
    pub fn json() -> Self {
        Self::default()
    }

    /// Tells whether an output is wanted binary. As with the servers, an output that the caller
    /// names is what is said of it there, whatever is said of all.
    pub fn is_binary(&self, output: &str) -> bool {
        self.outputs
            .binary_search_by(|(name, _)| (**name).cmp(output))
            .ok()
            .and_then(|index| self.outputs.get(index))
            .map_or(self.binary, |(_, binary)| *binary)
    }
}

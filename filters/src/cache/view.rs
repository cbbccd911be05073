/// What a cache holds, and what came of asking it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct View {
    /// Bytes that it takes.
    pub bytes: usize,
    /// Bytes that it may take.
    pub max_bytes: usize,
    /// How many answers it holds.
    pub rows: usize,
    /// Rows that were answered from it.
    pub hits: u64,
    /// Rows that the model was being asked for already.
    pub joined: u64,
    /// Rows that the model was asked for.
    pub misses: u64,
    /// Rows that it was not asked for.
    pub bypassed: u64,
    /// The share of rows, of late, for which the model was not asked; `None` before the first.
    pub hit_ratio: Option<f64>,
    /// Whether it stands aside, because looking answers up costs more than it saves.
    pub bypasses: bool,
    /// How often it was flushed.
    pub generation: u64,
}

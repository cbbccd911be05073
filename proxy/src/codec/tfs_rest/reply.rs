use outrigger_filters::inference::Method;

/// How a caller has asked, and so wants to be answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// What it has asked for.
    pub method: Method,
    /// How tensors stood in its request.
    pub layout: Layout,
}

/// How tensors stand in a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// Row by row: `instances`, answered by `predictions`.
    #[default]
    Rows,
    /// Tensor by tensor: `inputs`, answered by `outputs`.
    Columns,
}

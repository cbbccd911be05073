use super::{Parameter, Parameters, Request};

/// Why a request is treated by itself: what it says of its model holds for no other request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Apart {
    /// It is one of a sequence: the server keeps state between them.
    Sequence,
    /// Contents lie in memory that client and server share.
    SharedMemory,
    /// It has fields that are not understood.
    Unknown,
    /// It has more parameters than it pays to compare.
    Parameters,
}

impl Request {
    /// Tells whether the request must be neither merged nor answered from what was stored, and why.
    pub fn apart(&self) -> Option<Apart> {
        if !self.unknown.is_empty() {
            return Some(Apart::Unknown);
        }
        let inputs = self
            .inputs
            .iter()
            .map(|input| (&input.parameters, &input.unknown));
        let outputs = self
            .outputs
            .iter()
            .map(|output| (&output.parameters, &output.unknown));
        for (parameters, unknown) in inputs.chain(outputs) {
            if !unknown.is_empty() {
                return Some(Apart::Unknown);
            }
            if parameters.len() > MAX_PARAMETERS {
                return Some(Apart::Parameters);
            }
            if parameters
                .iter()
                .any(|(name, _)| name.starts_with("shared_memory_"))
            {
                return Some(Apart::SharedMemory);
            }
        }
        if self.parameters.len() > MAX_PARAMETERS {
            return Some(Apart::Parameters);
        }
        self.is_in_sequence().then_some(Apart::Sequence)
    }

    /// Tells whether the request is one of a sequence, whatever else it is.
    pub fn is_in_sequence(&self) -> bool {
        in_sequence(&self.parameters)
    }
}

impl Apart {
    /// All reasons, each at its index.
    pub const ALL: [Self; 4] = [
        Self::Sequence,
        Self::SharedMemory,
        Self::Unknown,
        Self::Parameters,
    ];

    /// Returns the word that metrics use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sequence => "sequence",
            Self::SharedMemory => "shared_memory",
            Self::Unknown => "unknown_fields",
            Self::Parameters => "parameters",
        }
    }
}

/// Zero and the empty text are the protocol's way of saying "none"; of the marks of a sequence's
/// start and end only an outright `false` is.
fn in_sequence(parameters: &Parameters) -> bool {
    parameters.iter().any(|(name, value)| match &**name {
        "sequence_id" => !match value {
            Parameter::Int64(id) => *id == 0,
            Parameter::Uint64(id) => *id == 0,
            Parameter::String(id) => id.is_empty(),
            _ => false,
        },
        "sequence_start" | "sequence_end" => *value != Parameter::Bool(false),
        _ => false,
    })
}

/// The most parameters of a request or of a tensor that are compared: each is looked for among
/// the others. Clients in use send a handful.
const MAX_PARAMETERS: usize = 16;

use crate::inference::{Apart, NoRows, Request};

/// Why a request is never merged: it goes to the server at once, by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alone {
    /// It is one of a sequence: the server keeps state between them.
    Sequence,
    /// Contents lie in memory that client and server share.
    SharedMemory,
    /// It has fields that are not understood.
    Unknown,
    /// Its rows cannot be counted.
    NoRows(NoRows),
    /// It has more parameters than it pays to compare.
    Parameters,
    /// The model takes no batches, or nobody knows whether it does.
    Unbatchable,
    /// A call with the same contents has failed for their sake not long ago.
    Quarantined,
    /// Batching was measured, and does not pay: the model takes as long for rows together as for
    /// each by itself.
    Unprofitable,
    /// It was sent in parts, whose answers could not be joined.
    Indivisible,
}

impl Alone {
    /// All reasons, each at its index.
    pub const ALL: [Self; 14] = [
        Self::Sequence,
        Self::SharedMemory,
        Self::Unknown,
        Self::Parameters,
        Self::Unbatchable,
        Self::Quarantined,
        Self::Unprofitable,
        Self::Indivisible,
        Self::NoRows(NoRows::NoInputs),
        Self::NoRows(NoRows::Scalar),
        Self::NoRows(NoRows::NotPositive),
        Self::NoRows(NoRows::Disagree),
        Self::NoRows(NoRows::Absent),
        Self::NoRows(NoRows::Length),
    ];

    pub(super) const fn index(self) -> usize {
        match self {
            Self::Sequence => 0,
            Self::SharedMemory => 1,
            Self::Unknown => 2,
            Self::Parameters => 3,
            Self::Unbatchable => 4,
            Self::Quarantined => 5,
            Self::Unprofitable => 6,
            Self::Indivisible => 7,
            Self::NoRows(reason) => 8 + reason as usize,
        }
    }

    /// Returns the word that metrics use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sequence => "sequence",
            Self::SharedMemory | Self::NoRows(NoRows::Absent) => "shared_memory",
            Self::Unknown => "unknown_fields",
            Self::NoRows(NoRows::NoInputs) => "no_inputs",
            Self::NoRows(NoRows::Scalar) => "scalar",
            Self::NoRows(NoRows::NotPositive) => "no_rows",
            Self::NoRows(NoRows::Disagree) => "rows_disagree",
            Self::NoRows(NoRows::Length) => "length",
            Self::Parameters => "parameters",
            Self::Unbatchable => "unbatchable",
            Self::Quarantined => "quarantined",
            Self::Unprofitable => "does_not_pay",
            Self::Indivisible => "indivisible",
        }
    }
}

/// Counts the rows of a request that may be merged, or says why it may not.
pub(super) fn rows(request: &Request) -> Result<usize, Alone> {
    if let Some(apart) = request.apart() {
        return Err(match apart {
            Apart::Sequence => Alone::Sequence,
            Apart::SharedMemory => Alone::SharedMemory,
            Apart::Unknown => Alone::Unknown,
            Apart::Parameters => Alone::Parameters,
        });
    }
    let rows = request.rows().map_err(Alone::NoRows)?;
    // Rows without elements cost their caller nothing, however many it names.
    let empty = request
        .inputs
        .iter()
        .all(|input| input.shape.dimensions().contains(&0));
    match empty {
        true => Err(Alone::NoRows(NoRows::NotPositive)),
        false => Ok(rows),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_at_its_index() {
        for (index, reason) in Alone::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
        }
    }
}

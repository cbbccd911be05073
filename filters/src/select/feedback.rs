use super::Truth;

/// What somebody says of a prediction, after the fact.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// How bad each row was, from 0 to 1; `None` for rows of which nothing is said.
    Loss(Vec<Option<f64>>),
    /// What the right answer to each row was.
    Label(Vec<Option<Truth>>),
}

/// Feedback on one prediction.
#[derive(Clone, Debug, PartialEq)]
pub struct Feedback {
    /// What is said of its rows, or of one.
    pub outcome: Outcome,
    /// The row that is meant, where only one is.
    pub row: Option<u32>,
}

/// What became of feedback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// So many losses were learned, of as many arms and rows together.
    Learned {
        /// The arms of which a loss was learned.
        arms: usize,
    },
    /// It had been told before, and changed nothing.
    Duplicate,
}

/// Why feedback changed nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Rejected {
    /// The prediction id is not accepted.
    Refused(super::Refused),
    /// The prediction is another model's.
    OtherModel,
    /// The arm that answered is not the model's any more.
    UnknownArm,
    /// It speaks of rows that the prediction has not.
    Rows {
        /// How many the prediction has.
        rows: usize,
        /// How many, or which, are spoken of.
        told: usize,
    },
    /// Nothing is said of any row.
    Nothing,
    /// A loss that is no number from 0 to 1.
    Loss,
    /// The predictions are not in the id, because there were too many.
    Cut,
    /// The answer had no label that could be read.
    NoLabel,
    /// What was predicted and what was right cannot be compared.
    NotComparable(String),
    /// A loss of an answer that several arms gave together, of which nobody knows whose it is.
    Whose,
    /// Nothing is learned at the moment: the model's selection is frozen.
    Frozen,
    /// There is no room for more that was not shared with the other replicas.
    Full,
}

impl std::fmt::Display for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(refused) => refused.fmt(f),
            Self::OtherModel => f.write_str("the prediction is another model's"),
            Self::UnknownArm => f.write_str("the arm that answered is not configured any more"),
            Self::Rows { rows, told } => write!(
                f,
                "the prediction has rows {rows}, and the feedback speaks of {told}"
            ),
            Self::Nothing => f.write_str("nothing is said of any row"),
            Self::Loss => f.write_str("a loss is a number from 0 to 1"),
            Self::Cut => f.write_str(
                "the answer was too long for its predictions to be kept in the id: give the loss, or the inputs with the label",
            ),
            Self::NoLabel => f.write_str("the answer had no label that could be read"),
            Self::NotComparable(why) => f.write_str(why),
            Self::Whose => f.write_str(
                "the arms gave this answer together, and a loss does not tell whose it is: give the label",
            ),
            Self::Frozen => f.write_str("nothing is learned at the moment: selection.freeze is set"),
            Self::Full => f.write_str(
                "there is no room for more feedback until the state store can be reached again",
            ),
        }
    }
}

impl std::error::Error for Rejected {}

impl From<super::Refused> for Rejected {
    fn from(refused: super::Refused) -> Self {
        Self::Refused(refused)
    }
}

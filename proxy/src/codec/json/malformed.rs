use outrigger_filters::inference::Datatype;

/// Why a text is not read, or a tensor has no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The text is not JSON.
    #[error("{expected} is expected at byte {at}")]
    Syntax {
        /// Where, from the beginning of the text.
        at: usize,
        /// What should stand there.
        expected: &'static str,
    },
    /// A string is not UTF-8, or its escapes are not text.
    #[error("the string that ends before byte {at} is not text")]
    Text {
        /// Where it ends, from the beginning of the text.
        at: usize,
    },
    /// Values are nested deeper than is read.
    #[error("values are nested deeper than is read")]
    Deep,
    /// Arrays of one depth differ in length, or elements stand at different depths.
    #[error("the arrays are not nested regularly")]
    Irregular,
    /// Elements are of kinds that no datatype has in common.
    #[error("the elements are not all of one kind")]
    Mixed,
    /// An element is not one of its datatype.
    #[error("element {index} is not one of {datatype}")]
    Element {
        /// Its place in row-major order.
        index: usize,
        /// What it should be.
        datatype: Datatype,
    },
    /// An element of `BYTES` cannot be a JSON string.
    #[error("element {index} is not UTF-8")]
    NotText {
        /// Its place in row-major order.
        index: usize,
    },
    /// The elements are more or fewer than the shape says.
    #[error("the elements are not as many as the shape says")]
    Count,
    /// The contents are not in the message.
    #[error("the contents are not in the message")]
    Absent,
    /// The text would be longer than its reader takes.
    #[error("its text would be longer than limits.max_message allows")]
    Limit,
    /// The text would be much longer than the contents.
    #[error("the text would be much longer than the contents")]
    TooLong,
}

impl Malformed {
    /// Counts positions from `from` bytes earlier: a part of a text was read, and is spoken of as
    /// the part that it is.
    pub(crate) fn shifted(self, from: usize) -> Self {
        match self {
            Self::Syntax { at, expected } => Self::Syntax {
                at: at.saturating_add(from),
                expected,
            },
            Self::Text { at } => Self::Text {
                at: at.saturating_add(from),
            },
            other => other,
        }
    }
}

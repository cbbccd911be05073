use bytestring::ByteString;

/// Which arm answered, and why that one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SelectionReport {
    /// The name of the arm whose answer it is; `None` where none answered.
    pub arm: Option<ByteString>,
    /// Its place among the model's arms.
    pub index: usize,
    /// The probability with which it was chosen; of an ensemble, its share of the vote.
    pub probability: f64,
    /// The policy that chose.
    pub policy: &'static str,
    /// What feedback on the answer names it by.
    pub prediction_id: Option<ByteString>,
    /// Of an ensemble, how sure it is of the row of which it is the least sure, from 0 to 1.
    pub confidence: Option<f64>,
    /// How many arms were asked.
    pub asked: usize,
    /// How many of them answered.
    pub answered: usize,
    /// Arms that were asked before, and could not be reached.
    pub unreached: usize,
    /// Why something of the answer, or all, is the default output.
    pub default: Option<DefaultReason>,
}

/// Why the default output was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DefaultReason {
    /// No arm answered in time.
    Deadline,
    /// All arms that were asked failed.
    Error,
    /// The arms did not agree enough.
    LowConfidence,
    /// There was no arm to ask.
    NoArm,
}

impl DefaultReason {
    /// All, each at its index.
    pub const ALL: [Self; 4] = [
        Self::Deadline,
        Self::Error,
        Self::LowConfidence,
        Self::NoArm,
    ];

    /// Returns the word that headers use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::Error => "error",
            Self::LowConfidence => "low-confidence",
            Self::NoArm => "no-arm",
        }
    }
}

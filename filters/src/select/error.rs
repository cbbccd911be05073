/// Whose fault it is that an arm gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The caller's, or nobody's: the arm would answer others.
    Caller,
    /// The arm's, which may have been at work on the request.
    Arm,
    /// The arm's, which has never seen the request: another one may be asked.
    Unreached,
    /// Nobody's: the arm has too much to do, and has not taken the request. Another one may be
    /// asked.
    Busy,
}

impl Blame {
    /// Tells whether the arm has failed.
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Arm | Self::Unreached)
    }

    /// Tells whether the arm has not begun with the request.
    pub const fn is_unsent(self) -> bool {
        matches!(self, Self::Busy | Self::Unreached)
    }
}

/// There is no arm that could be asked.
#[derive(Debug)]
pub struct NoArm(pub(super) ());

impl std::fmt::Display for NoArm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the model has no arm that may be chosen")
    }
}

impl std::error::Error for NoArm {}

use super::Stage;

/// The deadline of a request has passed before there was an answer, or would have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired(When);

/// What became of the request until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// It was with its arm, or with those of an ensemble.
    Asked,
    /// It waited to be sent.
    Waiting,
    /// It waited to be sent, and the deadline was nearer than the model's answer.
    Hopeless,
    /// The model was at work on it.
    UnderWay,
    /// It waited for the answer to another caller's call for the same.
    Behind,
}

impl Expired {
    /// Says that no arm had answered.
    #[must_use]
    pub fn new() -> Self {
        Self(When::Asked)
    }

    /// Says that the request was not sent yet.
    pub(crate) fn passed() -> Self {
        Self(When::Waiting)
    }

    /// Says that the deadline is nearer than the model's answer can be.
    pub(crate) fn hopeless() -> Self {
        Self(When::Hopeless)
    }

    /// Says that the model had not answered.
    pub(crate) fn under_way() -> Self {
        Self(When::UnderWay)
    }

    /// Says that the model had not answered the same for another caller.
    pub(crate) fn behind() -> Self {
        Self(When::Behind)
    }

    /// Returns where the request was.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self.0 {
            When::Waiting | When::Hopeless | When::Behind => Stage::Queue,
            When::Asked | When::UnderWay => Stage::Upstream,
        }
    }

    /// Tells whether the request waited, and was never sent: another arm may have time for it.
    #[must_use]
    pub fn is_unsent(&self) -> bool {
        matches!(self.0, When::Waiting | When::Hopeless)
    }

    /// Tells whether the model was at work on the request, or on the same for another caller.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        matches!(self.0, When::UnderWay | When::Behind)
    }
}

impl Default for Expired {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Display for Expired {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            When::Asked => "the deadline passed before there was an answer",
            When::Waiting => "the deadline passed before the request was sent",
            When::Hopeless => {
                "the deadline is nearer than the model's answer: the request was not sent"
            }
            When::UnderWay => "the deadline passed before the model answered",
            When::Behind => {
                "the deadline passed before the model answered the same for another caller"
            }
        })
    }
}

impl std::error::Error for Expired {}

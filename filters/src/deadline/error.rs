/// The deadline of a request has passed before there was an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired(());

impl Expired {
    /// Says that the deadline has passed.
    #[must_use]
    pub fn new() -> Self {
        Self(())
    }
}

impl Default for Expired {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Display for Expired {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the deadline passed before there was an answer")
    }
}

impl std::error::Error for Expired {}

/// What becomes of a call whose callers have all left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cancel {
    /// It goes on, and what it brings is dropped: the server works on it in any case, and storms of
    /// cancelled calls have brought servers down.
    #[default]
    Never,
    /// It is cancelled at the server.
    Abandoned,
}

impl Cancel {
    /// All, the default first.
    pub const ALL: [Self; 2] = [Self::Never, Self::Abandoned];

    /// Returns the name that the configuration knows it by.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Abandoned => "abandoned",
        }
    }
}

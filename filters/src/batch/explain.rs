/// Why a batch was sent with the rows that it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The limit of rows left no room for the next request.
    Full,
    /// The bound of bytes left no room for the next request.
    Bytes,
    /// The endpoint was free and nothing else waited.
    Idle,
    /// What else waited has another key.
    Incompatible,
    /// It is a part of a batch whose call failed.
    Halved,
    /// The endpoint was free, and no company came while it waited for some.
    Delay,
    /// With more rows the call would have been late for one of its members.
    Deadline,
    /// The process ends, or the stack does, so that nothing is waited for.
    Drain,
    /// A request was sent by itself to see what that takes.
    HoldOut,
}

impl Closed {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::Full,
        Self::Bytes,
        Self::Idle,
        Self::Incompatible,
        Self::Halved,
        Self::Delay,
        Self::Deadline,
        Self::Drain,
        Self::HoldOut,
    ];

    /// Returns the word that metrics and explanations use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Bytes => "bytes",
            Self::Idle => "idle",
            Self::Incompatible => "incompatible",
            Self::Halved => "halved",
            Self::Delay => "delay",
            Self::Deadline => "deadline",
            Self::Drain => "drain",
            Self::HoldOut => "holdout",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_at_its_number() {
        for (number, reason) in Closed::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
        }
    }
}

use bytestring::ByteString;

/// A single value as people write it, in feedback or in the configuration.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A truth value.
    Bool(bool),
    /// A number without a point or an exponent.
    Integer(i128),
    /// Any other number.
    Number(f64),
    /// A text.
    String(ByteString),
}

/// What the right answer to a row was.
pub type Truth = Value;

impl Value {
    /// Returns it as an integer, where it is a number without a fraction.
    pub(super) fn as_integer(&self) -> Option<i128> {
        match self {
            Self::Integer(value) => Some(*value),
            Self::Number(value) => whole(*value),
            Self::Bool(_) | Self::String(_) => None,
        }
    }

    /// Returns it as a number, where it is one that is finite.
    pub(super) fn as_number(&self) -> Option<f64> {
        match self {
            Self::Integer(value) => Some(*value as f64),
            Self::Number(value) => Some(*value).filter(|value| value.is_finite()),
            Self::Bool(_) | Self::String(_) => None,
        }
    }
}

/// Returns a number that has no fraction as an integer.
pub(super) fn whole(value: f64) -> Option<i128> {
    // As far as a float tells integers apart, and any 64-bit one lies.
    const MOST: f64 = (1_u128 << 64) as f64;
    (value.fract() == 0. && value.abs() <= MOST).then_some(value as i128)
}

/// The most characters of a text that are shown.
const SHOWN: usize = 64;

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Number(value) => write!(f, "{value}"),
            Self::String(value) => match value.char_indices().nth(SHOWN) {
                None => write!(f, "{:?}", &**value),
                Some((end, _)) => write!(f, "{:?} and more", value.get(..end).unwrap_or_default()),
            },
        }
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Integer(value.into())
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Integer(value.into())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Number(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::String(value.into())
    }
}

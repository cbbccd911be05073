use std::hash::{BuildHasher, Hasher};

use bytestring::ByteString;

/// One value of a request's, a response's or a tensor's parameters.
#[derive(Clone, Debug, PartialEq)]
pub enum Parameter {
    /// A truth value.
    Bool(bool),
    /// A signed integer.
    Int64(i64),
    /// A text.
    String(ByteString),
    /// A floating number.
    Double(f64),
    /// An unsigned integer.
    Uint64(u64),
    /// A parameter that the sender left without a value.
    Unset,
}

/// Named parameters in the order in which they came; names are unique.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parameters(Vec<(ByteString, Parameter)>);

impl Parameters {
    /// Sets a value; as in a map of the wire, the last one for a name counts.
    pub fn insert(&mut self, name: ByteString, value: Parameter) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, slot)) => *slot = value,
            None => self.0.push((name, value)),
        }
    }

    /// Returns the value under a name.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value)
    }

    /// Goes through names and values in the order in which they came.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&ByteString, &Parameter)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells whether both are the same but for those of the given names: as sets, because a map of
    /// the wire has no order, and bit by bit, because two zeros of different signs are different
    /// to a model.
    ///
    /// Names are unique, so that as many on both sides, each of which is found on the other, are
    /// the same.
    pub fn same(&self, other: &Self, besides: &[&str]) -> bool {
        if self.is_empty() && other.is_empty() {
            return true;
        }
        self.counted(besides).count() == other.counted(besides).count()
            && self.counted(besides).all(|(name, value)| {
                let other = other.get(name);
                other.is_some_and(|other| value.same(other))
            })
    }

    /// Returns a digest that does not depend on their order, of all but those of the given names:
    /// those that are the [same](Self::same) have the same.
    pub fn digest(&self, state: &impl BuildHasher, besides: &[&str]) -> u64 {
        self.counted(besides).fold(0, |sum, (name, value)| {
            let mut hasher = state.build_hasher();
            hasher.write_usize(name.len());
            hasher.write(name.as_bytes());
            let (kind, number) = match value {
                Parameter::Bool(value) => (1, u64::from(*value)),
                Parameter::Int64(value) => (2, value.cast_unsigned()),
                Parameter::String(value) => {
                    hasher.write_usize(value.len());
                    hasher.write(value.as_bytes());
                    (3, 0)
                }
                Parameter::Double(value) => (4, value.to_bits()),
                Parameter::Uint64(value) => (5, *value),
                Parameter::Unset => (6, 0),
            };
            hasher.write_u8(kind);
            hasher.write_u64(number);
            sum.wrapping_add(hasher.finish())
        })
    }

    fn counted(&self, besides: &[&str]) -> impl Iterator<Item = (&ByteString, &Parameter)> {
        let counts = |name: &ByteString| !besides.iter().any(|besides| *name == **besides);
        self.iter().filter(move |(name, _)| counts(name))
    }
}

impl Parameter {
    /// Compares bit by bit.
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Double(a), Self::Double(b)) => a.to_bits() == b.to_bits(),
            _ => self == other,
        }
    }
}

impl FromIterator<(ByteString, Parameter)> for Parameters {
    fn from_iter<I: IntoIterator<Item = (ByteString, Parameter)>>(pairs: I) -> Self {
        let mut parameters = Self::default();
        for (name, value) in pairs {
            parameters.insert(name, value);
        }
        parameters
    }
}

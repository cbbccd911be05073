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

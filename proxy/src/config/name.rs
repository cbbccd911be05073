use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

/// The name of an upstream, a model or an arm: short text without control characters.
///
/// Cheap to clone, and found in maps by `&str`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// Characters in a name at most: it becomes a label of metrics and a part of paths.
    pub const MAX_LENGTH: usize = 256;

    /// The name of the only upstream of a configuration without a file.
    pub(super) fn upstream() -> Self {
        Self("upstream".into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a name must not be empty".to_owned());
        }
        if text.chars().count() > Self::MAX_LENGTH {
            return Err(format!(
                "a name has at most {} characters",
                Self::MAX_LENGTH
            ));
        }
        if text.chars().any(char::is_control) {
            return Err("a name must not hold control characters".to_owned());
        }
        Ok(Self(text.into()))
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

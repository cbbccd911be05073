use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::source;

/// How feedback is known for our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feedback {
    /// The file of the key that signs prediction ids; left out, the process makes one up.
    pub key: Option<PathBuf>,
    /// The file of the key that was used before, whose ids are still taken.
    pub previous_key: Option<PathBuf>,
    /// How old a prediction id may be.
    pub max_age: Duration,
}

impl Feedback {
    /// Bytes of a key's file at most: what is longer is another file.
    const MAX_KEY: usize = 64 << 10;

    /// The contents of a key's file as they are now.
    ///
    /// # Errors
    /// The file cannot be read, or is too large for a key.
    pub fn read_key(path: &Path) -> io::Result<Vec<u8>> {
        source::at_most(path, Self::MAX_KEY)
    }
}

impl Default for Feedback {
    fn default() -> Self {
        Self {
            key: None,
            previous_key: None,
            // Labels of today's requests are often there tomorrow.
            max_age: Duration::from_secs(24 * 3600),
        }
    }
}

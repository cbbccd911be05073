use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::{Name, RedisUrl, Secret};

/// Where what selection has learned is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// In memory, for as long as the process lives.
    #[default]
    Memory,
    /// In a Redis that all replicas share.
    Redis(Redis),
    /// In a directory of this process.
    Directory(PathBuf),
}

/// A Redis that keeps what selection has learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redis {
    /// Where it is.
    pub url: RedisUrl,
    /// The file of its password; the URL has none then.
    pub password_file: Option<PathBuf>,
    /// The file of the authorities of its certificates; left out, the system's.
    pub ca: Option<PathBuf>,
    /// What the names of keys begin with.
    pub prefix: Name,
    /// How often differences are exchanged.
    pub interval: Duration,
    /// How long a context is remembered that nobody asks for.
    pub context_ttl: Duration,
}

impl Redis {
    /// Bytes of a password's file at most: what is longer is another file.
    pub const MAX_PASSWORD: usize = 4 << 10;
    /// What the names of keys begin with where nothing is said.
    pub const PREFIX: &str = "outrigger";
    /// Replicas agree well within a second.
    pub const INTERVAL: Duration = Duration::from_millis(250);
    /// Whoever did not come back for a month begins again with what was learned of all.
    pub const CONTEXT_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

    /// The password, of the URL or as it stands in its file now: without the end of its line.
    ///
    /// # Errors
    /// The file cannot be read, or holds no password.
    pub fn password(&self) -> io::Result<Option<Secret>> {
        let Some(path) = &self.password_file else {
            return Ok(self.url.password.clone());
        };
        let bytes = super::source::at_most(path, Self::MAX_PASSWORD)?;
        let text = String::from_utf8(bytes)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))?;
        match text.trim_end_matches(['\r', '\n']) {
            "" => Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty")),
            password => Ok(Some(Secret::new(password))),
        }
    }
}

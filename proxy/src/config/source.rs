use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustls::pki_types::UnixTime;
use thiserror::Error;

use super::resolve::Surroundings;
use super::{Config, Faults};

/// Where a configuration comes from, at the start and again at each reload.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file, and what the command line says beside it.
    File {
        /// The file.
        path: PathBuf,
        /// The address of the admin pages, if the command line names one.
        admin: Option<SocketAddr>,
    },
    /// The command line alone; it never changes.
    Flags(Box<Config>),
}

/// No configuration came of a source.
#[derive(Debug, Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file can be read and is wrong.
    #[error(transparent)]
    Faulty(#[from] Faults),
}

impl Source {
    /// The file, if there is one to watch.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File { path, .. } => Some(path),
            Self::Flags(_) => None,
        }
    }

    /// Reads the configuration as it is now; of the files that it names, none is read.
    ///
    /// # Errors
    /// The file cannot be read, or is wrong.
    pub fn read(&self) -> Result<Config, Error> {
        match self {
            Self::File { path, .. } => Ok(self.parse(contents(path)?)?),
            Self::Flags(config) => Ok(Config::clone(config)),
        }
    }

    /// Reads the configuration as it is now, and the certificates and keys that it names.
    ///
    /// # Errors
    /// The file cannot be read, it is wrong, or one of those files is.
    pub fn read_whole(&self) -> Result<Config, Error> {
        match self {
            Self::File { path, .. } => Ok(self.parse_at(Some(UnixTime::now()), &contents(path)?)?),
            Self::Flags(config) => Ok(Config::clone(config)),
        }
    }

    /// Makes the configuration of contents that the file has, or had.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn parse(&self, contents: impl AsRef<[u8]>) -> Result<Config, Faults> {
        self.parse_at(None, contents.as_ref())
    }

    fn parse_at(&self, files_at: Option<UnixTime>, contents: &[u8]) -> Result<Config, Faults> {
        match self {
            Self::File { path, admin } => {
                // Absolute: what is shown of the configuration must mean the same elsewhere.
                let whole = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                let surroundings = Surroundings {
                    folder: whole.parent().unwrap_or(Path::new("")),
                    files_at,
                };
                let config =
                    Config::read_in(surroundings, contents).and_then(|config| match admin {
                        Some(admin) => config.with_admin(*admin),
                        None => Ok(config),
                    });
                config.map_err(|faults| faults.of(path.display().to_string()))
            }
            Self::Flags(config) => Ok(Config::clone(config)),
        }
    }
}

/// Reads a file that has no more than so many bytes.
pub(super) fn at_most(path: &Path, bytes: usize) -> io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    File::open(path)?
        .take(bytes as u64 + 1)
        .read_to_end(&mut contents)?;
    match contents.len() > bytes {
        true => Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is larger than {}", super::format_size(bytes)),
        )),
        false => Ok(contents),
    }
}

/// Reads a file of no more than a little over [`Config::MAX_BYTES`]; what is larger is cut there,
/// which [`Config::read`] refuses.
pub(super) fn contents(path: &Path) -> Result<Vec<u8>, Error> {
    let mut contents = Vec::new();
    let read = File::open(path).and_then(|file| {
        file.take(Config::MAX_BYTES as u64 + 1)
            .read_to_end(&mut contents)
    });
    match read {
        Ok(_) => Ok(contents),
        Err(source) => Err(Error::Unreadable {
            path: path.to_owned(),
            source,
        }),
    }
}

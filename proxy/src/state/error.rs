use std::{fmt, io, path::PathBuf};

use ::redis::{ErrorKind, RedisError, ServerErrorKind};

/// Why what was learned could not be kept, or not be read.
#[derive(Debug)]
pub enum Error {
    /// The file of the password cannot be read.
    Password(io::Error),
    /// The file of the authorities cannot be read.
    Authorities(io::Error),
    /// Redis did not answer in time.
    Late,
    /// Redis refused, or cannot be reached.
    Redis(RedisError),
    /// Redis has a state that a newer version has written.
    Foreign(String),
    /// Redis answered with something else than the script does.
    Garbled,
    /// A file of the directory could not be read, and is not to be lost.
    Unread(PathBuf),
    /// A file of the directory cannot be written.
    Unwritable(PathBuf, io::Error),
}

impl Error {
    /// Tells whether another connection may do better: the server is gone, or is none any more that
    /// may be written to.
    pub(super) fn is_of_connection(&self) -> bool {
        match self {
            Self::Late => true,
            Self::Redis(error) => {
                !matches!(error.kind(), ErrorKind::Server(_))
                    || error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
            }
            _ => false,
        }
    }
}

impl From<RedisError> for Error {
    fn from(error: RedisError) -> Self {
        match error.is_timeout() {
            true => Self::Late,
            false => Self::Redis(error),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password(error) => write!(f, "the password's file cannot be read: {error}"),
            Self::Authorities(error) => write!(f, "the authorities' file cannot be read: {error}"),
            Self::Late => f.write_str("Redis did not answer in time"),
            Self::Redis(error) => match error.kind() {
                ErrorKind::AuthenticationFailed => {
                    write!(f, "Redis does not take the user or the password: {error}")
                }
                ErrorKind::Server(ServerErrorKind::NoPerm) => {
                    write!(f, "Redis does not let this user do what is needed: {error}")
                }
                ErrorKind::MasterNameNotFoundBySentinel => {
                    write!(f, "no sentinel knows the server by this name: {error}")
                }
                _ if error.code() == Some("NOAUTH") => {
                    write!(f, "Redis wants a password: {error}")
                }
                _ => write!(f, "Redis: {error}"),
            },
            Self::Foreign(schema) => {
                write!(
                    f,
                    "Redis has states of schema {schema}, which this version does not know"
                )
            }
            Self::Garbled => f.write_str("Redis answered with something unexpected"),
            Self::Unread(path) => write!(
                f,
                "{} could not be read and may be good: it is not written over until it is moved away",
                path.display()
            ),
            Self::Unwritable(path, error) => {
                write!(f, "{} cannot be written: {error}", path.display())
            }
        }
    }
}

impl std::error::Error for Error {}

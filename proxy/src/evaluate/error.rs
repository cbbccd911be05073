use std::{io, path::PathBuf};

use thiserror::Error;

/// Why a policy is not judged.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The call asks for what the policy does not have, or for no policy.
    #[error("{0}")]
    Misused(String),
    /// A log cannot be read.
    #[error("cannot read {}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A line makes no sense.
    #[error("{}:{line}: {fault}", .path.display())]
    Faulty {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        fault: String,
    },
    /// The logs are of several models, or not of the one that is asked for.
    #[error("{0}")]
    Model(String),
    /// There is nothing to judge by.
    #[error("there is no choice with feedback in the logs")]
    Nothing,
}

impl Error {
    /// Returns the status with which the command ends.
    pub(super) fn status(&self) -> u8 {
        match self {
            Self::Misused(_) | Self::Unreadable { .. } | Self::Model(_) => 2,
            Self::Faulty { .. } | Self::Nothing => 1,
        }
    }
}

//! Why a demonstration ends early.

use std::io;

use thiserror::Error;

use super::load::Outcome;

/// Why a demonstration ends early.
#[derive(Debug, Error)]
pub(super) enum Error {
    /// A signal asked for the end.
    #[error("interrupted")]
    Interrupted,
    /// The terminal, a socket or a thread failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The proxy did not become ready.
    #[error("not ready: {}", .0.join("; "))]
    NotReady(Vec<String>),
    /// A scene's figures would mean nothing.
    #[error("{scene}: {cause}")]
    Spoiled {
        /// The scene.
        scene: &'static str,
        /// What spoiled it.
        cause: Spoiled,
    },
}

/// What makes a scene's figures worthless.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum Spoiled {
    /// No call was answered.
    #[error("no call was answered")]
    Silent,
    /// Feedback was not taken.
    #[error("feedback was refused: {0}")]
    Untaught(String),
    /// Calls ended with an error.
    #[error("{count} calls ended with {outcome}")]
    Failed {
        /// How they ended.
        outcome: Outcome,
        /// How many of them there were.
        count: u64,
    },
}

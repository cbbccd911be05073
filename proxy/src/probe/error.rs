use std::path::PathBuf;

use outrigger_filters::{batch::Unbatchable, inference};
use thiserror::Error;

use crate::{config, tls};

/// Why a model, or one of its endpoints, was not probed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no configuration.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The certificates or keys of an upstream are faulty.
    #[error(transparent)]
    Tls(#[from] tls::Faults),
    /// The configuration does not name the model.
    #[error("the configuration names no model `{model}` ({})", said(.named))]
    NoModel {
        /// The model that was asked for.
        model: String,
        /// Those that it names.
        named: Vec<String>,
    },
    /// A file of rows cannot be read.
    #[error("cannot read {}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file of rows is no request.
    #[error("{}: {fault}", .path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// The server does not describe the model, or cannot be reached.
    #[error("the model is not described")]
    Undescribed(#[source] inference::Error),
    /// No rows can be made from what the server says of the model.
    #[error("no rows can be made: {0}")]
    NoRows(String),
    /// The model does not answer requests one by one, each for itself.
    #[error("the model {}", refusal(.0))]
    Refused(Unbatchable),
    /// The rows cannot be said in the server's protocol.
    #[error("the rows cannot be sent")]
    Unsayable(#[source] inference::Error),
    /// A row alone has no answer.
    #[error("row {row} alone has no answer{}", if *.made { HINT } else { "" })]
    NoAnswer {
        /// The row.
        row: usize,
        /// Whether it was made up.
        made: bool,
        /// The server's words, or the transport's.
        source: inference::Error,
    },
}

impl Error {
    /// Writes an error with everything that it comes of, in one line.
    pub(super) fn whole(error: &(dyn std::error::Error + 'static)) -> String {
        let mut whole = error.to_string();
        let mut next = error.source();
        while let Some(source) = next {
            let text = source.to_string();
            // Some errors repeat what they come of.
            if !whole.ends_with(&text) {
                whole = format!("{whole}: {text}");
            }
            next = source.source();
        }
        whole
    }
}

fn said(named: &[String]) -> String {
    match named {
        [] => "it names none: a line under `models:` is enough, such as `m: {}`".to_owned(),
        named => format!("it names {}", named.join(", ")),
    }
}

fn refusal(reason: &Unbatchable) -> &'static str {
    match reason {
        Unbatchable::Stateful => {
            "keeps state between the requests of a sequence: probing would change what its callers \
             are told, and it is neither batched nor cached"
        }
        Unbatchable::Decoupled => {
            "gives none or several answers to a request: it is neither batched nor cached"
        }
        _ => "cannot be asked row by row",
    }
}

const HINT: &str = " (it was made at random: `--input FILE` brings rows of the model's own kind)";

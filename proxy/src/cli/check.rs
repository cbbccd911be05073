//! `outrigger check`: everything that is wrong with a file, at once.

use std::error::Error as _;
use std::path::Path;
use std::process::ExitCode;

use crate::config::{Error, Source};

/// Prints what is wrong with the file: to standard error, one fault after the other.
///
/// The status is 0 if nothing is wrong, 1 if something is, and 2 if there is no such file to read:
/// that is a fault of the call, not of a configuration.
#[must_use]
pub fn run(file: &Path) -> ExitCode {
    let source = Source::File {
        path: file.to_owned(),
        admin: None,
    };
    match source.read() {
        Ok(config) => {
            println!(
                "{}: no faults (listeners: {}, upstreams: {}, models: {})",
                file.display(),
                config.listeners.len(),
                config.upstreams.len(),
                config.models.len(),
            );
            ExitCode::SUCCESS
        }
        Err(Error::Faulty(faults)) => {
            eprintln!("{faults}");
            match faults.count() {
                1 => eprintln!("1 fault"),
                count => eprintln!("{count} faults"),
            }
            ExitCode::from(FAULTY)
        }
        Err(error @ Error::Unreadable { .. }) => {
            match error.source() {
                Some(source) => eprintln!("{error}: {source}"),
                None => eprintln!("{error}"),
            }
            ExitCode::from(MISUSED)
        }
    }
}

const FAULTY: u8 = 1;
const MISUSED: u8 = 2;

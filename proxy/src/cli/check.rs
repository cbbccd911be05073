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
    match check(file) {
        Ok(praise) => {
            println!("{praise}");
            ExitCode::SUCCESS
        }
        Err((status, complaint)) => {
            eprintln!("{complaint}");
            ExitCode::from(status)
        }
    }
}

/// What to print; beside a complaint, the status.
fn check(file: &Path) -> Result<String, (u8, String)> {
    let source = Source::File {
        path: file.to_owned(),
        admin: None,
    };
    match source.read_whole() {
        Ok(config) => Ok(format!(
            "{}: no faults (listeners: {}, upstreams: {}, models: {})",
            file.display(),
            config.listeners.len(),
            config.upstreams.len(),
            config.models.len(),
        )),
        Err(Error::Faulty(faults)) => {
            let plural = if faults.count() == 1 { "" } else { "s" };
            Err((
                FAULTY,
                format!("{faults}\n{} fault{plural}", faults.count()),
            ))
        }
        Err(error @ Error::Unreadable { .. }) => {
            let reason = error
                .source()
                .map(|source| format!(": {source}"))
                .unwrap_or_default();
            Err((MISUSED, format!("{error}{reason}")))
        }
    }
}

const FAULTY: u8 = 1;
const MISUSED: u8 = 2;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const FAULTLESS: &str = "{listeners: [{address: '127.0.0.1:1', upstream: u}],
        upstreams: {u: {protocol: oip-grpc, endpoints: ['http://h:1']}}}";

    #[test]
    fn a_faultless_file_ends_with_0_a_faulty_one_with_1_and_a_missing_one_with_2() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("config.yaml");

        fs::write(&file, FAULTLESS).expect("a file");
        let praise = check(&file).expect("no faults");
        assert!(
            praise.ends_with("no faults (listeners: 1, upstreams: 1, models: 0)"),
            "{praise}"
        );

        fs::write(&file, FAULTLESS.replace("address", "adress")).expect("a file");
        let (status, complaint) = check(&file).expect_err("faults");
        assert_eq!(status, 1);
        assert!(
            complaint.starts_with(&format!("{}:1:14: ", file.display())),
            "{complaint}"
        );
        assert!(complaint.ends_with("\n2 faults"), "{complaint}");

        fs::remove_file(&file).expect("a file");
        let (status, complaint) = check(&file).expect_err("nothing to read");
        assert_eq!(status, 2);
        assert!(complaint.starts_with("cannot read "), "{complaint}");
    }
}

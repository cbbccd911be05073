//! The command line of `outrigger`.
//!
//! What is misused ends with status 2, by clap's hand or by ours; what is wrong in a file, with 1.

pub mod check;
mod demo;
mod evaluate;
mod probe;
mod run;
pub mod schema;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub use self::demo::Demo;
pub use self::evaluate::{Evaluate, Weight};
pub use self::probe::{Dim, Probe};
pub use self::run::Run;

/// A transparent sidecar proxy for model servers.
#[derive(Clone, Debug, Parser)]
#[command(name = "outrigger", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the binary can be told to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Serves; SIGTERM drains, SIGHUP reloads the file.
    Run(Run),
    /// Prints everything that is wrong with a configuration file.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Prints the JSON Schema of the configuration.
    Schema,
    /// Tells whether a model's answers stay the same when rows are batched or cached.
    Probe(Probe),
    /// Tells what another policy of selection would have lost, by the log of what one chose.
    Evaluate(Evaluate),
    /// Shows what batching does, with models and load of its own.
    Demo(Demo),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::config::{Protocol, Source};

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    fn run(line: &str) -> Run {
        match parse(line).expect("a command line").command {
            Command::Run(run) => run,
            other => panic!("not run: {other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn misuse_ends_with_status_2() {
        for line in [
            "outrigger",
            "outrigger fly",
            "outrigger check",
            "outrigger run",
            "outrigger run --listen 127.0.0.1:1",
            "outrigger run --upstream http://127.0.0.1:1",
            "outrigger run --admin 127.0.0.1:1",
            "outrigger run --config a --listen 127.0.0.1:1 --upstream http://127.0.0.1:2",
            "outrigger run --config a --protocol oip-rest",
            "outrigger run --listen nowhere --upstream http://127.0.0.1:2",
            "outrigger run --listen 127.0.0.1:1 --upstream 127.0.0.1:2",
            "outrigger run --listen 127.0.0.1:1 --upstream http://h:2 --protocol grpc",
            "outrigger demo --seconds 0",
            "outrigger probe m",
            "outrigger probe --config a",
            "outrigger probe --config a m --rows 0",
            "outrigger probe --config a m --repeat 1",
            "outrigger probe --config a m --dim x=none",
            "outrigger probe --config a m --tolerance -1",
            "outrigger probe --config a m --timeout soon",
            "outrigger probe --config a m --input f --rows 3",
            "outrigger evaluate --policy fixed",
            "outrigger evaluate --log a",
            "outrigger evaluate --log a --policy exp3 --learning-rate -1",
            "outrigger evaluate --log a --policy exp3 --exploration 2",
            "outrigger evaluate --log a --policy fixed --weight svm",
            "outrigger evaluate --log a --policy fixed --weight svm=x",
        ] {
            assert_eq!(parse(line).expect_err(line).exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn running_without_anything_to_run_says_what_to_give() {
        let help = parse("outrigger run").expect_err("misuse").to_string();
        assert!(help.contains("--config <FILE>|--listen <ADDR>"), "{help}");
    }

    #[test]
    fn a_drop_in_needs_no_file() {
        let run =
            run("outrigger run --listen 127.0.0.1:0 --upstream http://h:8000 --protocol oip-rest");
        let Ok(Source::Flags(config)) = run.source() else {
            panic!("flags")
        };
        let upstream = config.upstreams.get("upstream").expect("the upstream");
        assert_eq!(upstream.protocol, Protocol::OipRest);
        assert_eq!(config.listeners.len(), 1);
        assert_eq!(config.admin, None);
    }

    #[test]
    fn the_admin_flag_goes_before_the_file() {
        let run = run("outrigger run --config a.yaml --admin 127.0.0.1:9");
        let source = run.source().expect("a source");
        let text =
            "{listeners: [{address: '127.0.0.1:1', upstream: u}], admin: {address: '127.0.0.1:2'},
            upstreams: {u: {protocol: oip-grpc, endpoints: ['http://h:1']}}}";
        let admin = source
            .parse(text)
            .expect("a configuration")
            .admin
            .expect("an admin");
        assert_eq!(admin.address.port(), 9);
    }

    #[test]
    fn two_flags_for_one_address_are_a_fault() {
        let run =
            run("outrigger run --listen 127.0.0.1:1 --upstream http://h:1 --admin 127.0.0.1:1");
        let faults = run.source().expect_err("a fault").to_string();
        assert_eq!(faults, "--admin: a listener has 127.0.0.1:1 already");
    }

    #[test]
    fn the_version_can_be_asked_for() {
        let shown = parse("outrigger --version").expect_err("the version");
        assert_eq!(
            shown.to_string(),
            format!("outrigger {}\n", env!("CARGO_PKG_VERSION"))
        );
        assert_eq!(shown.exit_code(), 0);
    }
}

//! `cargo run --release -p outrigger-tests --bin bench -- passthrough | batching`: see
//! `tests/bench/README.md`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use outrigger_tests::bench::peers::Peer;
use outrigger_tests::bench::{Result, passthrough, upstream};

/// Measures Outrigger against its peers, and batching against none.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What it costs to pass a call through: direct, nginx, HAProxy, Outrigger
    Passthrough {
        /// Interleaved repeats; the medians are shown
        #[arg(long, default_value_t = 5)]
        repeats: usize,
        /// A tenth of the calls and two repeats: to see that it works
        #[arg(long)]
        quick: bool,
        /// Peers to leave out
        #[arg(long)]
        without: Vec<Peer>,
        #[command(flatten)]
        common: Common,
    },
    /// Answers calls cheaply until stdin ends
    #[command(hide = true)]
    Upstream,
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Write the figures to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Outrigger's binary [default: beside this one, or $OUTRIGGER]
    #[arg(long)]
    outrigger: Option<PathBuf>,
}

impl Common {
    fn outrigger(&self) -> Option<PathBuf> {
        self.outrigger
            .clone()
            .or_else(|| std::env::var_os("OUTRIGGER").map(PathBuf::from))
    }

    fn write(&self, figures: &serde_json::Value) -> Result<()> {
        if let Some(file) = &self.json {
            std::fs::write(file, serde_json::to_string_pretty(figures)? + "\n")?;
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Passthrough {
            repeats,
            quick,
            without,
            common,
        } => {
            let folder = Folder::new()?;
            let figures = passthrough::run(&passthrough::Options {
                repeats: if quick { 2 } else { repeats },
                divisor: if quick { 10 } else { 1 },
                without,
                outrigger: common.outrigger(),
                folder: folder.0.clone(),
            })?;
            common.write(&figures)
        }
        Command::Upstream => Ok(upstream::serve()?),
    }
}

/// A folder that goes with us.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("outrigger-bench-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

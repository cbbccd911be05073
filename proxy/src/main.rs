//! The binary `outrigger`.

use std::process::ExitCode;

use clap::Parser as _;
use outrigger::{
    app,
    cli::{self, Cli, Command},
    evaluate, probe, telemetry,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(run) => {
            // A heap of a few megabytes in pages of two: 5 MB more resident for nothing. Where the
            // system does not know the setting, it has no such pages.
            let _ = rustix::thread::disable_transparent_huge_pages(true);
            telemetry::init_log();
            match run.source() {
                Ok(source) => app::run(&source).into(),
                Err(faults) => {
                    eprintln!("{faults}");
                    ExitCode::from(2)
                }
            }
        }
        Command::Check { file } => cli::check::run(&file),
        Command::Probe(options) => probe::run(&options),
        Command::Evaluate(options) => evaluate::run(&options),
        Command::Schema => cli::schema::run(),
        #[cfg(feature = "demo")]
        Command::Demo(demo) => outrigger::demo::run(&demo),
        #[cfg(not(feature = "demo"))]
        Command::Demo(_) => {
            eprintln!("the demo is not in this build: the feature `demo` was left out");
            ExitCode::from(2)
        }
    }
}

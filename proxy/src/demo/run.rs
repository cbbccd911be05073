//! From the first line to the table.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use super::{
    acts::batching,
    error::Error,
    screen::Screen,
    stage::{self, Stage},
    table::Table,
};
use crate::cli::Demo;

/// Shows it all, and ends with a table.
///
/// The status is 0 if the figures mean something, 1 if not, and 130 after Ctrl-C.
#[must_use]
pub fn run(demo: &Demo) -> ExitCode {
    log();
    match perform(demo) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Interrupted) => ExitCode::from(INTERRUPTED),
        // A reader that has seen enough, such as `head`, is no failure.
        Err(Error::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outrigger demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn perform(demo: &Demo) -> Result<(), Error> {
    if !demo.headless {
        writeln!(io::stdout(), "{BEGIN}")?;
    }
    let model = stage::model();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let tables = runtime.block_on(async {
        let mut stage = Stage::set(model, Screen::open(demo.headless)?).await?;
        let played = play(&mut stage, Duration::from_secs(demo.seconds.get())).await;
        // In any case: nothing shall be left behind.
        stage.clear().await;
        played
    })?;
    let mut out = io::stdout().lock();
    for table in tables {
        writeln!(out, "{table}")?;
    }
    out.flush()?;
    Ok(())
}

/// Plays the acts one after the other; they share the time.
async fn play(stage: &mut Stage, lasting: Duration) -> Result<Vec<Table>, Error> {
    stage.ready().await?;
    Ok(vec![batching::play(stage, lasting).await?])
}

/// Logs what went wrong and no more: the screen belongs to the figures.
fn log() {
    let warnings = EnvFilter::builder().with_default_directive(LevelFilter::WARN.into());
    // Where somebody logs already, that is what is wanted.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(warnings.from_env_lossy())
        .with_writer(io::stderr)
        .try_init();
}

const BEGIN: &str = "Outrigger's demo: trains a model on 1000 images of handwritten digits\n";

/// What shells know as the end by SIGINT.
const INTERRUPTED: u8 = 130;

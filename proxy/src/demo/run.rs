//! From the first line to the table.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use outrigger_native::digits::{self, Classifier, Kind};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use super::{
    acts::{batching, selection},
    error::Error,
    interrupt::Interrupt,
    screen::Screen,
    stage::Stage,
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
    let models = digits::classifiers();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let lasting = Duration::from_secs(demo.seconds.get());
    let screen = Screen::open(demo.headless)?;
    let tables = runtime.block_on(play(&models, lasting, screen))?;
    let mut out = io::stdout().lock();
    for table in tables {
        writeln!(out, "{table}")?;
    }
    out.flush()?;
    Ok(())
}

/// Plays the acts one after the other; they share the time.
async fn play(
    models: &[Classifier],
    lasting: Duration,
    screen: Screen,
) -> Result<Vec<Table>, Error> {
    let mut watching = (screen, Interrupt::new()?);
    let mut tables = Vec::new();
    let best = models.iter().find(|model| model.name() == Kind::Svc.name());
    if let Some(best) = best {
        let model = batching::dress(best.clone());
        let configuration = |port| batching::configuration(model.name(), port);
        let mut stage = Stage::set(vec![model.clone()], configuration, watching).await?;
        let played = match stage.ready().await {
            Ok(()) => batching::play(&mut stage, &model, lasting / 2).await,
            Err(error) => Err(error),
        };
        // In any case: nothing shall be left behind.
        watching = stage.clear().await;
        tables.push(played?);
    }
    let configuration = |port| selection::configuration(models, port);
    let mut stage = Stage::set(models.to_vec(), configuration, watching).await?;
    let played = match stage.ready().await {
        Ok(()) => selection::play(&mut stage, lasting / 2).await,
        Err(error) => Err(error),
    };
    stage.clear().await;
    tables.push(played?);
    Ok(tables)
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

const BEGIN: &str = "Outrigger's demo: trains models on images of handwritten digits\n";

/// What shells know as the end by SIGINT.
const INTERRUPTED: u8 = 130;

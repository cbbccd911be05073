//! Serves native model containers from the command line.

mod args;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use outrigger_native::{Server, digits};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Args, USAGE};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("outrigger-native: {error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if args.help {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match serve(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outrigger-native: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: Args) -> Result<(), Box<dyn Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let builder = Server::builder().models(args.synthetic);
    let mut classifiers = digits::forests(args.forests);
    if args.digits {
        classifiers.extend(digits::classifiers());
    }
    if args.dialects {
        classifiers.extend(digits::dialects());
    }
    let builder = builder.models(classifiers.into_iter().enumerate().map(|(number, model)| {
        model
            .with_overhead(args.overhead)
            .with_labour(args.labour)
            .with_concurrency(args.concurrency)
            .with_faults(args.stragglers.clone())
            // Alike, they would all straggle at the same time.
            .with_seed((number as u64 + 1) << 16)
    }));
    // One thread is the one we are on.
    let builder = if args.threads > 1 {
        builder.threads(args.threads)
    } else {
        builder
    };
    let server = builder.bind(&args.listen).await?;
    let address = server.address();
    if let Some(file) = &args.port_file {
        // Whoever waits for the file must never read half of it.
        let unfinished = file.with_extension("unfinished");
        std::fs::write(&unfinished, address.port().to_string())?;
        std::fs::rename(&unfinished, file)?;
    }
    writeln!(io::stdout(), "listening on {address}")?;
    tokio::select! {
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    server.stop().await;
    Ok(())
}

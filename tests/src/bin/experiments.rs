//! `cargo run --release -p outrigger-tests --bin experiments -- fig3 | … | fig8 | fig9 | fig10 | scale | all`: see
//! `tests/experiments/README.md`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use outrigger_tests::bench::Result;
use outrigger_tests::bench::curves::Curve;
use outrigger_tests::experiments::{
    Findings, Options, confidence, contexts, delay, fleet, profile, replicas, selection,
    stragglers, throughput,
};

/// Makes the figures of the Clipper paper again: numbers, plots, and rows beside the paper's.
#[derive(Debug, Parser)]
struct Cli {
    /// Which of them
    #[arg(required = true)]
    figures: Vec<Figure>,
    /// Less than a minute each: to see that it works
    #[arg(long)]
    quick: bool,
    /// Where numbers (JSON) and plots (SVG) go [default: tests/experiments/results; for quick ones
    /// `experiments` beside this binary]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Curves of synthetic models [default: all six, fewer for quick ones]
    #[arg(long, value_parser = curve)]
    curve: Vec<Curve>,
    /// How many times slower than the paper's curve and objective [default: what the figure needs]
    #[arg(long)]
    scale: Option<f64>,
    /// Medians are taken over so many repeats [default: 5, quick ones 1]
    #[arg(long)]
    repeats: Option<usize>,
    /// Means of what learns are taken over so many seeds [default: 10, quick ones 2]
    #[arg(long)]
    seeds: Option<usize>,
    /// Settings of selection to try in place of the usual ones, such as "policy: exp4, share: 0.1"
    #[arg(long)]
    selection: Vec<String>,
    /// Sizes of fig9's ensembles, at most 20 [default: 1, 2, 4, 8, 12, 16, 20]
    #[arg(long)]
    size: Vec<usize>,
    /// Cases of fig9 by a part of their name, such as "overload" [default: all]
    #[arg(long)]
    case: Vec<String>,
    /// The native digit models too
    #[arg(long)]
    digits: bool,
    /// A Triton too: a running one's gRPC address, or a script that starts one (tests/servers/triton)
    #[arg(long)]
    triton: Option<String>,
    /// Outrigger's binary [default: beside this one, or $OUTRIGGER]
    #[arg(long)]
    outrigger: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Figure {
    /// Latency of a call by its rows
    Fig3,
    /// Throughput by the way of batching, and batches from a cold start
    Fig4,
    /// Waiting for company
    Fig5,
    /// Replicas of a model
    Fig6,
    /// Ensembles and confidence
    Fig7,
    /// A policy when the best model breaks
    Fig8,
    /// Ensembles with a deadline
    Fig9,
    /// A state for each user
    Fig10,
    /// Replicas of the proxy that share what they learn, on a virtual clock
    Scale,
    /// All of them
    All,
}

type Experiment = fn(&Options) -> Result<Findings>;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("experiments: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let out = match &cli.out {
        Some(out) => out.clone(),
        None if cli.quick => std::env::current_exe()?.with_file_name("experiments-quick"),
        None => PathBuf::from(RESULTS),
    };
    let told = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
    let options = Options {
        curves: curves(&cli),
        scale: cli.scale,
        repeats: cli.repeats.unwrap_or(if cli.quick { 1 } else { 5 }).max(1),
        seeds: cli.seeds.unwrap_or(if cli.quick { 2 } else { 10 }).max(1),
        selections: cli.selection.clone(),
        sizes: cli.size.clone(),
        cases: cli.case.clone(),
        quick: cli.quick,
        digits: cli.digits,
        triton: cli.triton,
        outrigger: cli.outrigger.or_else(|| told("OUTRIGGER")),
        folder: folder.path().to_owned(),
    };
    std::fs::create_dir_all(&out)?;
    let wanted = |figure| cli.figures.contains(&figure) || cli.figures.contains(&Figure::All);
    let experiments: [(Figure, &str, Experiment); 9] = [
        (Figure::Fig3, "fig3", profile::run),
        (Figure::Fig4, "fig4", throughput::run),
        (Figure::Fig5, "fig5", delay::run),
        (Figure::Fig6, "fig6", replicas::run),
        (Figure::Fig7, "fig7", confidence::run),
        (Figure::Fig8, "fig8", selection::run),
        (Figure::Fig9, "fig9", stragglers::run),
        (Figure::Fig10, "fig10", contexts::run),
        (Figure::Scale, "scale", fleet::run),
    ];
    for (figure, name, experiment) in experiments {
        if !wanted(figure) {
            continue;
        }
        let found = experiment(&options)?;
        let text = serde_json::to_string(&found.figures)? + "\n";
        std::fs::write(out.join(format!("{name}.json")), text)?;
        for (name, picture) in found.pictures {
            let file = out.join(format!("{name}.svg"));
            std::fs::write(&file, picture.to_string())?;
            println!("drawn: {}", file.display());
        }
    }
    Ok(())
}

fn curves(cli: &Cli) -> Vec<Curve> {
    if !cli.curve.is_empty() {
        return cli.curve.clone();
    }
    let quick = |curve: &Curve| QUICK_CURVES.contains(&curve.name);
    let all = Curve::ALL.into_iter();
    all.filter(|curve| !cli.quick || quick(curve) || cli.figures == [Figure::Fig3])
        .collect()
}

fn curve(name: &str) -> std::result::Result<Curve, String> {
    Curve::named(name).ok_or_else(|| {
        let known = Curve::ALL.map(|curve| curve.name).join(", ");
        format!("known are {known}")
    })
}

/// Where the results that are committed stand.
const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/experiments/results");
/// One that batches pay for and one that they do not.
const QUICK_CURVES: [&str; 2] = ["linear_svm", "kernel_svm"];

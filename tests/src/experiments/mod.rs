//! The figures of the Clipper paper (NSDI 2017), made again with Outrigger.
//!
//! `tests/experiments/README.md` says what each shows and how to run it.

pub mod admin;
pub mod ahead;
pub mod arms;
pub mod confidence;
pub mod containers;
pub mod contexts;
pub mod delay;
pub mod fit;
pub mod fleet;
pub mod plot;
pub mod profile;
pub mod random;
pub mod replicas;
pub mod scale;
pub mod selection;
pub mod stragglers;
pub mod subject;
pub mod throughput;
pub mod trace;

use std::path::PathBuf;

use serde_json::Value;

use crate::bench::curves::Curve;
use crate::bench::demand::Effort;
use plot::Sheet;

/// What is measured, and how thoroughly.
#[derive(Clone, Debug)]
pub struct Options {
    /// The synthetic models.
    pub curves: Vec<Curve>,
    /// How many times slower than the paper's they are; if left out, as each experiment needs it.
    pub scale: Option<f64>,
    /// Medians are taken over so many repeats.
    pub repeats: usize,
    /// Means are taken over so many seeds, where there are any.
    pub seeds: usize,
    /// Settings of selection to try in place of the usual ones, as in a configuration.
    pub selections: Vec<String>,
    /// Sizes of ensembles; if none, as the experiment has them.
    pub sizes: Vec<usize>,
    /// Parts of the names of cases; if none, all.
    pub cases: Vec<String>,
    /// Shows that all works; the figures are not for quoting.
    pub quick: bool,
    /// Whether the native digit models take part.
    pub digits: bool,
    /// A running Triton's gRPC address, or a script that starts one.
    pub triton: Option<String>,
    /// Outrigger's binary, if it is not beside this one.
    pub outrigger: Option<PathBuf>,
    /// Where configurations and logs go.
    pub folder: PathBuf,
}

/// What an experiment has found.
#[derive(Clone, Debug)]
pub struct Findings {
    /// All numbers.
    pub figures: Value,
    /// Pictures of them, by name.
    pub pictures: Vec<(&'static str, Sheet)>,
}

impl Options {
    fn effort(&self) -> Effort {
        if self.quick {
            Effort {
                objectives: 10.0,
                resolution: 1.08,
                ..Effort::QUICK
            }
        } else {
            Effort::THOROUGH
        }
    }
}

/// The lowest, the middle and the highest of some repeats.
fn spread(figures: &[f64]) -> (f64, f64, f64) {
    let low = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let high = figures.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (
        low,
        crate::bench::table::median(figures.iter().copied()),
        high,
    )
}

/// The mean of some figures; of none it is not a number.
fn mean(figures: impl IntoIterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for figure in figures {
        sum += figure;
        count += 1.0;
    }
    sum / count
}

/// Writes a share with so many decimals, and nothing before the point.
fn decimals(share: f64, decimals: usize) -> String {
    match share.is_finite() {
        true => format!("{share:.decimals$}")
            .trim_start_matches('0')
            .to_owned(),
        false => "-".to_owned(),
    }
}

/// The figure that this share of all figures does not exceed; of none it is not a number.
fn quantile(figures: &[f64], share: f64) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_unstable_by(f64::total_cmp);
    let last = figures.len().saturating_sub(1);
    let index = (share * figures.len() as f64).ceil() as usize;
    figures
        .get(index.saturating_sub(1).min(last))
        .copied()
        .unwrap_or(f64::NAN)
}

/// Writes a figure without digits that say nothing.
fn short(figure: f64) -> String {
    match figure.abs() {
        _ if !figure.is_finite() => "-".to_owned(),
        size if size >= 100.0 => format!("{figure:.0}"),
        size if size >= 10.0 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_have_a_middle_and_ends() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), (1.0, 2.0, 3.0));
    }

    #[test]
    fn a_share_is_written_from_its_point_on() {
        assert_eq!(decimals(0.0496, 3), ".050");
        assert_eq!(decimals(1.0, 3), "1.000");
        assert_eq!(decimals(mean([]), 3), "-");
        assert_eq!(mean([1.0, 2.0, 6.0]), 3.0);
    }

    #[test]
    fn the_quantile_is_one_of_the_figures() {
        let figures: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(quantile(&figures, 0.99), 99.0);
        assert_eq!(quantile(&figures, 0.5), 50.0);
        assert_eq!(quantile(&figures, 1.0), 100.0);
        assert_eq!(quantile(&[7.0], 0.01), 7.0);
        assert!(quantile(&[], 0.5).is_nan());
    }
}

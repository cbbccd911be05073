use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use crate::config::parse_duration;

/// Arguments of `probe`.
#[derive(Args, Clone, Debug)]
pub struct Probe {
    /// The configuration that names the model.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The model, by the name that clients send.
    pub model: String,
    /// Rows to ask with, in place of random ones: a JSON request of the Open Inference Protocol;
    /// may be given several times.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rows", "dim"])]
    pub input: Vec<PathBuf>,
    /// How many random rows to ask with.
    #[arg(long, value_name = "N", default_value = "16")]
    pub rows: NonZeroUsize,
    /// How long the open dimensions of random rows are: of all inputs, or of one.
    #[arg(long, value_name = "[INPUT=]N")]
    pub dim: Vec<Dim>,
    /// Where random rows and orders begin.
    #[arg(long, value_name = "N", default_value = "1")]
    pub seed: u64,
    /// How often the same is asked.
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(2..))]
    pub repeat: u32,
    /// How far apart answers in floating point may lie: a share of what their column holds.
    #[arg(long, value_name = "REL", default_value = "1e-5", value_parser = tolerance)]
    pub tolerance: f64,
    /// How long a call may take.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Prints JSON.
    #[arg(long)]
    pub json: bool,
}

/// The length of open dimensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dim {
    /// The input whose dimensions they are; left out, those of all.
    pub input: Option<String>,
    /// The length.
    pub length: NonZeroUsize,
}

impl FromStr for Dim {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A number holds no sign of equality, and a name might.
        let (input, length) = match text.rsplit_once('=') {
            Some((input, length)) => (Some(input.to_owned()), length),
            None => (None, text),
        };
        let length = length
            .parse()
            .map_err(|_| format!("`{length}` is no length of a dimension"))?;
        Ok(Self { input, length })
    }
}

fn tolerance(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|tolerance: &f64| tolerance.is_finite() && *tolerance >= 0.)
        .ok_or_else(|| "a tolerance is a number that is not negative".to_owned())
}

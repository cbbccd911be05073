use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

/// Arguments of `evaluate`.
#[derive(Args, Clone, Debug)]
pub struct Evaluate {
    /// The logs of a model's selection, in any order.
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub log: Vec<PathBuf>,
    /// The policy that is judged: fixed, epsilon-greedy, exp3 or thompson.
    #[arg(long, value_name = "POLICY")]
    pub policy: String,
    /// The model, where the logs are of several.
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// The weight of an arm; 1 where it is left out.
    #[arg(long, value_name = "ARM=W")]
    pub weight: Vec<Weight>,
    /// The share of choices that are made evenly (epsilon-greedy).
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub epsilon: Option<f64>,
    /// How fast weights fall (exp3).
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub learning_rate: Option<f64>,
    /// The share of choices that are made evenly (exp3).
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub exploration: Option<f64>,
    /// What each update gives of the weights evenly to all arms (exp3).
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub share: Option<f64>,
    /// What a loss still counts after another one (epsilon-greedy, thompson).
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub discount: Option<f64>,
    /// Learns one state for all callers.
    #[arg(long)]
    pub ignore_context: bool,
    /// Prints JSON.
    #[arg(long)]
    pub json: bool,
}

/// The weight of an arm.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// Its name.
    pub arm: String,
    /// Its weight.
    pub weight: f64,
}

impl FromStr for Weight {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A number holds no sign of equality, and a name might.
        let (arm, weight) = text
            .rsplit_once('=')
            .ok_or_else(|| format!("`{text}` is no arm, `=` and a weight"))?;
        let weight = rate(weight).map_err(|_| format!("`{weight}` is no weight of an arm"))?;
        Ok(Self {
            arm: arm.to_owned(),
            weight,
        })
    }
}

fn share(text: &str) -> Result<f64, String> {
    number(text, 1.).ok_or_else(|| "a share is a number from 0 to 1".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    number(text, f64::MAX).ok_or_else(|| "a number that is not negative is expected".to_owned())
}

fn number(text: &str, most: f64) -> Option<f64> {
    let number = text.parse().ok()?;
    (0. ..=most).contains(&number).then_some(number)
}

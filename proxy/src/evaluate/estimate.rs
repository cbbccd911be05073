use super::replay::{Asked, Judged};

/// A mean loss, and between which bounds it lies in 95 of 100 cases.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// The bounds.
    pub interval: (f64, f64),
}

/// What a policy would have lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimates {
    /// What the logged policy lost.
    pub logged: Estimate,
    /// By inverse propensity.
    pub ips: Estimate,
    /// The same, over the sum of the weights.
    pub self_normalised: Estimate,
    /// Doubly robust.
    pub doubly_robust: Estimate,
    /// As many choices of the policy's own would tell as much.
    pub effective: f64,
    /// The greatest weight of one choice.
    pub greatest_weight: f64,
    /// The share of the policy's choices that the logged one never made.
    pub not_covered: f64,
}

/// What one choice says.
#[derive(Clone, Copy, Debug)]
struct Sample {
    logged: f64,
    weight: f64,
    loss: f64,
    doubly_robust: f64,
    not_covered: f64,
}

/// Estimates what a policy would have lost at these choices; there must be one.
pub(super) fn estimate(judged: &[Judged]) -> Estimates {
    let samples: Vec<Sample> = judged.iter().map(sample).collect();
    let of = |value: fn(&Sample) -> f64| mean(samples.iter().map(value));
    let sum = |value: fn(&Sample) -> f64| samples.iter().map(value).sum::<f64>();
    let weights = sum(|sample| sample.weight);
    let squares = sum(|sample| sample.weight * sample.weight);
    Estimates {
        logged: of(|sample| sample.logged),
        ips: of(|sample| sample.weight * sample.loss),
        self_normalised: self_normalised(&samples, weights),
        doubly_robust: of(|sample| sample.doubly_robust),
        effective: if squares > 0. {
            weights * weights / squares
        } else {
            0.
        },
        greatest_weight: samples
            .iter()
            .map(|sample| sample.weight)
            .fold(0., f64::max),
        not_covered: sum(|sample| sample.not_covered) / samples.len() as f64,
    }
}

fn sample(judged: &Judged) -> Sample {
    let pairs = || judged.target.iter().zip(&judged.expected);
    let expected: f64 = pairs().map(|(share, loss)| share * loss).sum();
    match &judged.asked {
        Asked::One {
            arm,
            probability,
            loss,
        } => {
            let weight = judged.target[*arm] / probability;
            let never = judged.target.iter().zip(&judged.logged);
            let never = never.filter(|(_, logged)| **logged <= 0.);
            Sample {
                logged: *loss,
                weight,
                loss: *loss,
                doubly_robust: expected + weight * (loss - judged.expected[*arm]),
                not_covered: never.map(|(target, _)| target).sum(),
            }
        }
        Asked::All(losses) => {
            // Of an arm that was left out, what it is expected to lose.
            let known = || losses.iter().zip(&judged.expected);
            let loss = |shares: &[f64]| -> f64 {
                let losses = known().map(|(loss, expected)| loss.unwrap_or(*expected));
                shares
                    .iter()
                    .zip(losses)
                    .map(|(share, loss)| share * loss)
                    .sum()
            };
            let told = loss(&judged.target);
            Sample {
                logged: loss(&judged.logged),
                weight: 1.,
                loss: told,
                doubly_robust: told,
                not_covered: 0.,
            }
        }
    }
}

/// The mean of numbers that are drawn independently of each other, or each by what the ones before
/// have told.
fn mean(values: impl Iterator<Item = f64> + Clone) -> Estimate {
    let count = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / count;
    let squares: f64 = values.map(|value| (value - mean).powi(2)).sum();
    Estimate::new(mean, (squares / (count * (count - 1.).max(1.))).sqrt())
}

/// The ratio of two means, whose error is that of its linear part.
fn self_normalised(samples: &[Sample], weights: f64) -> Estimate {
    if weights <= 0. {
        return Estimate::new(0., f64::INFINITY);
    }
    let losses = samples.iter().map(|sample| sample.weight * sample.loss);
    let mean = losses.sum::<f64>() / weights;
    let errors = samples
        .iter()
        .map(|sample| (sample.weight * (sample.loss - mean)).powi(2));
    Estimate::new(mean, errors.sum::<f64>().sqrt() / weights)
}

impl Estimate {
    fn new(mean: f64, error: f64) -> Self {
        let bound = |bound: f64| bound.clamp(0., 1.);
        Self {
            mean,
            interval: (bound(mean - WIDTH * error), bound(mean + WIDTH * error)),
        }
    }

    /// Returns how wide the interval is.
    pub fn width(&self) -> f64 {
        self.interval.1 - self.interval.0
    }
}

/// 95 of 100 normally distributed numbers are so many standard deviations from the mean.
const WIDTH: f64 = 1.96;

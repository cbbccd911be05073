use std::{
    error::Error as _,
    io::{self, Write as _},
    process::ExitCode,
};

use bytestring::ByteString;
use outrigger_filters::select::{Arm, Config, Policy, Selector};

use super::{
    Error, Report,
    estimate::estimate,
    read::read,
    replay::{Judged, Replay},
};
use crate::cli::Evaluate;

/// Judges a policy, and prints what was found.
#[must_use]
pub fn run(options: &Evaluate) -> ExitCode {
    match evaluate(options) {
        Ok(report) => {
            let mut out = io::stdout().lock();
            let written = if options.json {
                writeln!(out, "{:#}", report.json())
            } else {
                write!(out, "{report}")
            };
            match written {
                // A reader that has seen enough, such as `head`, is no failure.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    eprintln!("the report cannot be written: {error}");
                    ExitCode::from(2)
                }
                _ => ExitCode::SUCCESS,
            }
        }
        Err(error) => {
            let reason = error.source().map(|source| format!(": {source}"));
            eprintln!("{error}{}", reason.unwrap_or_default());
            ExitCode::from(error.status())
        }
    }
}

/// Judges a policy by logs.
///
/// # Errors
///
/// Fails where the call, or a log, makes no sense, or where there is nothing to judge by.
pub fn evaluate(options: &Evaluate) -> Result<Report, Error> {
    let policy = options.policy().map_err(Error::Misused)?;
    let log = read(&options.log, options.model.as_deref())?;
    let mut arms: Vec<Arm> = log.arms.iter().cloned().map(Arm::new).collect();
    for weight in &options.weight {
        let arm = arms.iter_mut().find(|arm| arm.name == *weight.arm);
        let arm = arm.ok_or_else(|| {
            let names: Vec<&str> = log.arms.iter().map(|name| &**name).collect();
            let (arm, names) = (&weight.arm, names.join(", "));
            Error::Misused(format!(
                "--weight: no arm {arm} is in the logs, but {names}"
            ))
        })?;
        arm.weight = weight.weight;
    }
    if arms.iter().all(|arm| arm.weight <= 0.) {
        let words = "--weight: one arm needs a weight above 0";
        return Err(Error::Misused(words.to_owned()));
    }
    let config = Config {
        policy,
        ..Config::default()
    };
    let selector = Selector::new(&config, &arms);
    let judged = Replay::new(&log, selector, !options.ignore_context).run();
    if judged.is_empty() {
        return Err(Error::Nothing);
    }
    Ok(Report {
        policy,
        choices: log.choices.len(),
        judged: judged.len(),
        orphans: log.orphans,
        unfinished: log.unfinished,
        estimates: estimate(&judged),
        arms: probabilities(&log.arms, &judged),
        model: log.model,
    })
}

/// Returns the mean probabilities of the arms.
fn probabilities(arms: &[ByteString], judged: &[Judged]) -> Vec<(ByteString, f64, f64)> {
    let count = judged.len() as f64;
    let mean = |of: &dyn Fn(&Judged) -> f64| judged.iter().map(of).sum::<f64>() / count;
    arms.iter()
        .enumerate()
        .map(|(arm, name)| {
            let logged = mean(&|judged| judged.logged[arm]);
            let target = mean(&|judged| judged.target[arm]);
            (name.clone(), logged, target)
        })
        .collect()
}

impl Evaluate {
    /// Returns the policy that is to be judged.
    fn policy(&self) -> Result<Policy, String> {
        let mut policies = Policy::USUAL.into_iter();
        let usual = policies.find(|policy| policy.as_str() == self.policy);
        let usual = usual.ok_or_else(|| {
            let names: Vec<&str> = Policy::USUAL.iter().map(|policy| policy.as_str()).collect();
            format!("--policy: {} is none of {}", self.policy, names.join(", "))
        })?;
        let mut told = Settings {
            epsilon: self.epsilon,
            learning_rate: self.learning_rate,
            exploration: self.exploration,
            share: self.share,
            discount: self.discount,
        };
        let policy = match usual {
            Policy::Fixed => usual,
            Policy::EpsilonGreedy { epsilon, discount } => Policy::EpsilonGreedy {
                epsilon: told.epsilon.take().unwrap_or(epsilon),
                discount: told.discount.take().unwrap_or(discount),
            },
            Policy::Exp3 {
                learning_rate,
                exploration,
                share,
            } => Policy::Exp3 {
                learning_rate: told.learning_rate.take().unwrap_or(learning_rate),
                exploration: told.exploration.take().unwrap_or(exploration),
                share: told.share.take().unwrap_or(share),
            },
            Policy::Thompson { discount } => Policy::Thompson {
                discount: told.discount.take().unwrap_or(discount),
            },
            Policy::Exp4 { .. } => {
                let words = "--policy: exp4 asks all arms, and what their vote would have lost \
                             cannot be told from what they lost";
                return Err(words.to_owned());
            }
        };
        match told.left() {
            None => Ok(policy),
            Some(name) => Err(format!("--{name}: {} has no such setting", self.policy)),
        }
    }
}

/// Settings that have not found their policy yet.
struct Settings {
    epsilon: Option<f64>,
    learning_rate: Option<f64>,
    exploration: Option<f64>,
    share: Option<f64>,
    discount: Option<f64>,
}

impl Settings {
    fn left(&self) -> Option<&'static str> {
        [
            ("epsilon", self.epsilon),
            ("learning-rate", self.learning_rate),
            ("exploration", self.exploration),
            ("share", self.share),
            ("discount", self.discount),
        ]
        .into_iter()
        .find_map(|(name, value)| value.map(|_| name))
    }
}

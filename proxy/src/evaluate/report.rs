use std::fmt;

use bytestring::ByteString;
use outrigger_filters::select::Policy;
use serde_json::{Value, json};

use super::{Estimate, Estimates};

/// What is told of a policy.
#[derive(Clone, Debug)]
pub struct Report {
    /// The model.
    pub model: String,
    /// The policy that is judged.
    pub policy: Policy,
    /// Choices in the logs.
    pub choices: usize,
    /// Those of which the loss is known.
    pub judged: usize,
    /// Feedback without a choice.
    pub orphans: usize,
    /// Unfinished lines, in which processes were killed.
    pub unfinished: usize,
    /// What it would have lost.
    pub estimates: Estimates,
    /// The arms, with the mean probability of the logged policy and of this one.
    pub arms: Vec<(ByteString, f64, f64)>,
}

impl Report {
    /// Returns the report in JSON.
    pub fn json(&self) -> Value {
        let estimate = |estimate: Estimate| json!({"mean_loss": estimate.mean, "interval": [estimate.interval.0, estimate.interval.1]});
        let estimates = &self.estimates;
        let arms = self.arms.iter().map(|(arm, logged, policy)| {
            let probabilities = json!({"logged": logged, "policy": policy});
            (arm.to_string(), probabilities)
        });
        json!({
            "model": self.model,
            "policy": self.policy.as_str(),
            "choices": self.choices,
            "judged": self.judged,
            "feedback_without_choice": self.orphans,
            "unfinished_lines": self.unfinished,
            "logged": estimate(estimates.logged),
            "ips": estimate(estimates.ips),
            "self_normalised": estimate(estimates.self_normalised),
            "doubly_robust": estimate(estimates.doubly_robust),
            "effective_choices": estimates.effective,
            "greatest_weight": estimates.greatest_weight,
            "not_covered": estimates.not_covered,
            "arms": arms.collect::<serde_json::Map<_, _>>(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            model,
            policy,
            choices,
            judged,
            estimates,
            ..
        } = self;
        writeln!(
            f,
            "model {model}: {choices} choices, {judged} with feedback"
        )?;
        if self.orphans > 0 {
            writeln!(
                f,
                "left out: feedback without a choice, {} times",
                self.orphans
            )?;
        }
        if self.unfinished > 0 {
            writeln!(f, "left out: unfinished lines, {}", self.unfinished)?;
        }
        writeln!(f)?;
        writeln!(f, "{:<32}{:>10}   95 % interval", "", "mean loss")?;
        let policy = policy.as_str();
        for (what, estimate) in [
            ("logged".to_owned(), estimates.logged),
            (format!("{policy}, IPS"), estimates.ips),
            (
                format!("{policy}, self-normalised"),
                estimates.self_normalised,
            ),
            (format!("{policy}, doubly robust"), estimates.doubly_robust),
        ] {
            let Estimate {
                mean,
                interval: (low, high),
            } = estimate;
            writeln!(f, "{what:<32}{mean:>10.4}   {low:.4} .. {high:.4}")?;
        }
        writeln!(f)?;
        writeln!(f, "{:<32}{:>10}{:>10}", "arm", "logged", policy)?;
        for (arm, logged, policy) in &self.arms {
            writeln!(f, "{:<32}{logged:>10.4}{policy:>10.4}", &**arm)?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "effective choices: {:.0} (greatest weight {:.1}); not covered: {:.1} %",
            estimates.effective,
            estimates.greatest_weight,
            100. * estimates.not_covered
        )?;
        if estimates.effective < FEW {
            writeln!(f, "these are too few to decide by")?;
        }
        if estimates.not_covered > 1e-3 {
            writeln!(
                f,
                "of what is not covered nothing is known: the logged policy never chose it"
            )?;
        }
        Ok(())
    }
}

/// Below as many choices, intervals are not to be believed.
const FEW: f64 = 100.;

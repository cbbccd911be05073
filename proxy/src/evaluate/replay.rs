use std::collections::HashMap;

use bytestring::ByteString;
use outrigger_filters::select::{Evidence, Selector, Shares, State};
use smallvec::{SmallVec, smallvec};

use super::read::{Choice, Feedback, Log};

/// What a policy would have done at a choice of which the loss is known.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    /// The policy's probabilities by arm.
    pub(super) target: Shares,
    /// What was asked, with what it lost: one arm with its logged probability, or all of an
    /// ensemble.
    pub(super) asked: Asked,
    /// What each arm was known to lose, before this was told.
    pub(super) expected: Shares,
    /// The logged policy's probabilities by arm.
    pub(super) logged: Shares,
}

#[derive(Clone, Debug)]
pub(super) enum Asked {
    One {
        arm: usize,
        probability: f64,
        loss: f64,
    },
    All(SmallVec<[Option<f64>; 8]>),
}

/// Sends a policy through a log: it chooses at each choice, and learns at each feedback.
#[derive(Debug)]
pub(super) struct Replay<'a> {
    log: &'a Log,
    selector: Selector,
    with_contexts: bool,
    everybody: Mind,
    contexts: HashMap<ByteString, Mind>,
}

/// What is known to the policy, and to the estimate of what arms lose.
#[derive(Clone, Debug)]
struct Mind {
    state: State,
    means: Vec<Mean>,
}

/// The mean loss of an arm, in which later ones count a little more.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    sum: f64,
    count: f64,
}

impl<'a> Replay<'a> {
    pub(super) fn new(log: &'a Log, selector: Selector, with_contexts: bool) -> Self {
        let everybody = Mind {
            state: selector.prior(),
            means: vec![Mean::default(); log.arms.len()],
        };
        Self {
            log,
            selector,
            with_contexts,
            everybody,
            contexts: HashMap::new(),
        }
    }

    /// Returns what the policy would have done where the loss is known.
    pub(super) fn run(mut self) -> Vec<Judged> {
        let log = self.log;
        let mut choices: Vec<usize> = (0..log.choices.len()).collect();
        let time = |choice: &usize| log.choices[*choice].time;
        choices.sort_by(|a, b| time(a).total_cmp(&time(b)));
        let mut feedback: Vec<&Feedback> = log.feedback.iter().collect();
        feedback.sort_by(|a, b| a.time.total_cmp(&b.time));
        let mut feedback = feedback.into_iter().peekable();

        let mut made: Vec<Option<(Shares, Shares)>> = vec![None; log.choices.len()];
        let mut told: Vec<SmallVec<[&Feedback; 1]>> = vec![smallvec![]; log.choices.len()];
        for choice in choices {
            // What is told in the same millisecond as a choice was not known to it.
            while let Some(next) = feedback.next_if(|next| next.time < time(&choice)) {
                self.learn(next);
            }
            made[choice] = Some(self.choose(&log.choices[choice]));
        }
        for feedback in &log.feedback {
            told[feedback.choice].push(feedback);
        }
        let judged = made.into_iter().zip(told).enumerate();
        judged
            .filter(|(_, (_, told))| !told.is_empty())
            .filter_map(|(choice, (made, told))| {
                let (target, expected) = made?;
                let chosen = &log.choices[choice];
                Some(Judged {
                    asked: asked(chosen, &told, log.arms.len()),
                    logged: whole(&chosen.probabilities, log.arms.len()),
                    target,
                    expected,
                })
            })
            .collect()
    }

    /// Returns the policy's probabilities, and what arms are expected to lose.
    fn choose(&self, choice: &Choice) -> (Shares, Shares) {
        let mind = self.mind(choice);
        let target = self.selector.probabilities(&mind.state, choice.available);
        let means = mind.means.iter().zip(&self.everybody.means);
        let expected = means.map(|(own, all)| own.around(all.around(0.5)));
        (target, expected.collect())
    }

    fn mind(&self, choice: &Choice) -> &Mind {
        let context = choice.context.as_ref().filter(|_| self.with_contexts);
        let own = context.and_then(|context| self.contexts.get(context));
        own.unwrap_or(&self.everybody)
    }

    fn learn(&mut self, feedback: &Feedback) {
        let choice = &self.log.choices[feedback.choice];
        let mut losses: SmallVec<[Option<f64>; 8]> = smallvec![None; self.log.arms.len()];
        for (arm, loss) in &feedback.losses {
            losses[*arm] = Some(*loss);
        }
        let evidence = match choice.arm {
            None => Evidence::Known(&losses),
            Some(arm) => Evidence::Chosen {
                arm,
                probability: choice.probabilities[arm],
                loss: losses[arm].unwrap_or_default(),
            },
        };
        if let Some(context) = choice.context.as_ref().filter(|_| self.with_contexts) {
            // A caller who is new begins with what all have taught, but for how often.
            let fresh = || Mind {
                state: self.everybody.state.clone(),
                means: vec![Mean::default(); self.log.arms.len()],
            };
            let own = self.contexts.entry(context.clone()).or_insert_with(fresh);
            own.learn(&self.selector, evidence, &losses);
        }
        self.everybody.learn(&self.selector, evidence, &losses);
    }
}

impl Mind {
    fn learn(&mut self, selector: &Selector, evidence: Evidence<'_>, losses: &[Option<f64>]) {
        selector.learn(&mut self.state, evidence);
        for (mean, loss) in self.means.iter_mut().zip(losses) {
            if let Some(loss) = loss {
                mean.sum = mean.sum * DISCOUNT + loss;
                mean.count = mean.count * DISCOUNT + 1.;
            }
        }
    }
}

impl Mean {
    /// Returns the mean, as if a few losses had been told before that are as one guesses.
    fn around(self, guess: f64) -> f64 {
        (self.sum + guess * GUESSES) / (self.count + GUESSES)
    }
}

/// Puts together what was told of one choice: the mean of its rows.
fn asked(choice: &Choice, told: &[&Feedback], arms: usize) -> Asked {
    let mut means: SmallVec<[Mean; 8]> = smallvec![Mean::default(); arms];
    for (arm, loss) in told.iter().flat_map(|feedback| &feedback.losses) {
        means[*arm].sum += loss;
        means[*arm].count += 1.;
    }
    let mean = |mean: &Mean| (mean.count > 0.).then(|| mean.sum / mean.count);
    match choice.arm {
        None => Asked::All(means.iter().map(mean).collect()),
        Some(arm) => Asked::One {
            arm,
            probability: choice.probabilities[arm],
            loss: mean(&means[arm]).unwrap_or_default(),
        },
    }
}

/// Returns probabilities by all arms: a choice knows only those that occurred before.
fn whole(probabilities: &Shares, arms: usize) -> Shares {
    let mut whole = probabilities.clone();
    whole.resize(arms, 0.);
    whole
}

/// What a loss still counts in an arm's mean after another one: some hundreds are remembered.
const DISCOUNT: f64 = 0.998;

/// Losses that are as one guesses, before the first one is told.
const GUESSES: f64 = 2.;

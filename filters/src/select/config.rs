use bytestring::ByteString;

use super::Loss;

/// Settings of the selection over the arms of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// How arms are chosen.
    pub policy: Policy,
    /// Whether all arms are asked, and their answers put together. Always so for
    /// [`Policy::Exp4`], never but for that one and [`Policy::Fixed`].
    pub ensemble: bool,
    /// By which header callers are told apart, for each of whom is learned apart.
    pub context: Option<Context>,
    /// The output that is judged; `None` for the first.
    pub label: Option<ByteString>,
    /// How far an answer is from the truth.
    pub loss: Loss,
    /// What stands for an arm of an ensemble that does not answer.
    pub missing: Missing,
    /// What an arm loses whose call failed by its own fault; `None` where nothing is learned of it.
    pub failure: Option<f64>,
    /// Whether nothing is learned for the time being.
    pub freeze: bool,
    /// Where the random choices begin; `None` for somewhere else each time.
    pub seed: Option<u64>,
}

/// What stands for an arm of an ensemble that does not answer in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missing {
    /// Nothing: the others are put together without it.
    #[default]
    LeaveOut,
    /// The mean of what it has predicted so far, where that are single numbers; where it has not
    /// answered yet, and where answers are labels or scores, nothing.
    Mean,
}

/// How arms are chosen, with what each way has to be told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Policy {
    /// By the configured weights.
    Fixed,
    /// Mostly the arm with the least mean loss.
    EpsilonGreedy {
        /// The share of choices that are made evenly among all arms.
        epsilon: f64,
        /// What a loss still counts after another one of any arm, once there are so many that
        /// they come to 1 / (1 - discount).
        discount: f64,
    },
    /// By weights that fall exponentially with the losses of the arms that were chosen.
    Exp3 {
        /// How fast weights fall: nats for each unit of loss over the probability of the choice.
        learning_rate: f64,
        /// The share of choices that are made evenly among all arms.
        exploration: f64,
        /// What the weights of all arms come to, at least, that could fall no further, beside one
        /// that has the rest. The more, the sooner one is back that was bad.
        share: f64,
    },
    /// All arms answer; their weights in the vote fall exponentially with their losses.
    Exp4 {
        /// How fast weights fall: nats for each unit of loss.
        learning_rate: f64,
        /// What the weights of all arms come to, at least, that could fall no further, beside one
        /// that has the rest. The more, the sooner one is back that was bad.
        share: f64,
    },
    /// By the probability that the arm is the best one.
    Thompson {
        /// What a loss still counts after another one of any arm, once there are so many that
        /// they come to 1 / (1 - discount).
        discount: f64,
    },
}

/// Callers who are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// The header that names them, in lower case.
    pub header: ByteString,
    /// How many are remembered in memory.
    pub max_contexts: usize,
}

/// An arm, as selection knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Arm {
    /// Its name.
    pub name: ByteString,
    /// Its share where the policy is [`Policy::Fixed`], and of the prior everywhere.
    pub weight: f64,
    /// The least probability with which it is chosen while it is up.
    pub min_probability: f64,
    /// The greatest probability with which it is chosen while others are up.
    pub max_probability: f64,
    /// The share of requests of which it gets a copy that nobody waits for; `None` for an arm that
    /// answers. One that does never answers, and nothing is learned of it.
    pub shadow: Option<f64>,
}

impl Context {
    /// Returns by which name the context of a caller is known: what its header says, or a digest
    /// where that is too long to stand in every prediction id.
    pub fn name(said: &str) -> ByteString {
        match said.len() <= LONGEST_NAME {
            true => said.into(),
            // One that cannot be made up: nobody learns for another one.
            false => blake3::hash(said.as_bytes()).to_hex().as_str().into(),
        }
    }
}

impl Policy {
    /// Returns the name that the configuration knows it by.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::EpsilonGreedy { .. } => "epsilon-greedy",
            Self::Exp3 { .. } => "exp3",
            Self::Exp4 { .. } => "exp4",
            Self::Thompson { .. } => "thompson",
        }
    }

    /// The policies of these names with their usual settings, in the order of the documentation.
    ///
    /// They were found by simulation: five arms of mean losses from 0.013 to 0.42, of which the
    /// best is lost for 5000 of 20000 requests. Faster ones lose more while nothing changes, slower
    /// ones when something does.
    pub const USUAL: [Self; 5] = [
        Self::Fixed,
        Self::EpsilonGreedy {
            epsilon: 0.02,
            discount: 0.99,
        },
        Self::Exp3 {
            learning_rate: 0.3,
            exploration: 0.01,
            share: 3e-4,
        },
        Self::Exp4 {
            learning_rate: 0.6,
            share: 0.05,
        },
        Self::Thompson { discount: 0.992 },
    ];
}

impl Missing {
    /// Both, in the order of the documentation.
    pub const ALL: [Self; 2] = [Self::LeaveOut, Self::Mean];

    /// Returns the name that the configuration knows it by.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LeaveOut => "leave-out",
            Self::Mean => "mean",
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            policy: Policy::Fixed,
            ensemble: false,
            context: None,
            label: None,
            loss: Loss::ZeroOne,
            missing: Missing::default(),
            // A failure is as bad as the worst answer.
            failure: Some(1.),
            freeze: false,
            seed: None,
        }
    }
}

impl Arm {
    /// An arm of which nothing but the name was said.
    pub fn new(name: impl Into<ByteString>) -> Self {
        Self {
            name: name.into(),
            weight: 1.,
            min_probability: 0.,
            max_probability: 1.,
            shadow: None,
        }
    }
}

/// Bytes of the longest name of a context that is kept as it is: identifiers of any kind are
/// shorter.
const LONGEST_NAME: usize = 128;

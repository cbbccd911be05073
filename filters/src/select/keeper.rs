use std::{fmt, future::Future, pin::Pin, sync::Arc};

use bytestring::ByteString;

use super::{Rule, State};

/// Where what was learned is kept for all replicas, and across their restarts.
///
/// A keeper has one state for each [`Key`](Part::context). It adds to it what replicas bring, each
/// [`Parcel`] once, and tells what it came to. How it tells one parcel from another, and what it
/// does where it knows less than the replica that asks, is what [`Pool`] does; every keeper
/// follows the same rules.
///
/// [`Pool`]: super::Pool
pub trait Keeper: fmt::Debug + Send + Sync {
    /// Brings what was learned, and asks for what others learned.
    ///
    /// Where this fails, any of what was brought may have been kept or not; the same is brought
    /// again then.
    fn exchange(&self, batch: Batch) -> BoxFuture<'_, Result<Reply, Unkept>>;
}

/// A future that may be sent to other threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What one replica has learned of one model, and what it asks for.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Whose states these are.
    pub topic: Arc<Topic>,
    /// Who learned this.
    pub replica: u64,
    /// One for each state; the first is that of all contexts together.
    pub parts: Vec<Part>,
}

/// Whose states a keeper is told of.
#[derive(Clone, Debug, PartialEq)]
pub struct Topic {
    /// The name of the model.
    pub model: ByteString,
    /// The name of the policy: what another one has learned cannot be added to this.
    pub policy: &'static str,
    /// The names of the arms, in the order of all states.
    pub arms: Box<[ByteString]>,
    /// What is done to a state after each addition.
    pub rule: Rule,
}

/// What is told and asked of one state.
#[derive(Clone, Debug)]
pub struct Part {
    /// The context; `None` for the state of all contexts.
    pub context: Option<ByteString>,
    /// The version that the replica knows.
    pub known: Version,
    /// What the keeper is to begin with if it has nothing, knows less than this, or has something
    /// that makes no sense.
    pub base: Option<Arc<Base>>,
    /// Whether all clocks are asked for, however many they are.
    pub clocks: bool,
    /// The number of the last parcel that was added before these, as far as is known.
    pub after: u64,
    /// What was learned, in the order of the numbers.
    pub parcels: Vec<Arc<Parcel>>,
}

/// A state as a keeper told it once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Base {
    /// The state.
    pub state: State,
    /// Which one it was.
    pub version: Version,
    /// The last parcel of each replica in it.
    pub clocks: Box<[(u64, u64)]>,
}

/// Which of the states that followed each other one is.
///
/// Keepers can lose what they once told, and go on from there: then as many parcels were added to
/// another state, and the last one tells them apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// How many parcels were ever added; 0 for none.
    pub count: u64,
    /// Whose the last one was.
    pub replica: u64,
    /// The number of the last one.
    pub number: u64,
}

/// Differences that are kept together or not at all.
#[derive(Clone, Debug, PartialEq)]
pub struct Parcel {
    /// Grows with each parcel of a replica.
    pub number: u64,
    /// Their sum.
    pub difference: State,
    /// By which feedback they are known; it is counted once, whoever was told of it.
    pub ids: Vec<Id>,
}

/// What one feedback is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    /// The number of the prediction.
    pub nonce: u64,
    /// The row of the prediction.
    pub row: u32,
}

/// What a keeper answers: as many parts as it was told of.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// In the order of the batch.
    pub parts: Vec<Kept>,
    /// Why some of them have no answer.
    pub failed: Option<Unkept>,
}

/// What a keeper has of one state.
#[derive(Clone, Debug, PartialEq)]
pub enum Kept {
    /// Nobody knows: there was no answer.
    Unanswered,
    /// Nothing, and no base was given.
    Missing,
    /// What the replica knows already; nothing was added.
    Same,
    /// Something that makes no sense.
    Broken,
    /// This.
    State {
        /// The state, with what was added.
        state: State,
        /// Which one it is.
        version: Version,
        /// The number of the last parcel of this replica in it; 0 for none.
        clock: u64,
        /// The last parcel of each replica in it, where they are few enough to be told each time.
        clocks: Option<Box<[(u64, u64)]>>,
        /// Which parcel was not added, nor those after it, because the keeper was told of some of its
        /// feedback before.
        repeated: Option<Repeated>,
    },
}

/// A parcel that was not added, because it repeats feedback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repeated {
    /// The number of the parcel.
    pub number: u64,
    /// The places of those of its ids that were known.
    pub ids: Vec<usize>,
}

/// A keeper could not be asked, or did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unkept(String);

impl Unkept {
    /// Says why.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for Unkept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unkept {}

#![doc = include_str!("README.md")]

mod config;
mod contexts;
mod defaults;
pub mod difference;
mod element;
pub mod ensemble;
mod error;
mod feedback;
mod future;
mod health;
mod journal;
mod keeper;
mod keys;
pub mod label;
mod learner;
mod ledger;
mod lessons;
pub mod loss;
mod means;
mod memory;
mod metrics;
mod policy;
mod pool;
mod random;
mod service;
mod shadow;
#[cfg(test)]
mod sharing_tests;
mod state;
mod surprise;
mod token;
mod told;
mod value;
mod votes;

pub use self::{
    config::{Arm, Config, Context, Missing, Policy},
    defaults::{Defaults, Like, NoDefault},
    difference::Difference,
    ensemble::Combined,
    error::{Blame, NoArm},
    feedback::{Applied, Feedback, Outcome, Rejected},
    future::ResponseFuture,
    journal::Full,
    keeper::{
        Base, Batch, BoxFuture, Id, Keeper, Kept, Parcel, Part, Repeated, Reply, Topic, Unkept,
        Version,
    },
    keys::{Keys, ShortKey},
    label::{Prediction, Predictions},
    learner::{Learner, Parts, Standing},
    ledger::{Choice, Ledger, Lesson},
    loss::Loss,
    memory::{Backlog, Learnt, Memory, View},
    metrics::{Handles, Metrics, Told},
    policy::{Rule, Selector, Shares},
    pool::Pool,
    service::{Knows, Select},
    shadow::ShadowView,
    state::{Available, Evidence, Learned, State},
    surprise::Surprise,
    token::{Chosen, Refused, Token},
    value::{Truth, Value},
};

#[cfg(test)]
mod tests;

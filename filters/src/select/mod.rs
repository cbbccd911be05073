//! Selection over the arms of a model, by what feedback has taught.

mod config;
mod contexts;
mod defaults;
pub mod difference;
mod element;
pub mod ensemble;
mod journal;
mod keeper;
mod keys;
pub mod label;
pub mod loss;
mod memory;
mod policy;
mod pool;
#[cfg(test)]
mod sharing_tests;
mod state;
mod surprise;
mod token;
mod value;

pub use self::{
    config::{Arm, Config, Context, DefaultValue, Policy},
    defaults::{Defaults, Like, NoDefault},
    difference::Difference,
    ensemble::Combined,
    journal::Full,
    keeper::{
        Base, Batch, BoxFuture, Id, Keeper, Kept, Parcel, Part, Repeated, Reply, Topic, Unkept,
        Version,
    },
    keys::{Keys, ShortKey},
    label::{Prediction, Predictions},
    loss::Loss,
    memory::{Backlog, Learnt, Memory, View},
    policy::{Rule, Selector, Shares},
    pool::Pool,
    state::{Available, Evidence, Learned, State},
    surprise::Surprise,
    token::{Chosen, Refused, Token},
    value::{Truth, Value},
};

#[cfg(test)]
mod tests;

//! Selection over the arms of a model, by what feedback has taught.

mod config;
mod contexts;
mod journal;
mod keeper;
mod keys;
mod loss;
mod memory;
mod policy;
mod pool;
#[cfg(test)]
mod sharing_tests;
mod state;
mod token;

pub use self::{
    config::{Arm, Config, Context, DefaultValue, Policy},
    journal::Full,
    keeper::{
        Base, Batch, BoxFuture, Id, Keeper, Kept, Parcel, Part, Repeated, Reply, Topic, Unkept,
        Version,
    },
    keys::{Keys, ShortKey},
    loss::Loss,
    memory::{Backlog, Learnt, Memory, View},
    policy::{Rule, Selector, Shares},
    pool::Pool,
    state::{Available, Evidence, Learned, State},
    token::{Chosen, Refused, Token},
};

//! Selection over the arms of a model, by what feedback has taught.

mod config;
mod keys;
mod loss;
mod policy;
mod state;
mod token;

pub use self::{
    config::{Arm, Config, Context, DefaultValue, Policy},
    keys::{Keys, ShortKey},
    loss::Loss,
    policy::{Rule, Selector, Shares},
    state::{Available, Evidence, Learned, State},
    token::{Chosen, Refused, Token},
};

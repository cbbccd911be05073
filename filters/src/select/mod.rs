//! Selection over the arms of a model, by what feedback has taught.

mod config;
mod loss;
mod state;

pub use self::{
    config::{Arm, Config, Context, Policy},
    loss::Loss,
    state::{Available, Evidence, Learned, State},
};

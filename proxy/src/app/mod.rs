//! The process: its parts, their order of birth, and of death.

mod proxy;
mod run;
mod state;

pub use self::{
    proxy::Proxy,
    run::{Exit, run},
    state::{NotFlushed, State},
};

#![doc = include_str!("README.md")]

mod error;
mod estimate;
mod read;
mod replay;
mod report;
mod run;
#[cfg(test)]
mod tests;

pub use self::{
    error::Error,
    estimate::{Estimate, Estimates},
    report::Report,
    run::{evaluate, run},
};

#![doc = include_str!("README.md")]

mod ask;
mod compare;
mod error;
mod finding;
mod generate;
mod input;
mod judge;
mod observe;
mod plan;
mod report;
mod run;
mod target;

pub use self::{
    error::Error,
    judge::Verdict,
    report::{Examined, Report},
    run::{examine, run},
};

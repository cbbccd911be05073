#![doc = include_str!("README.md")]

mod files;
mod line;
mod log;
mod logs;
mod queue;
mod sample;
#[cfg(test)]
mod tests;
mod writer;

pub use self::{
    log::{Chosen, Log},
    logs::Logs,
    sample::Sample,
};

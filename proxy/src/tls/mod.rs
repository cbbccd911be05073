#![doc = include_str!("README.md")]

mod acceptor;
mod check;
mod dialer;
mod fault;
mod files;
mod keeper;
mod kept;
mod material;
mod metrics;
mod opening;
mod pem;
mod role;
mod seldom;
mod validity;
mod words;

#[cfg(test)]
mod tests;

pub use self::{
    acceptor::Acceptor,
    dialer::Dialer,
    fault::{Fault, Faults},
    keeper::{Dialers, Keeper, Sets},
    metrics::Metrics,
};
pub(crate) use self::{
    check::{check_client, check_server},
    fault::Setting,
};

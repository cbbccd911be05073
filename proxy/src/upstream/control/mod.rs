//! The calls that ask servers about themselves and their models, in every protocol.

mod ask;
mod describe;
mod description;
mod learned;
mod oip_grpc;
mod oip_rest;
mod ready;
#[cfg(test)]
pub(crate) mod servers;
#[cfg(test)]
mod tests;
mod tfserving_grpc;
mod tfserving_rest;

pub(crate) use self::{
    ask::Served,
    describe::describe,
    ready::{is_ready, unready},
};
pub use self::{
    description::Description,
    learned::{Learned, NotDescribed},
};

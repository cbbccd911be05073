//! The calls that ask servers about themselves and their models, in every protocol.

mod ask;
mod describe;
mod description;
mod learned;
mod lookout;
mod oip_grpc;
mod oip_rest;
mod ready;
#[cfg(test)]
pub(crate) mod servers;
mod shown;
#[cfg(test)]
mod tests;
mod tfserving_grpc;
mod tfserving_rest;
mod trail;
mod watched;

pub(crate) use self::{
    ask::Served,
    describe::describe,
    lookout::Lookout,
    ready::{is_ready, unready},
};
pub use self::{
    description::Description,
    learned::{Learned, NotDescribed},
    watched::Watched,
};

//! Sockets that clients connect to, and the workers that serve them.

mod listener;
mod workers;

pub use self::{
    listener::Listener,
    workers::{Connections, Workers},
};

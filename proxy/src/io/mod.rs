//! What lies between a socket and its protocol.

mod cork;
mod once;
mod rewind;
mod socket;

use tokio::io::{AsyncRead, AsyncWrite};

pub use self::{
    cork::{Cork, Uncork, cork},
    once::Once,
    rewind::Rewind,
    socket::tune,
};

/// What connections run over: sockets, and pipes in tests.
pub trait Stream: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin + 'static> Stream for T {}

/// A [`Stream`] of any kind.
pub type BoxStream = Box<dyn Stream>;

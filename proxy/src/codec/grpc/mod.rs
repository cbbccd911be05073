//! What is gRPC and not yet any one service: messages in frames, times, words, metadata.

mod encoding;
mod frame;
pub mod message;
pub mod metadata;
pub mod timeout;
mod verdict;

pub use self::{
    encoding::{Encoding, Undecodable},
    frame::{Frame, FrameError, FrameReader, Front, PREFIX, frame, prefix},
    verdict::verdict,
};

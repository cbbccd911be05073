//! The calls about servers and models: just as much of their messages as is acted upon.
//!
//! What the messages say is the same over gRPC and over REST, so these types serve both.

mod config;
pub(in crate::codec) mod metadata;
mod model;
mod ready;
mod server;
mod statistics;

use std::ops::Range;

pub use self::{
    config::ModelConfig,
    metadata::{ModelMetadata, batchable},
    model::ModelRequest,
    ready::{ready, write_ready},
    server::{BINARY, ServerMetadata},
    statistics::Statistics,
};
use crate::codec::{
    Wire,
    protobuf::{Fields, Value},
};

fn each(
    message: &[u8],
    range: Range<usize>,
    mut field: impl FnMut(u32, Value) -> Result<(), Wire>,
) -> Result<(), Wire> {
    let mut fields = Fields::new(message, range);
    while let Some(found) = fields.next()? {
        field(found.number, found.value)?;
    }
    Ok(())
}

/// Tensors of a model, versions of it, or extensions of a server; each takes much more memory than
/// wire. Far above what there is.
pub(in crate::codec) const MAX_ITEMS: usize = 16_384;

/// The most dimensions of a tensor, as in requests.
pub(in crate::codec) const MAX_DIMENSIONS: usize = 64;

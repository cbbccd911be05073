//! What the demonstration needs and the sidecar does not: images and packages leave it out.

pub mod load;

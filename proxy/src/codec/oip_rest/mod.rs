//! The Open Inference Protocol over REST.

pub mod control;

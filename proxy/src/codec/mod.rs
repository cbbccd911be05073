#![doc = include_str!("README.md")]

pub mod bridge;
pub mod feedback;
pub mod grpc;
pub mod json;
pub mod oip_grpc;
pub mod oip_rest;
mod protobuf;
pub mod tfs_grpc;
pub mod tfs_rest;

pub use self::protobuf::Wire;

#![doc = include_str!("README.md")]

mod base64;
pub mod grpc;
pub mod json;
pub mod oip_grpc;
pub mod oip_rest;
mod protobuf;
pub mod tfs_grpc;

pub use self::protobuf::Wire;

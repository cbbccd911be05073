#![doc = include_str!("README.md")]

pub mod grpc;
pub mod json;
pub mod oip_grpc;
pub mod oip_rest;
mod protobuf;

pub use self::protobuf::Wire;

//! Compiles the protocol definition with a compiler written in Rust: no `protoc` is needed.

use std::error::Error;

const DEFINITION: &str = "proto/open_inference.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={DEFINITION}");
    let descriptors = protox::compile([DEFINITION], ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}

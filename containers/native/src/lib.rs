//! Model containers in Rust.

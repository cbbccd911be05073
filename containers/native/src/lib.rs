//! Model containers in Rust: an Open Inference Protocol server over gRPC with
//! [synthetic](Synthetic) models, whose latency, faults and answers are set by
//! the one who starts them, and with real [digit classifiers](digits).
//!
//! ```
//! # async fn example() -> std::io::Result<()> {
//! use outrigger_native::{Curve, Server, Synthetic};
//!
//! let model = Synthetic { curve: Curve::LINEAR_SVM, ..Synthetic::new("svm") };
//! let server = Server::builder().model(model).bind("127.0.0.1:0").await?;
//! let svm = server.handle("svm").expect("it was given to the builder");
//! println!("{} answers, {} rows so far", server.address(), svm.counters().rows);
//! server.stop().await;
//! # Ok(())
//! # }
//! ```

mod call;
mod container;
mod cork;
mod counters;
mod curve;
pub mod digits;
mod executor;
mod faults;
mod handle;
mod labour;
mod random;
mod server;
mod service;
mod signature;
mod synthetic;
mod tensor;
mod wire;

pub use container::Container;
pub use counters::{Batches, Counters};
pub use curve::{Curve, Jitter};
pub use faults::{Fault, Faults, Marker};
pub use handle::Handle;
pub use server::{Builder, Server};
pub use signature::{Shapes, TensorSpec};
pub use synthetic::{Output, Synthetic};
pub use tensor::{Datatype, Tensor};

/// The generated messages, client and server of the Open Inference Protocol.
///
/// The client works over any channel:
/// `GrpcInferenceServiceClient::new(endpoint.connect().await?)`.
#[allow(
    missing_docs,
    clippy::all,
    reason = "generated from the definition, which carries the words"
)]
pub mod inference {
    tonic::include_proto!("inference");
}

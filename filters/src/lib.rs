//! What may happen to an inference on its way: no sockets, no HTTP, no gRPC.

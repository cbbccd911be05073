//! A proxy without sockets: everything runs over pipes on the test's own runtime, whose clock may
//! stand still.

use std::{future::Future, sync::Arc};

use outrigger::{
    config::Config,
    io::BoxStream,
    server::{self, Drain},
    stack::{Router, Table},
    telemetry::Metrics,
    upstream::Connector,
};
use tokio::io::DuplexStream;

use crate::wire::Wire;

/// A proxy whose clients and servers are pipes.
#[derive(Debug)]
pub struct Memory {
    /// The table in force.
    pub table: Table,
    /// What is counted.
    pub metrics: Metrics,
    /// The end of it.
    pub drain: Drain,
    draining: server::Draining,
    connector: Connector,
    router: Router,
}

impl Memory {
    /// Starts a proxy with one upstream of HTTP/2; each connection to an endpoint is handed to
    /// the function.
    ///
    /// # Panics
    ///
    /// When the configuration is faulty.
    pub fn start<F>(
        endpoints: &[&str],
        rest: &str,
        serve: impl Fn(String, DuplexStream) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let connector = Connector::new(move |authority| {
            let (near, far) = tokio::io::duplex(PIPE);
            tokio::spawn(serve(authority.to_string(), far));
            async move { Ok(Box::new(near) as BoxStream) }
        });
        Self::over(connector, endpoints, rest)
    }

    /// Starts a proxy that connects in a way of the test's own.
    ///
    /// # Panics
    ///
    /// When the configuration is faulty.
    pub fn over(connector: Connector, endpoints: &[&str], rest: &str) -> Self {
        let metrics = Metrics::new();
        let table = Table::build(config(endpoints, rest), None, &metrics, &connector);
        let router = Router::new(table.routes()[0].clone());
        let (drain, draining) = Drain::new();
        Self {
            table,
            metrics,
            drain,
            draining,
            connector,
            router,
        }
    }

    /// Goes over to another configuration.
    ///
    /// # Panics
    ///
    /// When the configuration is faulty.
    pub fn reload(&mut self, endpoints: &[&str], rest: &str) {
        let config = config(endpoints, rest);
        self.table = Table::build(config, Some(&self.table), &self.metrics, &self.connector);
        self.router.publish(self.table.routes()[0].clone());
    }

    /// Connects a client over a pipe.
    pub fn pipe(&self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(PIPE);
        tokio::spawn(server::serve(
            far,
            self.router.clone(),
            self.draining.clone(),
        ));
        near
    }

    /// Connects a client of HTTP/2.
    pub async fn wire(&self) -> Wire {
        Wire::over(self.pipe()).await
    }

    /// Lets go of everything but the drain, which ends with the last connection.
    pub fn into_drain(self) -> (Drain, Arc<Table>) {
        (self.drain, Arc::new(self.table))
    }
}

fn config(endpoints: &[&str], rest: &str) -> Config {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|endpoint| format!("\"http://{endpoint}\""))
        .collect();
    let text = format!(
        "listeners: [{{ address: \"127.0.0.1:0\", upstream: server }}]\n\
         upstreams: {{ server: {{ protocol: oip-grpc, endpoints: [{}] }} }}\n\
         {rest}\n",
        endpoints.join(", ")
    );
    Config::read(&text).unwrap_or_else(|faults| panic!("{faults}\n{text}"))
}

/// What a pipe holds: about what a socket's buffers do.
const PIPE: usize = 64 << 10;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgGroup, Args};

use crate::config::{Config, Endpoint, Faults, Protocol, Source};

/// Arguments of `run`: a file, or one listener in front of one server.
#[derive(Args, Clone, Debug)]
#[command(group = ArgGroup::new("source").args(["config", "listen"]).required(true))]
pub struct Run {
    /// The configuration; reloaded when it changes.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where clients come in, without a file: an IP address and a port.
    #[arg(
        long,
        value_name = "ADDR",
        requires = "upstream",
        conflicts_with = "config"
    )]
    pub listen: Option<SocketAddr>,
    /// The server behind, without a file: http://host:port, or https://host.
    #[arg(
        long,
        value_name = "URL",
        requires = "listen",
        conflicts_with = "config"
    )]
    pub upstream: Option<Endpoint>,
    /// What the server speaks: oip-grpc, oip-rest, tfserving-grpc or tfserving-rest.
    #[arg(
        long,
        value_name = "P",
        requires = "listen",
        conflicts_with = "config",
        default_value_t = Protocol::OipGrpc
    )]
    pub protocol: Protocol,
    /// Where /live, /ready and /metrics are; goes before what the file says.
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<SocketAddr>,
}

impl Run {
    /// Where the configuration comes from.
    ///
    /// # Errors
    /// The flags do not fit together.
    pub fn source(self) -> Result<Source, Faults> {
        match (self.config, self.listen, self.upstream) {
            (None, Some(listen), Some(upstream)) => {
                Config::drop_in(listen, upstream, self.protocol, self.admin)
                    .map(|config| Source::Flags(Box::new(config)))
            }
            (config, _, _) => {
                // Without a file there is a listener and an upstream: clap sees to it.
                let path = config.unwrap_or_default();
                Ok(Source::File {
                    path,
                    admin: self.admin,
                })
            }
        }
    }
}

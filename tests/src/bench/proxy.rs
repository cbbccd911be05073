//! Outrigger under way, before one model server or several replicas of one.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::Result;
use super::process::{Process, beside, free_address};
use super::usage::Usage;

/// A process of Outrigger; it ends when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    /// Where it takes calls.
    pub address: SocketAddr,
    /// Where it shows its pages.
    pub admin: SocketAddr,
    process: Process,
}

impl Proxy {
    /// Starts it with these models, and waits until it listens. Its configuration and its log are
    /// files of `folder` with this name.
    pub fn start(
        name: &str,
        program: Option<PathBuf>,
        folder: &Path,
        endpoints: &[SocketAddr],
        models: &str,
    ) -> Result<Self> {
        let (address, admin) = (free_address()?, free_address()?);
        let file = folder.join(format!("{name}.yaml"));
        std::fs::write(&file, configuration(address, admin, endpoints, models))?;
        let arguments = ["run".as_ref(), "--config".as_ref(), file.as_os_str()];
        let program = beside(program, "outrigger")?;
        let mut process = Process::start(name, None, folder, program, arguments)?;
        process.wait_for(address)?;
        Ok(Self {
            address,
            admin,
            process,
        })
    }

    /// The number of its process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it has used so far.
    pub fn usage(&self) -> Result<Usage> {
        self.process.usage()
    }
}

/// Makes a configuration with one listener, one upstream, and these models.
pub fn configuration(
    listen: SocketAddr,
    admin: SocketAddr,
    endpoints: &[SocketAddr],
    models: &str,
) -> String {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|endpoint| format!("\"http://{endpoint}\""))
        .collect();
    let endpoints = endpoints.join(", ");
    format!(
        "listeners:
  - address: {listen}
    upstream: model
admin: {{ address: {admin} }}
upstreams:
  model: {{ protocol: oip-grpc, endpoints: [{endpoints}] }}
{models}"
    )
}

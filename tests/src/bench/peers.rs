//! The proxies that are compared, each tuned to what it can do on one core.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::Result;
use super::process::{Process, beside, free_address, installed};
use super::proxy::configuration;

/// Who stands between the load and the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Peer {
    /// Nobody.
    Direct,
    /// nginx with `grpc_pass`.
    Nginx,
    /// HAProxy with HTTP/2 on both sides.
    Haproxy,
    /// Ourselves.
    Outrigger,
}

/// A peer under way.
#[derive(Debug)]
pub struct Started {
    /// Who it is.
    pub peer: Peer,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its process; nothing for [`Peer::Direct`].
    pub process: Option<Process>,
}

impl Peer {
    /// All, in the order of the tables.
    pub const ALL: [Self; 4] = [Self::Direct, Self::Nginx, Self::Haproxy, Self::Outrigger];

    /// The name in tables and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Outrigger => "outrigger",
        }
    }

    /// Starts it on one core before the upstream, and waits until it listens.
    pub fn start(
        self,
        core: Option<usize>,
        upstream: SocketAddr,
        folder: &Path,
        outrigger: Option<PathBuf>,
    ) -> Result<Started> {
        let address = free_address()?;
        let configuration = folder.join(format!("{}.conf", self.name()));
        let file = configuration.display().to_string();
        let (program, arguments, text) = match self {
            Self::Direct => {
                return Ok(Started {
                    peer: self,
                    address: upstream,
                    process: None,
                });
            }
            Self::Nginx => {
                installed("nginx", "nginx")?;
                let arguments = vec!["-c".into(), file, "-p".into(), folder.display().to_string()];
                ("nginx".into(), arguments, nginx(address, upstream, folder))
            }
            Self::Haproxy => {
                installed("haproxy", "haproxy")?;
                (
                    "haproxy".into(),
                    vec!["-db".into(), "-f".into(), file],
                    haproxy(address, upstream),
                )
            }
            Self::Outrigger => {
                let program = beside(outrigger, "outrigger")?;
                let arguments = vec!["run".into(), "--config".into(), file];
                (
                    program,
                    arguments,
                    outrigger_passing(address, free_address()?, upstream),
                )
            }
        };
        std::fs::write(&configuration, text)?;
        let mut process = Process::start(self.name(), core, folder, program, arguments)?;
        process.wait_for(address)?;
        Ok(Started {
            peer: self,
            address,
            process: Some(process),
        })
    }
}

fn nginx(listen: SocketAddr, upstream: SocketAddr, folder: &Path) -> String {
    let folder = folder.display();
    // Started by root, its worker would not be allowed to enter the folder as another user.
    let user = if std::env::var_os("USER").is_none_or(|user| user == "root") {
        "user root;"
    } else {
        ""
    };
    format!(
        "daemon off;
worker_processes 1;
{user}
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log warn;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/nginx-body;
    proxy_temp_path {folder}/nginx-proxy;
    fastcgi_temp_path {folder}/nginx-fastcgi;
    uwsgi_temp_path {folder}/nginx-uwsgi;
    scgi_temp_path {folder}/nginx-scgi;
    http2_max_concurrent_streams 1024;
    keepalive_requests 1000000000;
    client_max_body_size 0;
    upstream model {{
        server {upstream};
        keepalive 1024;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {listen} http2;
        location / {{ grpc_pass grpc://model; grpc_socket_keepalive on; }}
    }}
}}
"
    )
}

fn haproxy(listen: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        "global
    nbthread 1
    maxconn 8192
    tune.h2.max-concurrent-streams 1024
    tune.h2.initial-window-size 1048576
defaults
    mode http
    http-reuse always
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend calls
    bind {listen} proto h2
    default_backend model
backend model
    http-reuse always
    server model {upstream} proto h2 max-reuse -1 pool-max-conn -1
"
    )
}

/// Passes everything through, with metrics on.
fn outrigger_passing(listen: SocketAddr, admin: SocketAddr, upstream: SocketAddr) -> String {
    configuration(listen, admin, &[upstream], "")
}

#![doc = include_str!("README.md")]

mod changes;
mod configuration;
mod document;
mod endpoint;
mod fault;
mod feedback;
mod file;
mod leaf;
mod limits;
mod listener;
mod model;
mod name;
mod read;
mod redis;
mod resolve;
mod secret;
mod source;
mod state;
#[cfg(test)]
mod tests;
mod tls;
mod units;
mod upstream;
mod watch;

pub(crate) use self::changes::Changes;
pub use self::configuration::{Config, schema};
pub use self::endpoint::Endpoint;
pub use self::fault::{Fault, Faults, Position};
pub use self::feedback::Feedback;
pub use self::limits::{Limits, Telemetry};
pub use self::listener::{Admin, Listener};
pub use self::model::{Arm, Deadline, Model, SelectionLog};
pub use self::name::Name;
pub use self::redis::{RedisNode, RedisServers, RedisUrl};
pub use self::secret::{Secret, mask};
pub use self::source::{Error, Source};
pub use self::state::{Redis, State};
pub use self::tls::{ClientAuth, ClientTls, Identity, ServerTls};
pub use self::units::{format_duration, format_size, parse_duration, parse_size};
pub use self::upstream::{HttpVersion, Protocol, Upstream};
pub use self::watch::Watch;

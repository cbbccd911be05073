use std::net::IpAddr;

use smallvec::SmallVec;

use crate::upstream::Upstream;

/// The machines that an upstream's endpoints are on.
///
/// A server has a port for each protocol, and so several upstreams: a load that goes to port 8000
/// changes what is answered on port 8001. Which ports belong to one process nobody says, so all that
/// are on one machine are taken for one: for a sidecar this is right nearly always, and where it is
/// not, a cache is flushed that need not be. Names are compared as they stand: two names of one
/// machine are two machines, except for those that always mean this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hosts(SmallVec<[Host; 1]>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    /// This machine, by any of its loopback addresses.
    Own,
    Address(IpAddr),
    Name(Box<str>),
}

impl Hosts {
    /// Returns the hosts of an upstream.
    pub(super) fn of(upstream: &Upstream) -> Self {
        let hosts = upstream.endpoints().iter();
        Self(
            hosts
                .map(|endpoint| Host::of(endpoint.authority().host()))
                .collect(),
        )
    }

    /// Tells whether one host at least is among the others.
    pub(super) fn meet(&self, others: &Self) -> bool {
        self.0.iter().any(|host| others.0.contains(host))
    }
}

impl Host {
    fn of(host: &str) -> Self {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        match bare.parse::<IpAddr>().map(|address| address.to_canonical()) {
            // Connecting to no address in particular is connecting to this machine.
            Ok(address) if address.is_loopback() || address.is_unspecified() => Self::Own,
            Ok(address) => Self::Address(address),
            Err(_) => {
                let name = bare.trim_end_matches('.').to_ascii_lowercase();
                match name.as_str() {
                    "localhost" => Self::Own,
                    name if name.ends_with(".localhost") => Self::Own,
                    _ => Self::Name(name.into()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_this_machine_are_one() {
        for host in [
            "localhost",
            "LOCALHOST",
            "127.0.0.1",
            "127.8.9.10",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "0.0.0.0",
            "[::]",
            "triton.localhost",
        ] {
            assert_eq!(Host::of(host), Host::Own, "{host}");
        }
    }

    #[test]
    fn other_machines_are_known_by_name_or_address() {
        assert_eq!(Host::of("Triton.Models."), Host::of("triton.models"));
        assert_eq!(Host::of("[2001:DB8::1]"), Host::of("[2001:db8:0::1]"));
        assert_eq!(Host::of("10.0.0.1"), Host::of("[::ffff:10.0.0.1]"));
        assert_ne!(Host::of("10.0.0.1"), Host::of("10.0.0.2"));
        assert_ne!(Host::of("triton"), Host::of("triton.models"));
        assert_ne!(Host::of("triton"), Host::Own);
    }
}

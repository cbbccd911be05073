use std::fmt;
use std::str::FromStr;

use http::uri::{Authority, Scheme};

/// Where a server listens: `http://host:port` or `https://host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    tls: bool,
    authority: Authority,
    port: u16,
}

impl Endpoint {
    /// Whether TLS is spoken.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The scheme of its URLs.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        match self.tls {
            true => Scheme::HTTPS,
            false => Scheme::HTTP,
        }
    }

    /// The host and port as written, for `:authority` and `host`.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The name or address to connect to; an IPv6 address without its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
    }

    /// The port to connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = "needs a URL like http://127.0.0.1:8001";
        let (scheme, rest) = text.split_once("://").ok_or(wanted)?;
        let tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return Err(format!("{wanted}; the scheme must be http or https")),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains('@') {
            return Err(format!(
                "{wanted}; a user or password is not sent to an upstream"
            ));
        }
        if authority.contains(['/', '?', '#']) {
            return Err(format!("{wanted}; the path comes from the request"));
        }
        let authority: Authority = authority.parse().map_err(|_| wanted)?;
        let port = match authority.port_u16() {
            // A port that is written and is none is not left out.
            None if tls && authority.as_str() == authority.host() => Some(HTTPS),
            port => port.filter(|port| *port != 0),
        };
        match port {
            _ if authority.host().is_empty() => Err(format!("{wanted}; the host is missing")),
            None => Err(format!("{wanted}; the port is missing")),
            Some(port) => Ok(Self {
                tls,
                authority,
                port,
            }),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme(), self.authority)
    }
}

/// The port of `https://` where none is written.
const HTTPS: u16 = 443;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        for (text, host, port) in [
            ("http://127.0.0.1:8001", "127.0.0.1", 8001),
            ("http://triton.models.svc:8001/", "triton.models.svc", 8001),
            ("http://[::1]:80", "::1", 80),
            ("https://triton.models.svc:8001", "triton.models.svc", 8001),
            ("https://triton.models.svc", "triton.models.svc", 443),
            ("https://[::1]/", "::1", 443),
        ] {
            let endpoint: Endpoint = text.parse().expect("an endpoint");
            assert_eq!((endpoint.host(), endpoint.port()), (host, port));
            assert_eq!(endpoint.to_string(), text.trim_end_matches('/'));
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for text in [
            "",
            "127.0.0.1:8001",
            "grpc://127.0.0.1:8001",
            "https://",
            "https://host:",
            "https://host:0",
            "https://host:99999",
            "http://",
            "http://host",
            "http://host:",
            "http://:8001",
            "http://host:0",
            "http://host:99999",
            "http://host:8001/v2",
            "http://me:secret@host:8001",
            "http://ho st:8001",
            "http://::1:8001",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}

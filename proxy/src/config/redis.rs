use std::fmt;
use std::str::FromStr;

use http::uri::Authority;

use super::Secret;
use super::secret::MASK;

/// Where Redis is, and who asks.
///
/// Shown without its password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisUrl {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// The user; left out, the default one.
    pub user: Option<String>,
    /// The password, if the URL has one.
    pub password: Option<Secret>,
    /// The servers.
    pub servers: RedisServers,
}

/// The servers of a Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisServers {
    /// One server.
    Single {
        /// Where it listens.
        node: RedisNode,
        /// The number of the database.
        database: u32,
    },
    /// The server that sentinels name.
    Sentinel {
        /// The sentinels, at least one.
        nodes: Vec<RedisNode>,
        /// The name that they know the server by.
        master: String,
        /// The number of the database.
        database: u32,
    },
    /// A cluster.
    Cluster {
        /// Servers that know the others, at least one.
        nodes: Vec<RedisNode>,
    },
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisNode {
    /// The name or address, an IPv6 address without its brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl RedisNode {
    fn parse(text: &str, default: u16) -> Result<Self, String> {
        let authority: Authority = match text {
            "" => return Err("the host is missing".to_owned()),
            text => text.parse().map_err(|_| "a host is none".to_owned())?,
        };
        let host = authority.host();
        let port = match authority.port_u16() {
            // A port that is written and is none is not left out.
            None if authority.as_str() == host => default,
            Some(port) if port != 0 => port,
            _ => return Err("a port is none".to_owned()),
        };
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        match bare.unwrap_or(host) {
            "" => Err("the host is missing".to_owned()),
            host => Ok(Self {
                host: host.to_owned(),
                port,
            }),
        }
    }
}

impl FromStr for RedisUrl {
    type Err = String;

    /// Nothing of the text is in what is said of it: it may hold a password.
    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or("the scheme is missing")?;
        let (base, kind) = match scheme.split_once('+') {
            Some((base, kind)) => (base, Some(kind)),
            None => (scheme, None),
        };
        let tls = match base {
            "redis" => false,
            "rediss" => true,
            _ => return Err(SCHEMES.to_owned()),
        };
        if rest.contains(['?', '#']) {
            return Err(format!("it has neither `?` nor `#`; {ESCAPED}"));
        }
        let (authority, path) = match rest.split_once('/') {
            Some((authority, path)) => (authority, Some(path)),
            None => (rest, None),
        };
        if path.is_some_and(|path| path.contains('@')) {
            return Err(ESCAPED.to_owned());
        }
        let (user, password, hosts) = match authority.rsplit_once('@') {
            None => (None, None, authority),
            Some((who, hosts)) => {
                let (user, password) = match who.split_once(':') {
                    None => (who, None),
                    Some((user, password)) => (user, Some(password)),
                };
                (
                    named(user)?,
                    password.map(named).transpose()?.flatten(),
                    hosts,
                )
            }
        };
        let nodes = |default| {
            let mut nodes: Vec<RedisNode> = Vec::new();
            for host in hosts.split(',') {
                let node = RedisNode::parse(host, default)?;
                if nodes.contains(&node) {
                    return Err("a server is named twice".to_owned());
                }
                nodes.push(node);
            }
            Ok(nodes)
        };
        let servers = match kind {
            None => {
                let database = database(path)?;
                match <[RedisNode; 1]>::try_from(nodes(PORT)?) {
                    Ok([node]) => RedisServers::Single { node, database },
                    Err(_) => {
                        let message =
                            "several servers are for `redis+sentinel` and `redis+cluster`";
                        return Err(message.to_owned());
                    }
                }
            }
            Some("sentinel") => {
                let path = path.unwrap_or_default();
                let (master, path) = match path.split_once('/') {
                    Some((master, path)) => (master, Some(path)),
                    None => (path, None),
                };
                RedisServers::Sentinel {
                    nodes: nodes(SENTINEL)?,
                    master: named(master)?.ok_or("the name of the master is missing")?,
                    database: database(path)?,
                }
            }
            Some("cluster") => {
                if database(path)? != 0 {
                    return Err("a cluster has no databases".to_owned());
                }
                RedisServers::Cluster {
                    nodes: nodes(PORT)?,
                }
            }
            Some(_) => return Err(SCHEMES.to_owned()),
        };
        Ok(Self {
            tls,
            user,
            password: password.map(Secret::new),
            servers,
        })
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "rediss" } else { "redis" })?;
        let nodes = match &self.servers {
            RedisServers::Single { node, .. } => std::slice::from_ref(node),
            RedisServers::Sentinel { nodes, .. } => {
                f.write_str("+sentinel")?;
                nodes
            }
            RedisServers::Cluster { nodes } => {
                f.write_str("+cluster")?;
                nodes
            }
        };
        f.write_str("://")?;
        if let Some(user) = &self.user {
            escaped(user, f)?;
        }
        if self.password.is_some() {
            write!(f, ":{MASK}")?;
        }
        if self.user.is_some() || self.password.is_some() {
            f.write_str("@")?;
        }
        for (index, node) in nodes.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{node}")?;
        }
        match &self.servers {
            RedisServers::Single { database, .. } => write!(f, "/{database}"),
            RedisServers::Sentinel {
                master, database, ..
            } => {
                f.write_str("/")?;
                escaped(master, f)?;
                write!(f, "/{database}")
            }
            RedisServers::Cluster { .. } => Ok(()),
        }
    }
}

impl fmt::Display for RedisNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// The number of a database, 0 where none is written.
fn database(path: Option<&str>) -> Result<u32, String> {
    let path = path.unwrap_or_default();
    let path = path.strip_suffix('/').unwrap_or(path);
    match path {
        "" => Ok(0),
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse(),
        _ => return Err("the database is a number".to_owned()),
    }
    .map_err(|_| "the number of the database is too large".to_owned())
}

/// A text that is perhaps empty, with its `%40` and the like put back.
fn named(text: &str) -> Result<Option<String>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let high = digit();
                let value = high.zip(digit()).map(|(high, low)| 16 * high + low);
                let value = value.and_then(|value| u8::try_from(value).ok());
                value.ok_or_else(|| ESCAPED.to_owned())?
            }
            byte => byte,
        });
    }
    let text = String::from_utf8(bytes).map_err(|_| ESCAPED.to_owned())?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// Writes a text so that [`named`] gives it back.
fn escaped(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' => {
                write!(f, "{}", char::from(byte))?;
            }
            byte => write!(f, "%{byte:02X}")?,
        }
    }
    Ok(())
}

/// The port of Redis where none is written.
const PORT: u16 = 6379;
/// The port of a sentinel where none is written.
const SENTINEL: u16 = 26379;
const SCHEMES: &str = "the scheme must be redis, redis+sentinel, redis+cluster, or with TLS \
                       rediss, rediss+sentinel, rediss+cluster";
const ESCAPED: &str = "what is no letter or figure of a user or password is written as in `%40`";

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: &str, port: u16) -> RedisNode {
        RedisNode {
            host: host.to_owned(),
            port,
        }
    }

    #[test]
    fn one_server_sentinels_and_a_cluster_are_told_apart() {
        let single = |host, port, database| RedisServers::Single {
            node: node(host, port),
            database,
        };
        for (text, tls, servers, shown) in [
            (
                "redis://127.0.0.1",
                false,
                single("127.0.0.1", 6379, 0),
                "redis://127.0.0.1:6379/0",
            ),
            (
                "rediss://[::1]:1/7",
                true,
                single("::1", 1, 7),
                "rediss://[::1]:1/7",
            ),
            (
                "redis+sentinel://a,b:7/mymaster/2",
                false,
                RedisServers::Sentinel {
                    nodes: vec![node("a", 26379), node("b", 7)],
                    master: "mymaster".to_owned(),
                    database: 2,
                },
                "redis+sentinel://a:26379,b:7/mymaster/2",
            ),
            (
                "rediss+cluster://a,b:7/",
                true,
                RedisServers::Cluster {
                    nodes: vec![node("a", 6379), node("b", 7)],
                },
                "rediss+cluster://a:6379,b:7",
            ),
        ] {
            let url: RedisUrl = text.parse().expect(text);
            assert_eq!((url.tls, &url.servers), (tls, &servers), "{text}");
            assert_eq!(url.to_string(), shown);
            assert_eq!(shown.parse(), Ok(url));
        }
    }

    #[test]
    fn who_asks_is_read_and_the_password_is_not_shown() {
        for (text, user, password, shown) in [
            (
                "redis://me:se%40%2Fm@h",
                Some("me"),
                Some("se@/m"),
                "redis://me:***@h:6379/0",
            ),
            ("redis://:p:q@h", None, Some("p:q"), "redis://:***@h:6379/0"),
            (
                "redis://m%20e@h",
                Some("m e"),
                None,
                "redis://m%20e@h:6379/0",
            ),
            ("redis://:@h", None, None, "redis://h:6379/0"),
        ] {
            let url: RedisUrl = text.parse().expect(text);
            assert_eq!(url.user.as_deref(), user);
            assert_eq!(url.password.as_ref().map(Secret::reveal), password);
            assert_eq!(url.to_string(), shown);
            assert!(!format!("{url:?}").contains("se@"), "{url:?}");
        }
    }

    #[test]
    fn what_is_no_url_of_redis_is_refused_without_its_password() {
        for text in [
            "",
            "redis",
            "http://:zygote@h",
            "redis+tls://:zygote@h",
            "redis://",
            "redis://:zygote@",
            "redis://:zygote@a,b",
            "redis://:zygote@h:0",
            "redis://:zygote@h:99999",
            "redis://:zygote@h:",
            "redis://:zygote@h/x",
            "redis://:zygote@h/99999999999",
            "redis://:zygote@h/0?db=1",
            "redis://:zyg#ote@h",
            "redis://:zyg/ote@h",
            "redis://:zygote%4@h",
            "redis://:zygote%ff@h",
            "redis://:zygote@h h",
            "redis+sentinel://:zygote@a",
            "redis+sentinel://:zygote@a,a/m",
            "redis+cluster://:zygote@a/1",
            "redis+cluster://:zygote@a,,b",
        ] {
            let why = text.parse::<RedisUrl>().expect_err(text);
            assert!(!why.contains("zyg"), "{why}");
        }
    }
}
